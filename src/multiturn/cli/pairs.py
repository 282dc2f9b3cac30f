"""``multiturn pairs``: preference pairs from trajectories."""

from pathlib import Path
from typing import Annotated

import typer

from multiturn.cli import options

__all__ = ["pairs"]


def pairs(
    *,
    experts: Annotated[Path, typer.Option(help="JSONL of the expert's trajectories.")],
    rollouts: Annotated[Path, typer.Option(help="JSONL of a policy's trajectories on the same tasks.")],
    output: options.Output,
    min_gap: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="The least difference of returns in a pair.")
    ] = 0.0,
    max_pairs_per_task: Annotated[
        int | None, typer.Option(min=1, help="Keep so many pairs of a task.")
    ] = None,
    noise: Annotated[
        str, typer.Option(help="keep, or drop pairs whose dispreferred side is repetitive or meaningless.")
    ] = "keep",
    seed: options.Seed = 0,
) -> None:
    """Prefer the expert over a worse rollout of the same task, and the rollout where it is the better one.

    Ties and everything else that makes no pair are counted by reason.

    Example: `multiturn pairs --experts expert.jsonl --rollouts rollouts.jsonl --output pairs.jsonl`
    """
    from multiturn.pipeline.config import PairsSettings
    from multiturn.pipeline.pairing import describe_selection, write_pairs
    from multiturn.rollouts.store import read_episodes

    given = {"min_gap": min_gap, "max_pairs_per_task": max_pairs_per_task, "noise": noise}
    settings = options.settings_from(PairsSettings, (), given)
    selection = write_pairs(
        read_episodes(experts), read_episodes(rollouts), output, settings=settings, seed=seed
    )
    typer.echo(f"{output}: {describe_selection(selection)}")
