"""How many tasks it takes to tell two policies apart (P1 in ``docs/metrics.md``)."""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Power", "tasks_needed"]

_ZERO_WITHIN: Final = 1e-9
"""A mean closer to zero than this is what rounding leaves of differences that cancel."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What a number of tasks can show, going by the differences that were observed.

    Attributes:
        tasks: The tasks compared.
        mean: The mean of the paired differences.
        deviation: Their standard deviation (over ``tasks - 1``).
        needed: The tasks with which a true difference as large as `mean` is found with probability `power`;
            None where no number is enough, because `mean` is zero, or is but for rounding.
        more: How many that is beyond `tasks`; 0 where `tasks` are enough.
        detectable: The smallest true difference that `tasks` find with probability `power`.
        level: One less the probability of finding a difference where there is none.
        power: The probability of finding one that is there.
    """

    tasks: int
    mean: float
    deviation: float
    needed: int | None
    more: int | None
    detectable: float
    level: float
    power: float


def tasks_needed(differences: Sequence[float], *, level: float = 0.95, power: float = 0.8) -> Power:
    """How many tasks would tell two policies apart whose true difference is the one observed.

    With ``s`` the standard deviation of the differences, ``d`` their mean and ``z`` normal quantiles,
    ``n = ((z[1 - alpha / 2] + z[power]) s / d)^2``, rounded up (P1). The tasks are taken to be independent of
    each other; where those of a type resemble each other more are needed.

    Args:
        differences: The difference of the two policies on each task.
        level: The confidence level, in (0, 1).
        power: The probability of finding the difference, in (0.5, 1).

    Raises:
        ValueError: There are fewer than two differences, one is not finite, or `level` or `power` is out of
            range.
    """
    if len(differences) < 2:
        raise ValueError(f"{len(differences)} differences have no standard deviation; give at least two")
    if not all(math.isfinite(difference) for difference in differences):
        raise ValueError("a difference is not a finite number")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; it must lie between 0 and 1, for example 0.95")
    if not 0.5 < power < 1.0:
        raise ValueError(f"power is {power}; it must lie between 0.5 and 1, for example 0.8")
    normal = statistics.NormalDist()
    reach = normal.inv_cdf((1.0 + level) / 2.0) + normal.inv_cdf(power)
    tasks = len(differences)
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    # Without any spread two tasks, the fewest that have one, are enough.
    needed = None if abs(mean) <= _ZERO_WITHIN else max(2, math.ceil((reach * deviation / mean) ** 2))
    return Power(
        tasks=tasks,
        mean=mean,
        deviation=deviation,
        needed=needed,
        more=None if needed is None else max(0, needed - tasks),
        detectable=reach * deviation / math.sqrt(tasks),
        level=level,
        power=power,
    )
