"""Preference pairs as a run's settings describe them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from multiturn.errors import DataError
from multiturn.jsonl import write_jsonl
from multiturn.pairs.select import PairSettings, Selection, select_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from multiturn.pipeline.config import PairsSettings
    from multiturn.trajectory import Trajectory

__all__ = ["describe_selection", "write_pairs"]


def write_pairs(
    experts: Sequence[Trajectory],
    rollouts: Sequence[Trajectory],
    path: Path,
    *,
    settings: PairsSettings,
    seed: int,
) -> Selection:
    """Select pairs and write them, all or nothing.

    Args:
        experts: The expert's trajectories.
        rollouts: A policy's attempts at the same tasks.
        path: The JSONL file of pairs.
        settings: Which pairs to keep.
        seed: Decides which pairs stay where a task has too many.

    Returns:
        The pairs, and what was dropped.

    Raises:
        DataError: No pair is left; nothing is written then.
    """
    selection = select_pairs(experts, rollouts, PairSettings(**settings.model_dump(), seed=seed))
    if not selection.pairs:
        raise DataError(
            f"is not written: none of {len(rollouts)} rollouts makes a preference pair (dropped: "
            f"{_dropped(selection)}); explore more tasks, at a higher temperature, or start from a weaker "
            "policy",
            path=path,
        )
    write_jsonl(path, selection.pairs)
    return selection


def describe_selection(selection: Selection) -> str:
    """The numbers of pairs and drops in a line."""
    return f"{len(selection.pairs)} pairs; dropped: {_dropped(selection)}"


def _dropped(selection: Selection) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in selection.dropped.items()) or "none"
