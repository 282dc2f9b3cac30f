"""What a policy's episodes on held-out tasks amount to (M14).

The unit is the task: several episodes of one task are averaged first, and intervals are over tasks. Episodes
that ended in an environment error say nothing about the agent and are left out and counted; every other
ending (truncated, context overflow, invalid output) counts with the reward it got.
"""

from __future__ import annotations

import collections
import dataclasses
import statistics
from typing import TYPE_CHECKING, Final, Literal

from multiturn.errors import DataError
from multiturn.evaluation.intervals import (
    RESAMPLES,
    Interval,
    choose_method,
    mean_interval,
    wilson_interval,
)
from multiturn.trajectory import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.trajectory import Trajectory

__all__ = ["MethodSummary", "SamplesSummary", "TaskScore", "TypeSummary", "score_tasks", "summarize"]

_NOT_UNDERSTOOD: Final = ("invalid_actions", "unusable_replies")
"""The keys of ``Trajectory.info`` that count actions not understood, and replies without any action."""

MIN_ALTERNATIVE_TYPES: Final = 3
"""With fewer task types, an interval over types is not even worth a second look."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """What a policy's episodes of one task amount to.

    Attributes:
        task_id: The task.
        task_type: Its type.
        reward: The mean return of its episodes.
        success: The share of its episodes that solved it. One that was cut off did not, where the
            environment says so of any episode; None where an episode that was completed does not say.
        turns: The mean number of turns.
        episodes: How many episodes count.
    """

    task_id: str
    task_type: str
    reward: float
    success: float | None
    turns: float
    episodes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TypeSummary:
    """The tasks of one type.

    Attributes:
        tasks: How many.
        reward: The average reward.
        success: The success rate, by Wilson's interval where each task has one episode; None where unknown.
        turns: The mean number of turns.
    """

    tasks: int
    reward: Interval
    success: Interval | None
    turns: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SamplesSummary:
    """All samples, where only the best of each task counts (`multiturn.evaluation.best_of`).

    Attributes:
        per_task: The samples of a task; of the one that has the most.
        episodes: All samples.
        lost: Those that ended in an environment error; none of them counts.
        reward: The average reward of a sample: what the policy earns without the choice.
        success: The success rate of a sample; None where unknown.
    """

    per_task: int
    episodes: int
    lost: int
    reward: Interval
    success: Interval | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MethodSummary:
    """A policy's evaluation.

    Attributes:
        tasks: The tasks with at least one episode that counts.
        episodes: All episodes, those that ended in an environment error included.
        outcomes: How many episodes ended how, by the outcome's name; every outcome is there.
        lost_tasks: Tasks all of whose episodes ended in an environment error; they count nowhere else.
        reward: The average reward.
        reward_alternative: The same mean with the other resampling (clusters in place of strata, or the other
            way round), where there are at least three task types; None otherwise.
        success: The success rate; None where an episode does not say whether it succeeded.
        turns: The mean number of turns.
        invalid_actions: The share of all turns that brought no action the environment understood, in [0, 1];
            None where an episode does not count them.
        by_type: Each task type on its own, in alphabetical order.
        samples: Where only the best of several samples of a task counts, what all of them amount to. All
            other figures are then those of the best ones.
    """

    tasks: int
    episodes: int
    outcomes: dict[str, int]
    lost_tasks: tuple[str, ...]
    reward: Interval
    reward_alternative: Interval | None
    success: Interval | None
    turns: Interval
    invalid_actions: float | None
    by_type: dict[str, TypeSummary]
    samples: SamplesSummary | None = None


def summarize(
    trajectories: Sequence[Trajectory], *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> MethodSummary:
    """Average reward, success rate, length and invalid actions of a policy's episodes, with intervals.

    Args:
        trajectories: The policy's episodes on the tasks of one split.
        level: The confidence level.
        resamples: The number of bootstrap resamples.
        seed: Seeds them.

    Raises:
        DataError: There is no episode, none that counts, one without a reward, or they come from different
            environments.
    """
    scores = list(score_tasks(trajectories).values())
    scored = {score.task_id for score in scores}
    types = [score.task_type for score in scores]
    rewards = [score.reward for score in scores]
    outcomes = collections.Counter(trajectory.outcome for trajectory in trajectories)

    def interval(values: Sequence[float], bounds: tuple[float, float] | None) -> Interval:
        return mean_interval(values, types, bounds=bounds, level=level, resamples=resamples, seed=seed)

    success = _known([score.success for score in scores])
    bounds = reward_bounds(rewards)
    return MethodSummary(
        tasks=len(scores),
        episodes=len(trajectories),
        outcomes={outcome.value: outcomes[outcome] for outcome in Outcome},
        lost_tasks=tuple(sorted({t.task_id for t in trajectories} - scored)),
        reward=interval(rewards, bounds),
        reward_alternative=alternative_interval(
            rewards, types, bounds=bounds, level=level, resamples=resamples, seed=seed
        ),
        success=None if success is None else interval(success, (0.0, 1.0)),
        turns=interval([score.turns for score in scores], None),
        invalid_actions=_invalid_share(trajectories),
        by_type={
            kind: _summarize_type(
                [score for score in scores if score.task_type == kind], level, resamples, seed
            )
            for kind in sorted(set(types))
        },
    )


def score_tasks(trajectories: Sequence[Trajectory]) -> dict[str, TaskScore]:
    """Average the episodes of each task; those that ended in an environment error are left out.

    Args:
        trajectories: The episodes of one policy.

    Returns:
        The score of each task by its id, in the order in which the tasks first appear.

    Raises:
        DataError: There is no episode, none that counts, one that counts has no reward, episodes of a task
            disagree on its type, or they come from different environments.
    """
    if not trajectories:
        raise DataError("there are no evaluation episodes; run the evaluation first")
    environments = {t.environment for t in trajectories if t.environment}
    if len(environments) > 1:
        raise DataError(
            f"the episodes come from different environments ({', '.join(sorted(environments))}), whose "
            "rewards cannot be averaged; evaluate again with one of them"
        )
    by_task: dict[str, list[Trajectory]] = collections.defaultdict(list)
    for trajectory in trajectories:
        if trajectory.outcome is not Outcome.ENVIRONMENT_ERROR:
            by_task[trajectory.task_id].append(trajectory)
    if not by_task:
        raise DataError(
            f"all {len(trajectories)} evaluation episodes ended in an environment error; "
            "check the environment (multiturn env check) and evaluate again"
        )
    # Where the environment says at the end whether a task is solved, one that was cut off is not.
    cut_off: Literal[False] | None = False if any(t.success is not None for t in trajectories) else None
    return {task_id: _score(task_id, episodes, cut_off) for task_id, episodes in by_task.items()}


def reward_bounds(rewards: Sequence[float]) -> tuple[float, float] | None:
    """(0, 1) where the rewards keep to it, as those of all environments here do; None otherwise."""
    return (0.0, 1.0) if min(rewards) >= 0.0 and max(rewards) <= 1.0 else None


def alternative_interval(
    values: Sequence[float],
    types: Sequence[str],
    *,
    bounds: tuple[float, float] | None,
    level: float,
    resamples: int,
    seed: int,
) -> Interval | None:
    """The interval by the resampling that `choose_method` does not choose; None with too few types."""
    if len(set(types)) < MIN_ALTERNATIVE_TYPES:
        return None
    return mean_interval(
        values,
        types,
        method="stratified" if choose_method(types) == "cluster" else "cluster",
        bounds=bounds,
        level=level,
        resamples=resamples,
        seed=seed,
    )


def _score(task_id: str, episodes: Sequence[Trajectory], cut_off: Literal[False] | None) -> TaskScore:
    """The score of a task's episodes; `cut_off` is the success of those that did not come to their end."""
    rewards: list[float] = []
    for episode in episodes:
        if episode.reward is None:
            raise DataError(f"episode {episode.id!r} has no reward; evaluate that task again")
        rewards.append(episode.reward)
    types = {episode.task_type for episode in episodes}
    if len(types) > 1:
        raise DataError(f"task {task_id!r} has several types ({', '.join(sorted(types))}); give it one")
    success = _known(
        [
            cut_off if each.success is None and each.outcome is not Outcome.COMPLETED else each.success
            for each in episodes
        ]
    )
    return TaskScore(
        task_id=task_id,
        task_type=types.pop(),
        reward=statistics.fmean(rewards),
        success=None if success is None else statistics.fmean(success),
        turns=statistics.fmean(episode.num_turns for episode in episodes),
        episodes=len(episodes),
    )


