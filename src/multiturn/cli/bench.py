"""``multiturn bench``: what training costs here, side by side with other ways."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multiturn.cli import options
from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from multiturn.bench import Bench, Workload

__all__ = ["bench"]


def bench(
    context: typer.Context,
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
    precision: options.Precision = "auto",
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
    timeout: Annotated[
        float, typer.Option(min=1.0, help="Seconds for one run; a variant that takes longer has failed.")
    ] = 7200.0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write OUTPUT.json and OUTPUT.md as well, after each round."),
    ] = None,
) -> None:
    """Measure training: this engine, its parts switched off in turn, the classic way, and TRL if installed.

    Every variant trains on the same pairs with the same model, in a process of its own, in turns. The table
    gives medians, and this engine's speed and memory against each. Ctrl-C shows the rounds that were
    finished.

    Example: `multiturn bench --workload one-against-four --rounds 3 --output bench`
    """
    import dataclasses

    from multiturn.bench import (
        USUAL,
        VARIANTS,
        generate,
        installed_variants,
        markdown,
        measure,
        require_figures,
        write_figures,
    )

    if pairs is not None and workloads:
        raise ConfigError("--pairs takes the place of --workload; give one of them")
    if pairs is None:
        options.refuse_given(context, ("count", "chat_template"), without="--pairs")
    if output is not None and not output.name:
        raise ConfigError(f"--output {output}: is a folder; give the beginning of a file's name")
    if variants is None:
        variants = installed_variants()
        if len(variants) < len(VARIANTS):
            typer.echo("TRL is not installed, so it is not measured (pip install trl datasets).", err=True)
    if pairs is not None:
        chosen = [_own(pairs, count, model, chat_template)]
    else:
        chosen = [generate(name) for name in dict.fromkeys(workloads or USUAL)]
    if max_tokens is not None:
        chosen = [dataclasses.replace(workload, max_tokens=max_tokens) for workload in chosen]
    finished: Bench | None = None

    def keep(so_far: "Bench") -> None:
        nonlocal finished
        finished = so_far
        if output is not None:
            write_figures(so_far, output)

    try:
        figures = measure(
            chosen,
            variants,
            model=model,
            precision=precision,
            rounds=rounds,
            steps=steps,
            threads=threads,
            gradient_checkpointing=gradient_checkpointing,
            timeout=timeout,
            on_round=keep,
        )
    finally:  # an interruption, too
        if finished is not None:
            typer.echo(markdown(finished))
    require_figures(figures)


def _own(path: Path, count: int, model: str, chat_template: str) -> "Workload":
    """The first pairs of a file, as the model's template writes them."""
    from multiturn.bench import from_pairs
    from multiturn.bench.worker import RANDOM_MODELS
    from multiturn.jsonl import read_pairs
    from multiturn.models import ModelSpec, load_tokenizer
    from multiturn.models.load import DEFAULT_MODEL
    from multiturn.tokens import Renderer
    from multiturn.training import render_pairs

    name = DEFAULT_MODEL if model in RANDOM_MODELS else model
    renderer = Renderer(load_tokenizer(ModelSpec(name=name)), chat_template=chat_template)
    return from_pairs(path.stem, render_pairs(read_pairs(path)[:count], renderer).rows)
