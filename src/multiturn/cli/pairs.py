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
    min_gap: Annotated[float, typer.Option(min=0.0, help="The least difference of returns in a pair.")] = 0.0,
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
    from rich import print as show

    from multiturn.errors import DataError
    from multiturn.jsonl import write_jsonl
    from multiturn.pairs.select import PairSettings, select_pairs
    from multiturn.pipeline.config import PairsSettings
    from multiturn.rollouts.store import read_episodes

    given = {"min_gap": min_gap, "max_pairs_per_task": max_pairs_per_task, "noise": noise}
    settings = options.settings_from(PairsSettings, (), given)
    selection = select_pairs(
        read_episodes(experts),
        read_episodes(rollouts),
        PairSettings(**settings.model_dump(), seed=seed),
    )
    if not selection.pairs:
        raise DataError(f"no rollout makes a pair; dropped: {selection.dropped}", path=rollouts)
    write_jsonl(output, selection.pairs)
    show(f"{output}: {selection.counts}; dropped: {selection.dropped or 'none'}")
