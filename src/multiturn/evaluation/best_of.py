"""The best of several samples of a task (M26): what a policy could do if somebody told it when it is right.

The choice looks at the reward that the test itself gives, so it is an oracle's: an upper bound for what
choosing among samples can do, and no policy that anybody could run.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING, Final

from multiturn.errors import DataError
from multiturn.evaluation.evaluate import MethodSummary, SamplesSummary, summarize
from multiturn.trajectory import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.trajectory import Trajectory

__all__ = ["best_episodes", "summarize_best"]

_NOT_CUT_OFF: Final = (Outcome.COMPLETED, Outcome.ENVIRONMENT_ERROR)


def best_episodes(samples: Sequence[Trajectory]) -> list[Trajectory]:
    """The best episode of each task: the highest return, then one that solved the task, then the first.

    Episodes that ended in an environment error are never the best, unless a task has no other: it then keeps
    its first one, so that the task is counted as lost.

    Args:
        samples: A policy's episodes, any number for each task.

    Returns:
        One episode for each task, in the order in which the tasks first appear.

    Raises:
        DataError: An episode that counts has no reward.
    """
    by_task: dict[str, list[Trajectory]] = collections.defaultdict(list)
    for sample in samples:
        by_task[sample.task_id].append(sample)
    best = [_best(episodes) for episodes in by_task.values()]
    if all(sample.success is None for sample in samples):
        return best
    # Where the environment says at the end, what was cut off did not solve its task. Among the best there may
    # be no episode left that shows that it does say.
    return [
        dataclasses.replace(episode, success=False)
        if episode.success is None and episode.outcome not in _NOT_CUT_OFF
        else episode
        for episode in best
    ]


def summarize_best(samples: Sequence[Trajectory], *, level: float = 0.95, seed: int = 0) -> MethodSummary:
    """What the best sample of each task amounts to, and what the samples do on average.

    Args:
        samples: A policy's episodes, any number for each task.
        level: The confidence level.
        seed: Seeds the bootstrap.

    Returns:
        The figures of `best_episodes`, with ``samples`` about all of them.

    Raises:
        DataError: As `multiturn.evaluation.evaluate.summarize` does.
    """
    best = summarize(best_episodes(samples), level=level, seed=seed)
    average = summarize(samples, level=level, seed=seed)
    of_task = collections.Counter(sample.task_id for sample in samples)
    return dataclasses.replace(
        best,
        samples=SamplesSummary(
            per_task=max(of_task.values()),
            episodes=len(samples),
            lost=average.outcomes[Outcome.ENVIRONMENT_ERROR.value],
            reward=average.reward,
            success=average.success,
        ),
    )


def _best(episodes: Sequence[Trajectory]) -> Trajectory:
    counting = [episode for episode in episodes if episode.outcome is not Outcome.ENVIRONMENT_ERROR]
    # The first of equals: max keeps it.
    return max(counting, key=_merit) if counting else episodes[0]


def _merit(episode: Trajectory) -> tuple[float, bool]:
    if episode.reward is None:
        raise DataError(f"episode {episode.id!r} has no reward; evaluate that task again")
    return episode.reward, bool(episode.success)
