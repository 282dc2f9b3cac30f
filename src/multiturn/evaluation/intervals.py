"""Intervals of means over tasks: the bootstrap (M12), paired differences (M13), and Wilson's for rates (M14).

Tasks come in types (in ALFWorld, "pick and place" is one), and tasks of a type resemble each other. Which
resampling respects that depends on the number of types ``G``, with ``n`` tasks in all and ``n_g`` of type g:

``cluster`` (``G >= 10``)
    Draw whole types, each with all its tasks. The interval speaks of new tasks, new types included. The tasks
    within a drawn type are not drawn again: the spread between the types' totals already holds the spread
    within them, and a second draw would count it twice.
``stratified`` (``2 <= G < 10``)
    How much a handful of types differ says little about types never seen, and a benchmark with a handful of
    types usually means just these. So draw tasks within each type and keep each type's share of the tasks.
    The interval speaks of new tasks of these types in these proportions.
``tasks`` (``G = 1``)
    Draw tasks.

The percentile bootstrap of a mean is too narrow for small samples, twice over: the spread of a resample of n
out of n understates the variance by ``(n - 1) / n``, and its tails are a normal's where Student's t belongs.
Both are repaired: ``k - 1`` units are drawn out of k (Rao and Wu, 1988), which makes the resampling variance
unbiased in every stratum; and the percentiles are taken at ``Phi(-t_df)`` instead of ``alpha / 2``
(Hesterberg, 2015), with ``df = n - G`` for strata and ``G - 1`` for clusters. A type with fewer than 5 tasks
says next to nothing of the spread within it, so such types share one stratum. In simulations, also with
rewards of 0 and 1, a nominal 0.95 covers the truth in 0.94 to 0.98 of all cases (0.92 for 30 exponential
values); ``tests/evaluation/test_coverage.py`` repeats them.

Where all values are equal the bootstrap has nothing to draw from and would claim perfect certainty. If the
range of the values is known, the label is ``constant`` and the interval is exact instead: if a share p of all
tasks would give another value, n equal ones have probability ``(1 - p)^n``; the largest p not refuted,
``1 - alpha^(1/n)``, times the distance to the ends of the range, is how far the mean may lie off.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    _Sampler = Callable[[np.random.Generator, int], NDArray[np.float64]]

__all__ = ["MIN_CLUSTERS", "Interval", "Method", "choose_method", "mean_interval", "wilson_interval"]

Method = Literal["tasks", "stratified", "cluster", "constant", "wilson"]

MIN_CLUSTERS: Final = 10
"""The number of task types from which on whole types are resampled."""
MIN_STRATUM: Final = 5
"""Types with fewer tasks share one stratum."""
RESAMPLES: Final = 10_000
_CHUNK: Final = 500
"""Resamples drawn at once; bounds memory. Changing it changes the random numbers, hence the last digits."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: The mean over tasks.
        low: The lower end.
        high: The upper end; ``low <= mean <= high``.
        level: The confidence level, in (0, 1).
        method: How the interval was made; see the module's docstring.
        tasks: The number of tasks.
        types: The number of task types.
    """

    mean: float
    low: float
    high: float
    level: float
    method: Method
    tasks: int
    types: int


def choose_method(types: Sequence[str]) -> Literal["tasks", "stratified", "cluster"]:
    """The resampling that fits these tasks' types; see the module's docstring.

    Args:
        types: The type of each task.
    """
    count = len(set(types))
    return "tasks" if count <= 1 else "stratified" if count < MIN_CLUSTERS else "cluster"


def mean_interval(
    values: Sequence[float],
    types: Sequence[str] | None = None,
    *,
    method: Literal["auto", "tasks", "stratified", "cluster"] = "auto",
    bounds: tuple[float, float] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of one value a task, with its bootstrap interval (M12; of differences: M13).

    Args:
        values: One finite number for each task.
        types: The type of each task, as long as `values`; None when all are of one type.
        method: The resampling; ``auto`` takes what `choose_method` says.
        bounds: The least and the greatest value that are possible, where known. The interval stays within,
            and values that are all equal get an interval with a width.
        level: The confidence level.
        resamples: The number of bootstrap resamples.
        seed: Seeds the resampling; the same arguments always give the same interval.

    Raises:
        ValueError: There are no values, one is not finite or out of bounds, the lengths differ, `level` is
            not in (0, 1), or the method needs at least two types and there is one.
    """
    data = np.asarray(values, dtype=np.float64)
    labels = [""] * data.size if types is None else list(types)
    _check(data, labels, bounds, level, resamples)
    chosen = choose_method(labels) if method == "auto" else method
    groups = _grouped(data, labels)
    if chosen == "cluster" and len(groups) < 2:
        raise ValueError("a cluster bootstrap needs tasks of at least two types")
    mean = float(data.mean())

    def interval(low: float, high: float, label: Method) -> Interval:
        # A mean of rounded numbers may miss the percentiles by the last bit; the order is a promise.
        return Interval(
            mean=mean,
            low=min(low, mean),
            high=max(high, mean),
            level=level,
            method=label,
            tasks=data.size,
            types=len(groups),
        )

    if np.ptp(data) == 0.0 or data.size == 1:
        reach = 0.0 if bounds is None else 1.0 - (1.0 - level) ** (1.0 / data.size)
        least, most = bounds or (mean, mean)
        return interval(mean - reach * (mean - least), mean + reach * (most - mean), "constant")
    rng = np.random.default_rng(seed)
    if chosen == "cluster":
        means = _resampled(_cluster_sampler(groups), rng, resamples)
        freedom = len(groups) - 1
    else:
        strata = [data] if chosen == "tasks" else _strata(groups)
        means = _resampled(_strata_sampler(strata), rng, resamples)
        freedom = data.size - len(strata)
    tail = statistics.NormalDist().cdf(-_student_quantile((1.0 + level) / 2.0, freedom))
    low, high = (float(q) for q in np.quantile(means, [tail, 1.0 - tail]))
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return interval(low, high, chosen)


