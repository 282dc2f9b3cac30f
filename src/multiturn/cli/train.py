"""``multiturn train``: preference training on pairs."""

from pathlib import Path
from typing import Annotated

import typer

from multiturn.cli import options, reading
from multiturn.pipeline.objectives import OBJECTIVES

__all__ = ["train"]

_OBJECTIVES = "\n".join(
    [
        "What is trained:",
        *(f"- {name}: {line}" for name, line in OBJECTIVES.items()),
        "- MODULE:NAME: one of your own, see `docs/method.md`",
    ]
)


def train(  # noqa: PLR0913 - an argument for each option
    pairs: Annotated[Path, typer.Argument(help="Pairs in any format: `docs/data.md`.")],
    *,
    model: options.Model,
    output: options.Output,
    objective: Annotated[str, typer.Option(help=_OBJECTIVES)] = "dmpo",
    beta: Annotated[float | None, typer.Option(help="Strength of the constraint to the reference.")] = None,
    gamma: Annotated[
        float | None, typer.Option(help="Discount of a turn in [0, 1], for the weightings that have one.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The peak learning rate.")] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="cached (computed once, kept on disk; the default), live (a second model at every step) or "
            "adapter-off (the policy without its adapter; needs --set lora.rank=...)."
        ),
    ] = None,
    reference_cache: Annotated[
        Path | None,
        typer.Option(help="The cache's folder, for trainings to share. OUTPUT/reference without it."),
    ] = None,
    max_tokens_per_batch: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of a forward pass at most; shared prefixes count once."),
    ] = None,
    report_to: options.ReportTo = None,
    chat_template: options.Template = "model",
    precision: options.Precision = "auto",
    given_format: reading.Source = None,
    skip_bad: reading.SkipBad = False,
    dataset_split: reading.DatasetSplit = None,
    seed: options.Seed = 0,
    overrides: options.Overrides = None,
) -> None:
    """Train a policy on preference pairs; the model it starts from is the frozen reference, if one is read.

    The trained model ends up in OUTPUT/model. Watch `logratios/chosen`: where it falls far below zero the
    policy forgets what it should prefer, and a warning says so; lower the learning rate then.

    Prefixes that conversations share are computed once (`--set layout=padded` switches that off). The
    reference's log-probabilities are computed once for a model and kept by turn: trainings that differ in
    gamma, beta, objective or learning rate and share a `--reference-cache` never run it again.

    Some objectives have a setting of their own: `--set label_smoothing=0.1` (cdpo, robust),
    `--set target_margin=0.5` (simpo). All but sft can weigh turns in another way: `--set weighting=last`, or
    phi, uniform, exponential, MODULE:FUNCTION.

    Example: `multiturn train pairs.jsonl --model sft/model --output dmpo --gamma 0.7 --beta 0.1`
    """
    from multiturn.formats import ReadOptions
    from multiturn.pipeline.train_settings import PreferenceSettings
    from multiturn.pipeline.trainings import train_on_pairs

    given = {
        "objective": objective,
        "beta": beta,
        "gamma": gamma,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "reference": reference,
        "max_tokens_per_batch": max_tokens_per_batch,
        "report_to": report_to or None,
    }
    train_on_pairs(
        model,
        reading.read_pairs(pairs, ReadOptions(source=given_format, skip_bad=skip_bad, split=dataset_split)),
        settings=options.settings_from(PreferenceSettings, overrides, given),
        prompt=options.prompt_settings(chat_template, "react", "none"),
        precision=precision,
        seed=seed,
        output=output,
        reference_cache=reference_cache,
    )
    typer.echo(f"model: {output / 'model'}")
