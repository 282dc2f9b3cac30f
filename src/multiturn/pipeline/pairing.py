"""Preference pairs as a run's settings describe them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from multiturn.errors import DataError
from multiturn.jsonl import write_jsonl
from multiturn.pairs.balance import length_warnings
from multiturn.pairs.selection import PairSettings, Selection
from multiturn.pairs.strategies import build_pairs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from multiturn.pipeline.config import PairsSettings
    from multiturn.trajectory import Trajectory

__all__ = ["describe_selection", "write_pairs", "write_pairs_if_any"]

_LOG = logging.getLogger(__name__)


def write_pairs(
    experts: Sequence[Trajectory],
    rollouts: Sequence[Trajectory],
    path: Path,
    *,
    settings: PairsSettings,
    seed: int,
) -> Selection:
    """Select pairs and write them, all or nothing. A warning says where one side is longer by much.

    Args:
        experts: The expert's trajectories.
        rollouts: A policy's attempts at the same tasks.
        path: The JSONL file of pairs.
        settings: The strategy, and which pairs to keep.
        seed: Decides which pairs stay where a task has too many.

    Returns:
        The pairs, and what was dropped.

    Raises:
        DataError: No pair is left; nothing is written then.
    """
    selection = write_pairs_if_any(experts, rollouts, path, settings=settings, seed=seed)
    if not selection.pairs:
        raise DataError(
            f"is not written: none of {selection.rollouts} rollouts makes a preference pair (dropped: "
            f"{_dropped(selection)}); explore more tasks, at a higher temperature, or start from a weaker "
            "policy",
            path=path,
        )
    return selection


def write_pairs_if_any(
    experts: Sequence[Trajectory],
    rollouts: Sequence[Trajectory],
    path: Path,
    *,
    settings: PairsSettings,
    seed: int,
) -> Selection:
    """As `write_pairs`, for a policy of which it is no fault to leave nothing to prefer.

    Returns:
        The pairs, and what was dropped. Where there is no pair, nothing is written.
    """
    selection = build_pairs(experts, rollouts, PairSettings(**settings.model_dump(), seed=seed))
    if selection.pairs:
        write_jsonl(path, selection.pairs)
    for warning in length_warnings(selection.pairs):
        _LOG.warning("%s: %s", path, warning)
    return selection


def describe_selection(selection: Selection) -> str:
    """The numbers of pairs and drops in a line."""
    return f"{len(selection.pairs)} pairs; dropped: {_dropped(selection)}"


def _dropped(selection: Selection) -> str:
    dropped = _counts(selection.dropped) or "none"
    unpaired = _counts(selection.unpaired)
    return f"{dropped}; compared and not paired: {unpaired}" if unpaired else dropped


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())
