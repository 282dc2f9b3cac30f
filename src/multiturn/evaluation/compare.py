"""Two policies on the same tasks: the paired difference (M13).

Tasks differ far more than policies do, so the difference is taken task by task and the interval is of the
mean of these differences: whatever makes a task hard cancels. Both policies must have attempted the same
tasks.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from multiturn.errors import DataError
from multiturn.evaluation.evaluate import TaskScore, alternative_interval, reward_bounds, score_tasks
from multiturn.evaluation.intervals import RESAMPLES, Interval, mean_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.trajectory import Trajectory

__all__ = ["Comparison", "compare", "sign_test"]

EQUAL_WITHIN = 1e-9
"""Rewards closer than this are equal."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How a method differs from a baseline on the tasks both attempted.

    Attributes:
        method: The name of the first policy.
        baseline: The name of the second; differences are method minus baseline.
        tasks: The tasks compared.
        excluded: Tasks left out because all episodes of one side ended in an environment error.
        reward: The mean difference of the tasks' rewards.
        reward_alternative: The same with the other resampling; None with fewer than three task types.
        success: The mean difference of success rates; None where unknown.
        better: On how many tasks the method's reward is higher.
        equal: On how many it is the same.
        worse: On how many it is lower.
        sign_test: The probability of a split of better against worse at least this uneven, if either were
            equally likely (two-sided).
        by_type: The mean difference within each task type, in alphabetical order.
        differences: The reward difference of each task, by its id.
    """

    method: str
    baseline: str
    tasks: int
    excluded: tuple[str, ...]
    reward: Interval
    reward_alternative: Interval | None
    success: Interval | None
    better: int
    equal: int
    worse: int
    sign_test: float
    by_type: dict[str, Interval]
    differences: dict[str, float]

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the interval lies wholly on one side of zero, else ``undecided``.

        An end that is zero but for rounding is zero.
        """
        if self.reward.low > EQUAL_WITHIN:
            return "better"
        return "worse" if self.reward.high < -EQUAL_WITHIN else "undecided"


def compare(
    method: Sequence[Trajectory],
    baseline: Sequence[Trajectory],
    *,
    names: tuple[str, str] = ("method", "baseline"),
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two policies task by task.

    Args:
        method: The episodes of one policy.
        baseline: Those of the other, on the same tasks of the same environment.
        names: What the two are called in reports.
        level: The confidence level.
        resamples: The number of bootstrap resamples; each keeps a task's two rewards together.
        seed: Seeds them.

    Raises:
        DataError: The two did not attempt the same tasks (the message says which), their environments or task
            types differ, no task is left, or one side alone cannot be averaged (see `score_tasks`).
    """
    _require_same_tasks(method, baseline, names)
    scores, base = score_tasks(method), score_tasks(baseline)
    shared = sorted(scores.keys() & base.keys())
    if not shared:
        raise DataError(
            f"{names[0]} and {names[1]} have no task left to compare: each lost its own to environment errors"
        )
    attempted = {trajectory.task_id for trajectory in method}
    types = [_common_type(scores[task], base[task]) for task in shared]
    differences = {task: _difference(scores[task].reward, base[task].reward) for task in shared}
    values = list(differences.values())
    rewards = [side[task].reward for side in (scores, base) for task in shared]
    bounds = None if reward_bounds(rewards) is None else (-1.0, 1.0)
    better, worse = sum(value > 0 for value in values), sum(value < 0 for value in values)

    def interval(numbers: Sequence[float], kinds: Sequence[str] | None) -> Interval:
        return mean_interval(numbers, kinds, bounds=bounds, level=level, resamples=resamples, seed=seed)

    success = _success_differences([scores[task] for task in shared], [base[task] for task in shared])
    return Comparison(
        method=names[0],
        baseline=names[1],
        tasks=len(shared),
        excluded=tuple(sorted(attempted - set(shared))),
        reward=interval(values, types),
        reward_alternative=alternative_interval(
            values, types, bounds=bounds, level=level, resamples=resamples, seed=seed
        ),
        success=None if success is None else interval(success, types),
        better=better,
        equal=len(values) - better - worse,
        worse=worse,
        sign_test=sign_test(better, worse),
        by_type={
            kind: interval([v for v, k in zip(values, types, strict=True) if k == kind], None)
            for kind in sorted(set(types))
        },
        differences=differences,
    )


def sign_test(better: int, worse: int) -> float:
    """The two-sided sign test.

    With ``m = better + worse`` fair coins and ``k = min(better, worse)``, twice the probability of at most k
    heads: ``2 * sum_{i <= k} C(m, i) / 2^m``, at most 1.

    Args:
        better: Tasks on which one side is better.
        worse: Tasks on which the other is.
    """
    tosses = better + worse
    tail = sum(math.comb(tosses, heads) for heads in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / (1 << tosses))


def _require_same_tasks(
    method: Sequence[Trajectory], baseline: Sequence[Trajectory], names: tuple[str, str]
) -> None:
    environments = [{t.environment for t in side if t.environment} for side in (method, baseline)]
    if all(environments) and environments[0] != environments[1]:
        raise DataError(
            f"{names[0]} was evaluated in {', '.join(sorted(environments[0]))} and {names[1]} in "
            f"{', '.join(sorted(environments[1]))}; evaluate both in the same environment"
        )
    ours, theirs = ({t.task_id for t in side} for side in (method, baseline))
    complaints = [
        f"only {name} has {_listed(only)}"
        for name, only in ((names[0], ours - theirs), (names[1], theirs - ours))
        if only
    ]
    if complaints:
        raise DataError(
            f"{names[0]} and {names[1]} were not evaluated on the same tasks: {'; '.join(complaints)}; "
            "evaluate both on the same ones"
        )


def _difference(ours: float, theirs: float) -> float:
    """What two rewards differ by; exactly nothing where only their last bits do."""
    return 0.0 if abs(ours - theirs) <= EQUAL_WITHIN else ours - theirs


def _listed(tasks: set[str]) -> str:
    shown = ", ".join(repr(task) for task in sorted(tasks)[:3])
    return shown if len(tasks) <= 3 else f"{shown} and {len(tasks) - 3} more"


def _common_type(ours: TaskScore, theirs: TaskScore) -> str:
    if ours.task_type != theirs.task_type:
        raise DataError(
            f"task {ours.task_id!r} is of type {ours.task_type!r} on one side and {theirs.task_type!r} on "
            "the other; evaluate both with the same environment"
        )
    return ours.task_type


def _success_differences(ours: Sequence[TaskScore], theirs: Sequence[TaskScore]) -> list[float] | None:
    differences = [
        a.success - b.success
        for a, b in zip(ours, theirs, strict=True)
        if a.success is not None and b.success is not None
    ]
    return differences if len(differences) == len(ours) else None
