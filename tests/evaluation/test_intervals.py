"""Intervals: hand-worked cases, and promises that hold for all inputs."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.evaluation import intervals
from multiturn.evaluation.intervals import choose_method, mean_interval, wilson_interval


def test_two_values_give_their_range() -> None:
    """Values 0 and 1: a resample draws 1 of the 2, so its mean is 0 or 1, and the tails reach both."""
    interval = mean_interval([0.0, 1.0])
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.0, 1.0)
    assert (interval.method, interval.tasks, interval.types, interval.level) == ("tasks", 2, 1, 0.95)


def test_a_large_sample_agrees_with_the_textbook() -> None:
    """Of 0, 1, ..., 99: mean 49.5, s = 29.01, and 49.5 -+ 1.984 * 29.01 / 10 = [43.74, 55.26] (df 99)."""
    interval = mean_interval([float(i) for i in range(100)], resamples=40_000)
    assert interval.mean == 49.5
    assert interval.low == pytest.approx(43.74, abs=0.12)
    assert interval.high == pytest.approx(55.26, abs=0.12)


def test_strata_leave_the_difference_between_types_out() -> None:
    """Two types of ten tasks, all 0 and all 1: nothing varies within a type, so neither does the mean.

    Drawing tasks without regard to types, the standard error is 0.5 / sqrt(19) = 0.115 and the interval
    0.5 -+ 2.093 * 0.115 = [0.26, 0.74].
    """
    values, types = [0.0] * 10 + [1.0] * 10, ["a"] * 10 + ["b"] * 10
    interval = mean_interval(values, types)
    assert (interval.method, interval.low, interval.high) == ("stratified", 0.5, 0.5)
    plain = mean_interval(values, types, method="tasks")
    assert (plain.low, plain.high) == pytest.approx((0.26, 0.74), abs=0.03)


def test_clusters_count_as_one_draw_each() -> None:
    """Twelve types, half all-0, half all-1, of ten tasks: as good as twelve values, not 120.

    The standard error of twelve zeros and ones is 0.5 / sqrt(11) = 0.151; t with 11 degrees of freedom is
    2.201.
    """
    values = [float(i % 2) for i in range(12) for _ in range(10)]
    types = [f"type {i}" for i in range(12) for _ in range(10)]
    interval = mean_interval(values, types, resamples=40_000)
    assert (interval.method, interval.tasks, interval.types) == ("cluster", 120, 12)
    assert interval.high - 0.5 == pytest.approx(2.201 * 0.151, abs=0.05)


@pytest.mark.parametrize(
    ("count", "method"), [(1, "tasks"), (2, "stratified"), (9, "stratified"), (10, "cluster")]
)
def test_the_number_of_types_decides(count: int, method: str) -> None:
    types = [f"type {i % count}" for i in range(60)]
    assert choose_method(types) == method
    assert mean_interval([float(i % 7) for i in range(60)], types).method == method


def test_types_with_few_tasks_share_a_stratum() -> None:
    """Six values, each of its own type: strata of one would have no spread at all; together they have."""
    values = [0.0, 1.0] * 3
    interval = mean_interval(values, list("abcdef"))
    assert interval.method == "stratified"
    assert interval.high - interval.low > 0.5


def test_equal_values_are_not_certain_where_the_range_is_known() -> None:
    """No success in 100: the largest share that 100 failures do not refute is 1 - 0.05^(1/100) = 0.0295."""
    interval = mean_interval([0.0] * 100, bounds=(0.0, 1.0))
    assert (interval.method, interval.low) == ("constant", 0.0)
    assert interval.high == pytest.approx(0.0295, abs=1e-4)
    equal = mean_interval([0.0] * 100, bounds=(-1.0, 1.0))
    assert (equal.low, equal.high) == pytest.approx((-0.0295, 0.0295), abs=1e-4)
    unknown = mean_interval([3.0] * 5)
    assert (unknown.low, unknown.high, unknown.method) == (3.0, 3.0, "constant")


def test_a_single_value_says_almost_nothing() -> None:
    interval = mean_interval([1.0], bounds=(0.0, 1.0))
    assert (interval.low, interval.high) == pytest.approx((0.05, 1.0))


def test_wilson_by_hand() -> None:
    """8 of 10 with z = 1.96: centre 0.8 + 0.1921 = 0.9921, reach 1.96 * sqrt(0.016 + 0.0096) = 0.3136,
    both over 1.3842: [0.490, 0.943].
    """
    interval = wilson_interval(8, 10)
    assert (interval.mean, interval.method) == (0.8, "wilson")
    assert (interval.low, interval.high) == pytest.approx((0.4902, 0.9433), abs=2e-4)
    assert wilson_interval(0, 10).low == 0.0
    assert wilson_interval(10, 10).high == 1.0


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [
        (1, 12.7062),
        (2, 4.3027),
        (3, 3.1824),
        (4, 2.7764),
        (9, 2.2622),
        (30, 2.0423),
        (100, 1.9840),
        (500, 1.96),
    ],
)
def test_students_quantiles_are_the_table_s(freedom: int, quantile: float) -> None:
    assert intervals._student_quantile(0.975, freedom) == pytest.approx(quantile, abs=1e-4)


def test_the_seed_decides_and_the_order_of_types_does_not() -> None:
    values = [float(v) for v in np.random.default_rng(0).random(50)]
    types = [f"type {i % 5}" for i in range(50)]
    assert mean_interval(values, types, seed=3) == mean_interval(values, types, seed=3)
    assert mean_interval(values, types, seed=3) != mean_interval(values, types, seed=4)
    renamed = mean_interval(values, [name.replace("type", "kind") for name in types], seed=3)
    assert renamed == mean_interval(values, types, seed=3)


def test_a_thousand_tasks_take_well_under_a_second() -> None:
    values = [float(v) for v in np.random.default_rng(0).random(1000)]
    began = time.perf_counter()
    mean_interval(values)
    assert time.perf_counter() - began < 3.0  # about 0.1 s on an idle core


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"values": []}, "no values"),
        ({"values": [1.0, math.nan]}, "finite"),
        ({"values": [1.0], "types": ["a", "b"]}, "2 types"),
        ({"values": [1.0, 2.0], "bounds": (0.0, 1.0)}, "outside"),
        ({"values": [1.0, 2.0], "level": 1.0}, "level"),
        ({"values": [1.0, 2.0], "resamples": 0}, "resamples"),
        ({"values": [1.0, 2.0], "method": "cluster"}, "two types"),
    ],
)
def test_unusable_arguments_are_refused(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        mean_interval(**arguments)


@pytest.mark.parametrize(
    ("successes", "trials", "level"), [(-1, 5, 0.95), (6, 5, 0.95), (0, 0, 0.95), (1, 2, 0.0)]
)
def test_impossible_counts_are_refused(successes: int, trials: int, level: float) -> None:
    with pytest.raises(ValueError, match=r"impossible|level"):
        wilson_interval(successes, trials, level=level)


VALUES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30)


@settings(deadline=None, max_examples=60)
@given(VALUES, st.integers(1, 14), st.integers(0, 5))
def test_an_interval_holds_its_mean_and_keeps_its_bounds(values: list[float], kinds: int, seed: int) -> None:
    types = [f"type {i % kinds}" for i in range(len(values))]
    interval = mean_interval(values, types, bounds=(0.0, 1.0), resamples=300, seed=seed)
    assert 0.0 <= interval.low <= interval.mean <= interval.high <= 1.0
    assert interval.mean == pytest.approx(sum(values) / len(values))
    assert interval.tasks == len(values)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 8), min_size=2, max_size=20), st.integers(1, 3), st.integers(-4, 4))
def test_intervals_move_and_stretch_with_their_values(values: list[int], scale: int, shift: int) -> None:
    """Of a*x + b, with a > 0, every end is a*end + b: resampling does not look at the values."""
    plain = mean_interval([float(v) for v in values], resamples=200)
    moved = mean_interval([float(scale * v + shift) for v in values], resamples=200)
    for end in ("mean", "low", "high"):
        assert getattr(moved, end) == pytest.approx(scale * getattr(plain, end) + shift, abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 50), st.data())
def test_wilson_is_symmetric(trials: int, data: st.DataObject) -> None:
    """Counting failures in place of successes mirrors the interval."""
    successes = data.draw(st.integers(0, trials))
    one, other = wilson_interval(successes, trials), wilson_interval(trials - successes, trials)
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low), abs=1e-12)
