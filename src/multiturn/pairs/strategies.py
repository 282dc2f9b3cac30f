"""From trajectories to pairs by whatever strategy is asked for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from multiturn.pairs.branch import shared_as_context
from multiturn.pairs.select import select_pairs
from multiturn.pairs.within import pair_within_tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.pairs.selection import PairSettings, Selection
    from multiturn.trajectory import Trajectory

__all__ = ["build_pairs"]


def build_pairs(
    experts: Sequence[Trajectory], rollouts: Sequence[Trajectory], settings: PairSettings
) -> Selection:
    """Make preference pairs.

    Args:
        experts: Expert trajectories. The strategies within tasks know no experts: there these are
            trajectories like others, and one whose id a rollout has too is called ``expert:<id>``.
        rollouts: A policy's trajectories.
        settings: The strategy, and which pairs to keep.

    Returns:
        The pairs and what was dropped.

    Raises:
        DataError: Two trajectories share an id, or those of a task come from different environments.
    """
    if settings.strategy == "expert-vs-rollout":
        selection = select_pairs(experts, rollouts, settings)
    else:
        taken = {rollout.id for rollout in rollouts}
        named = [
            dataclasses.replace(expert, id=f"expert:{expert.id}") if expert.id in taken else expert
            for expert in experts
        ]
        selection = pair_within_tasks([*named, *rollouts], settings)
    if settings.shared_turns == "context":
        pairs = [shared_as_context(pair) for pair in selection.pairs]
        selection = dataclasses.replace(selection, pairs=pairs)
    return selection
