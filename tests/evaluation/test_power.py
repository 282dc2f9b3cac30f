"""The number of tasks it takes, worked by hand, and by playing it out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from multiturn.evaluation.power import tasks_needed


def test_by_hand() -> None:
    """Differences 1, 0, 0, 1: mean 0.5, squared deviations 4 x 0.25 over 3, so s^2 = 1/3.

    z(0.975) + z(0.8) = 1.95996 + 0.84162 = 2.80159; its square is 7.84888. Times (1/3) / 0.25 = 4/3 that is
    10.465, so 11 tasks, 7 more. Four tasks find 2.80159 * 0.57735 / 2 = 0.80875.
    """
    power = tasks_needed([1.0, 0.0, 0.0, 1.0])
    assert (power.tasks, power.mean, power.needed, power.more) == (4, 0.5, 11, 7)
    assert power.deviation == pytest.approx(math.sqrt(1 / 3))
    assert power.detectable == pytest.approx(0.80875, abs=1e-5)
    assert (power.level, power.power) == (0.95, 0.8)


def test_another_level_and_power() -> None:
    """z(0.95) + z(0.9) = 1.64485 + 1.28155 = 2.92641; squared 8.56385, times 4/3 is 11.419: 12 tasks."""
    assert tasks_needed([1.0, 0.0, 0.0, 1.0], level=0.9, power=0.9).needed == 12


def test_the_sign_of_the_difference_does_not_matter() -> None:
    ours, theirs = (tasks_needed([sign * d for d in (1.0, 0.0, 0.5)]) for sign in (1, -1))
    assert (ours.needed, ours.detectable) == (theirs.needed, theirs.detectable)


def test_enough_tasks_need_no_more() -> None:
    assert tasks_needed([1.0, 0.0, 0.0, 1.0] * 10).more == 0
    assert tasks_needed([0.5, 0.5]).needed == 2  # no spread


def test_no_difference_takes_no_number() -> None:
    power = tasks_needed([1.0, -1.0])
    assert (power.needed, power.more) == (None, None)
    assert power.detectable > 0
    assert math.fsum([0.1, 0.2, -0.3]) != 0.0  # what rounding leaves is no difference either
    assert tasks_needed([0.1, 0.2, -0.3]).needed is None


@pytest.mark.parametrize(
    ("differences", "options", "message"),
    [
        ([0.5], {}, "at least two"),
        ([], {}, "at least two"),
        ([0.5, math.nan], {}, "not a finite number"),
        ([0.5, 0.0], {"level": 1.0}, "level is 1.0"),
        ([0.5, 0.0], {"power": 0.5}, "power is 0.5"),
    ],
)
def test_nonsense_is_refused(differences: list[float], options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tasks_needed(differences, **options)


def test_so_many_tasks_do_find_it_as_often() -> None:
    """Wins 40%, losses 20%: of draws of the number asked for, about 80% are significant."""
    rng = np.random.default_rng(0)
    seen = np.repeat([1.0, 0.0, -1.0], [40, 40, 20])
    needed = tasks_needed(list(seen)).needed
    assert needed is not None
    draws = rng.choice(seen, size=(4000, needed))
    errors = draws.std(axis=1, ddof=1) / math.sqrt(needed)
    share = (draws.mean(axis=1) / errors > 1.96).mean()
    assert 0.75 < share < 0.85