def wilson_interval(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """A success rate with Wilson's score interval (M14), for tasks of one type.

    With ``z`` the normal quantile, ``p = successes / trials`` and ``n = trials``::

        (p + z^2 / 2n  -+  z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Args:
        successes: How many succeeded.
        trials: Out of how many, at least 1.
        level: The confidence level.

    Raises:
        ValueError: The counts are not ``0 <= successes <= trials`` with ``trials >= 1``, or `level` is not in
            (0, 1).
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes of {trials} trials is impossible")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; it must lie between 0 and 1, for example 0.95")
    rate = successes / trials
    z = statistics.NormalDist().inv_cdf((1.0 + level) / 2.0)
    centre = rate + z * z / (2.0 * trials)
    reach = z * math.sqrt(rate * (1.0 - rate) / trials + (z / (2.0 * trials)) ** 2)
    scale = 1.0 + z * z / trials
    return Interval(
        mean=rate,
        low=max(0.0, min(rate, (centre - reach) / scale)),
        high=min(1.0, max(rate, (centre + reach) / scale)),
        level=level,
        method="wilson",
        tasks=trials,
        types=1,
    )


def _check(
    data: NDArray[np.float64],
    labels: list[str],
    bounds: tuple[float, float] | None,
    level: float,
    resamples: int,
) -> None:
    if data.ndim != 1 or data.size == 0:
        raise ValueError("there are no values to take a mean of")
    if not np.isfinite(data).all():
        raise ValueError("a value is not a finite number")
    if len(labels) != data.size:
        raise ValueError(f"{data.size} values but {len(labels)} types; there must be one type for each value")
    if bounds is not None and not (bounds[0] <= data.min() and data.max() <= bounds[1]):
        raise ValueError(f"a value lies outside of the bounds {bounds[0]} to {bounds[1]}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level is {level}; it must lie between 0 and 1, for example 0.95")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; it must be at least 1")


def _grouped(data: NDArray[np.float64], labels: list[str]) -> list[NDArray[np.float64]]:
    """The values of each type, types in alphabetical order."""
    kinds = np.asarray(labels)
    return [data[kinds == kind] for kind in sorted(set(labels))]


def _strata(groups: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """The types as strata; small ones share one, and join the smallest other where even that is small."""
    strata = sorted((group for group in groups if group.size >= MIN_STRATUM), key=len)
    small = [group for group in groups if group.size < MIN_STRATUM]
    if strata and 0 < sum(group.size for group in small) < MIN_STRATUM:
        small.append(strata.pop(0))
    return [*strata, np.concatenate(small)] if small else strata


def _strata_sampler(strata: list[NDArray[np.float64]]) -> _Sampler:
    """Draws means over ``k - 1`` of each stratum's k values, weighted by the strata's shares."""
    total = sum(stratum.size for stratum in strata)

    def sample(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        means = np.zeros(count)
        for stratum in strata:
            picks = rng.integers(stratum.size, size=(count, stratum.size - 1), dtype=np.int32)
            means += stratum[picks].mean(axis=1) * (stratum.size / total)
        return means

    return sample


def _cluster_sampler(groups: list[NDArray[np.float64]]) -> _Sampler:
    """Draws means over all tasks of ``G - 1`` of the G types."""
    sums = np.array([group.sum() for group in groups])
    sizes = np.array([group.size for group in groups], dtype=np.float64)

    def sample(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        picks = rng.integers(len(groups), size=(count, len(groups) - 1), dtype=np.int32)
        means: NDArray[np.float64] = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
        return means

    return sample


def _resampled(sample: _Sampler, rng: np.random.Generator, resamples: int) -> NDArray[np.float64]:
    chunks = [sample(rng, min(_CHUNK, resamples - done)) for done in range(0, resamples, _CHUNK)]
    return np.concatenate(chunks)


def _student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t by bisection on its distribution function, to 1e-9.

    The distribution function follows from the finite series of Abramowitz and Stegun 26.7.3 and 26.7.4; with
    ``theta = atan(t / sqrt(df))`` it is exact, and the number of its terms is df / 2.
    """
    if freedom > 400:  # the normal is within 0.3% from here on
        return statistics.NormalDist().inv_cdf(probability)
    low, high = 0.0, 1e7
    while high - low > 1e-9 * max(1.0, low):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _student_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2.0


def _student_cdf(t: float, freedom: int) -> float:
    theta = math.atan2(t, math.sqrt(freedom))
    cos2 = math.cos(theta) ** 2
    odd = freedom % 2
    term = math.cos(theta) if odd else 1.0
    series = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cos2 * (k - 1) / k
        series += term
    inside = 2.0 / math.pi * (theta + math.sin(theta) * series) if odd else math.sin(theta) * series
    return 0.5 + inside / 2.0