def _summarize_type(scores: Sequence[TaskScore], level: float, resamples: int, seed: int) -> TypeSummary:
    rewards = [score.reward for score in scores]
    success = _known([score.success for score in scores])
    rate: Interval | None = None
    if success is not None and all(value in {0.0, 1.0} for value in success):
        rate = wilson_interval(round(sum(success)), len(success), level=level)
    elif success is not None:
        rate = mean_interval(success, bounds=(0.0, 1.0), level=level, resamples=resamples, seed=seed)
    return TypeSummary(
        tasks=len(scores),
        reward=mean_interval(
            rewards, bounds=reward_bounds(rewards), level=level, resamples=resamples, seed=seed
        ),
        success=rate,
        turns=statistics.fmean(score.turns for score in scores),
    )


def _known(values: Sequence[float | bool | None]) -> list[float] | None:
    """The values as numbers; None where one is missing, because the rest need not be like it."""
    known = [float(value) for value in values if value is not None]
    return known if len(known) == len(values) else None


def _invalid_share(trajectories: Sequence[Trajectory]) -> float | None:
    invalid = turns = 0
    for trajectory in trajectories:
        if trajectory.outcome is Outcome.ENVIRONMENT_ERROR:
            continue
        counts = [trajectory.info.get(key) for key in _NOT_UNDERSTOOD]
        known = [count for count in counts if isinstance(count, int)]
        if not known:
            return None
        invalid += sum(known)
        turns += trajectory.num_turns
    return invalid / turns if turns else None
