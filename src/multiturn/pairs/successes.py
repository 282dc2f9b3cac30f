"""A policy's own successes as demonstrations: what rejection fine-tuning trains on.

Every rollout is kept or dropped for one reason. The reasons, in the order in which they are looked for:

- ``environment_error``, ``no_turns``, ``no_reward``: as in `multiturn.pairs.select`.
- ``below_min_reward``: the return is less than asked for.
- ``duplicate``: the same actions as a demonstration, or as an earlier success, of the task.
- ``over_max``: the task already has ``max_per_task`` successes.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING

from multiturn.pairs.judging import actions_of, defect_of, require_same_environment
from multiturn.pairs.selection import reaches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.trajectory import Trajectory

__all__ = ["Successes", "select_successes"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Successes:
    """The rollouts that are worth imitating.

    Attributes:
        trajectories: They themselves, in the order of the rollouts.
        dropped: How many others there were, by reason.
    """

    trajectories: tuple[Trajectory, ...]
    dropped: dict[str, int]


def select_successes(
    rollouts: Sequence[Trajectory],
    demonstrations: Sequence[Trajectory],
    *,
    min_reward: float,
    max_per_task: int | None = None,
) -> Successes:
    """Pick the rollouts that succeeded and that differ from each other and from the demonstrations.

    Two trajectories of a task are the same where their actions are: what answers an action is then the same
    as well. Of more than ``max_per_task`` the first ones stay; samples of a task are drawn independently, so
    that their order says nothing about them.

    Args:
        rollouts: A policy's attempts.
        demonstrations: What it will be trained on beside them.
        min_reward: The return from which on a rollout is a success.
        max_per_task: Successes of one task at most; None keeps all.

    Raises:
        DataError: Rollouts and demonstrations come from different environments, whose rewards cannot be
            compared.
    """
    seen: dict[str, set[tuple[str, ...]]] = collections.defaultdict(set)
    for demonstration in demonstrations:
        seen[demonstration.task_id].add(actions_of(demonstration))
    if rollouts and demonstrations:
        require_same_environment(rollouts[0], demonstrations[0])
    kept: list[Trajectory] = []
    of_task: collections.Counter[str] = collections.Counter()
    dropped: collections.Counter[str] = collections.Counter()
    for rollout in rollouts:
        reason = defect_of(rollout)
        if reason is None and not reaches(rollout.reward, min_reward):
            reason = "below_min_reward"
        if reason is None and actions_of(rollout) in seen[rollout.task_id]:
            reason = "duplicate"
        if reason is None and max_per_task is not None and of_task[rollout.task_id] >= max_per_task:
            reason = "over_max"
        if reason is not None:
            dropped[reason] += 1
            continue
        seen[rollout.task_id].add(actions_of(rollout))
        of_task[rollout.task_id] += 1
        kept.append(rollout)
    return Successes(trajectories=tuple(kept), dropped=dict(dropped))
