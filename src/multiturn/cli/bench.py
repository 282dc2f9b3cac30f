"""``multiturn bench``: what training costs here, side by side with other ways."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multiturn.cli import options

if TYPE_CHECKING:
    from multiturn.bench import Workload

__all__ = ["bench"]


def bench(
    workloads: Annotated[
        list[str] | None,
        typer.Option(
            "--workload",
            "-w",
            help="short, long, one-against-four (these without it), long-8k, long-16k. Repeatable.",
        ),
    ] = None,
    *,
    pairs: Annotated[
        Path | None, typer.Option(help="Measure on these pairs instead (JSONL); see --count.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many of the pairs make an optimizer step.")] = 16,
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="What to measure; may be given often. Everything.")
    ] = None,
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="As for train, or random-0.5b, random-1.5b (random weights)."),
    ] = "smollm2-135m-instruct",
    chat_template: options.Template = "model",
    precision: options.Precision = "bf16",
    rounds: Annotated[int, typer.Option(min=1, help="How often everything is run.")] = 3,
    steps: Annotated[
        int, typer.Option(min=1, help="Optimizer steps timed in a run, after one that is not.")
    ] = 2,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a pass at most; the workload's own without it.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Trade time for memory, in every variant.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write OUTPUT.json and OUTPUT.md as well.")
    ] = None,
) -> None:
    """Measure training: this engine, its parts switched off in turn, the classic way, and TRL if installed.

    Every variant trains on the same pairs with the same model, in a process of its own, in turns. The table
    gives medians, and this engine's speed and memory against each.

    Example: `multiturn bench --workload one-against-four --rounds 3 --output bench`
    """
    import dataclasses

    from multiturn.bench import USUAL, VARIANTS, generate, markdown, measure, require_figures
    from multiturn.files import whole_file

    if pairs is not None:
        chosen = [_own(pairs, count, model, chat_template)]
    else:
        chosen = [
            generate(name, vocabulary=512 if model == "random-tiny" else 32000) for name in workloads or USUAL
        ]
    if max_tokens is not None:
        chosen = [dataclasses.replace(workload, max_tokens=max_tokens) for workload in chosen]
    result = measure(
        chosen,
        variants or _installed(list(VARIANTS)),
        model=model,
        precision=precision,
        rounds=rounds,
        steps=steps,
        threads=threads,
        gradient_checkpointing=gradient_checkpointing,
    )
    require_figures(result)
    table = markdown(result)
    if output is not None:
        with whole_file(output.with_name(f"{output.name}.json")) as file:
            json.dump(result.to_json(), file, indent=1)
        with whole_file(output.with_name(f"{output.name}.md")) as file:
            file.write(table)
    typer.echo(table)


def _installed(variants: list[str]) -> list[str]:
    """Those that can run here: TRL's only where it is installed."""
    import importlib.util

    from multiturn.bench import VARIANTS

    trl = importlib.util.find_spec("trl") is not None
    if not trl:
        typer.echo("TRL is not installed, so it is not measured (pip install trl datasets).", err=True)
    return [name for name in variants if trl or VARIANTS[name].engine != "trl"]


def _own(path: Path, count: int, model: str, chat_template: str) -> "Workload":
    """The first pairs of a file, as the model's template writes them."""
    from multiturn.bench import from_pairs
    from multiturn.bench.worker import RANDOM_MODELS
    from multiturn.jsonl import read_pairs
    from multiturn.models import load_policy
    from multiturn.models.load import DEFAULT_MODEL
    from multiturn.tokens import Renderer
    from multiturn.training import render_pairs

    name = DEFAULT_MODEL if model in RANDOM_MODELS else model
    rows = render_pairs(read_pairs(path), Renderer(load_policy(name).tokenizer, chat_template=chat_template))
    return from_pairs(path.stem, rows.rows[:count])
