"""Turn weights: worked by hand, against exact rational arithmetic, and by their properties."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from multiturn.objective import (
    WEIGHTINGS,
    Weighting,
    checked_weights,
    exponential_weights,
    last_weights,
    turn_weights,
    uniform_weights,
)

GAMMAS = st.one_of(
    st.floats(0.0, 1.0),
    st.floats(1.0 - 1e-9, 1.0),
    st.floats(0.0, 1e-9),
    st.sampled_from([0.0, 1.0, 0.5, 0.7, 1.0 - 2.0**-53, 1.0 - 1e-12, 5e-324]),
)


def exact_phi(turn: int, total: int, gamma: float) -> float:
    """phi(t, T) in rational arithmetic, rounded once at the end."""
    if gamma == 1.0:
        return float(Fraction(total - turn, total))
    g = Fraction(gamma)
    return float((g**turn - g**total) / (1 - g**total))


def misprinted_phi(num_turns: int, gamma: float) -> torch.Tensor:
    """The weights as Eq. 16 of the paper prints them: without the factor g^t."""
    remaining = torch.arange(num_turns, 0, -1, dtype=torch.float64)
    return (1 - gamma**remaining) / (1 - gamma**num_turns)


def test_five_turns_at_gamma_0_7_by_hand() -> None:
    """g^T = .16807, so 1 - g^T = .83193.

    t = 0: (1      - .16807) / .83193 = 1
    t = 1: (.7     - .16807) / .83193 = .53193 / .83193 = .63939
    t = 2: (.49    - .16807) / .83193 = .32193 / .83193 = .38697
    t = 3: (.343   - .16807) / .83193 = .17493 / .83193 = .21027
    t = 4: (.2401  - .16807) / .83193 = .07203 / .83193 = .08658
    """
    weights = turn_weights(torch.tensor([5]), 0.7)
    expected = torch.tensor([[1.0, 0.63939, 0.38697, 0.21027, 0.08658]], dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=0, atol=5e-6)
    assert weights.dtype is torch.float64


def test_the_misprint_is_not_what_we_compute() -> None:
    """Without g^t the weights for T = 5, g = .7 would be 1, .913, .790, .613, .361.

    They agree with ours at t = 0 only, and at g = 0 they are 1 for every turn, which is not single-turn DPO.
    """
    misprint = misprinted_phi(5, 0.7)
    torch.testing.assert_close(
        misprint, torch.tensor([1.0, 0.9134, 0.7897, 0.6130, 0.3606], dtype=torch.float64), rtol=0, atol=5e-5
    )
    ours = turn_weights(torch.tensor([5]), 0.7)[0]
    assert ours[0] == misprint[0] == 1.0
    assert bool((misprint[1:] - ours[1:] > 0.27).all())
    torch.testing.assert_close(ours, misprint * 0.7 ** torch.arange(5, dtype=torch.float64))
    assert misprinted_phi(5, 0.0).tolist() == [1.0] * 5


def test_gamma_zero_scores_the_first_turn_only() -> None:
    weights = turn_weights(torch.tensor([1, 2, 4]), 0.0)
    assert weights.tolist() == [[1.0, 0.0, 0.0, 0.0]] * 3


def test_gamma_one_is_exactly_the_share_of_the_turns_left() -> None:
    """(T - t) / T: for T = 4, the weights 4/4, 3/4, 2/4, 1/4; for T = 3, 3/3, 2/3, 1/3."""
    weights = turn_weights(torch.tensor([4, 3]), 1.0)
    assert weights.tolist() == [[1.0, 0.75, 0.5, 0.25], [1.0, 2 / 3, 1 / 3, 0.0]]
    assert torch.equal(turn_weights(torch.tensor([4, 3]), 1), weights)


@pytest.mark.parametrize("gamma", [1.0 - 2.0**-53, 1.0 - 1e-15, 1.0 - 1e-12, 1.0 - 1e-6, 0.999, 0.7, 1e-9])
@pytest.mark.parametrize("total", [1, 2, 7, 1000])
def test_every_digit_holds_next_to_one_and_for_a_thousand_turns(gamma: float, total: int) -> None:
    weights = turn_weights(torch.tensor([total]), gamma)[0].tolist()
    for turn in sorted({0, 1, total // 2, total - 2, total - 1} & set(range(total))):
        assert weights[turn] == pytest.approx(exact_phi(turn, total, gamma), rel=2e-15, abs=1e-300)


def test_the_naive_formula_would_not_hold_next_to_one() -> None:
    """The accuracy test above has teeth: the fraction as it is printed loses half of its digits here."""
    gamma, total = 1.0 - 2e-9, 7
    naive = (gamma**3 - gamma**total) / (1 - gamma**total)
    exact = exact_phi(3, total, gamma)
    assert abs(naive / exact - 1) > 1e-9
    ours = turn_weights(torch.tensor([total]), gamma)[0, 3].item()
    assert abs(ours / exact - 1) < 1e-15


@given(gamma=GAMMAS, total=st.integers(1, 24))
@example(gamma=5e-324, total=3)
@settings(deadline=None)
def test_weights_agree_with_rational_arithmetic(gamma: float, total: int) -> None:
    weights = turn_weights(torch.tensor([total]), gamma)[0].tolist()
    expected = [exact_phi(turn, total, gamma) for turn in range(total)]
    assert weights == pytest.approx(expected, rel=2e-15, abs=1e-300)


@given(gamma=GAMMAS, totals=st.lists(st.integers(1, 40), min_size=1, max_size=5), extra=st.integers(0, 3))
@settings(deadline=None)
def test_weights_start_at_one_fall_and_end_with_the_trajectory(
    gamma: float, totals: list[int], extra: int
) -> None:
    weights = turn_weights(torch.tensor(totals), gamma, max_turns=max(totals) + extra)
    assert weights.shape == (len(totals), max(totals) + extra)
    assert weights[:, 0].tolist() == [1.0] * len(totals)
    assert bool(((weights >= 0.0) & (weights <= 1.0)).all())
    assert bool((weights.diff(dim=1) <= 0.0).all())
    for row, total in zip(weights, totals, strict=True):
        assert bool((row[total:] == 0.0).all())
        if gamma > 1e-3:  # below it, powers of gamma vanish in float64
            assert bool((row[:total].diff() < 0.0).all())
            assert bool((row[:total] > 0.0).all())


@given(gamma=GAMMAS, total=st.integers(2, 40))
@settings(deadline=None)
def test_no_gamma_gives_uniform_weights(gamma: float, total: int) -> None:
    """The last turn weighs at most 1/T, which it reaches at g = 1: far from trajectory DPO's 1."""
    last = turn_weights(torch.tensor([total]), gamma)[0, -1].item()
    assert last <= (1 + 1e-15) / total  # to the last bit
    assert uniform_weights(torch.tensor([total]))[0, -1].item() == 1.0


@given(lower=GAMMAS, upper=GAMMAS, total=st.integers(1, 40))
@settings(deadline=None)
def test_a_larger_gamma_looks_further(lower: float, upper: float, total: int) -> None:
    lower, upper = sorted((lower, upper))
    near, far = (turn_weights(torch.tensor([total]), gamma) for gamma in (lower, upper))
    assert bool((near <= far + 1e-14).all())


def test_uniform_weights_are_one_on_every_turn_and_zero_beyond() -> None:
    weights = uniform_weights(torch.tensor([1, 3]), max_turns=4)
    assert weights.tolist() == [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]]
    assert weights.dtype is torch.float64


@pytest.mark.parametrize("name", sorted(WEIGHTINGS))
def test_every_weighting_keeps_the_contract(name: str) -> None:
    weights = WEIGHTINGS[name](torch.tensor([2, 5], dtype=torch.int32), 0.9, max_turns=6)
    assert weights.shape == (2, 6)
    assert weights.dtype is torch.float64
    assert bool((weights[0, 2:] == 0).all())
    assert weights[1, 5] == 0
    assert weights[1, 4] > 0
    assert bool((weights[1, :4] > 0).all()) == (name != "last")
    assert WEIGHTINGS[name](torch.tensor([], dtype=torch.int64), 0.9).shape == (0, 0)
    assert torch.equal(checked_weights(WEIGHTINGS[name], torch.tensor([2, 5]), 0.9, max_turns=6), weights)


def test_exponential_weights_by_hand() -> None:
    """1, 1/2, 1/4 whatever the length: nothing is normalized; g = 1 is uniform, g = 0 the first turn."""
    weights = exponential_weights(torch.tensor([3, 1]), 0.5, max_turns=4)
    assert weights.tolist() == [[1.0, 0.5, 0.25, 0.0], [1.0, 0.0, 0.0, 0.0]]
    turns = torch.tensor([4, 2])
    assert torch.equal(exponential_weights(turns, 1.0), uniform_weights(turns))
    assert exponential_weights(turns, 0.0).tolist() == [[1.0, 0.0, 0.0, 0.0]] * 2


@given(gamma=st.floats(0.05, 0.9), turn=st.integers(0, 6))
@settings(deadline=None)
def test_phi_of_long_trajectories_is_exponential(gamma: float, turn: int) -> None:
    """g^t (1 - g^(T-t)) / (1 - g^T): for T = 1000 what is beside g^t is 1."""
    long = torch.tensor([1000])
    phi, plain = turn_weights(long, gamma)[0, turn], exponential_weights(long, gamma)[0, turn]
    assert phi.item() == pytest.approx(plain.item(), rel=1e-12)


def test_the_last_turn_alone() -> None:
    weights = last_weights(torch.tensor([3, 1]), max_turns=4)
    assert weights.tolist() == [[0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    assert weights.dtype is torch.float64


def _gives(weights: object) -> Weighting:
    """A rule that answers the same whatever it is asked."""
    answer: Any = weights
    return lambda num_turns, gamma, /, *, max_turns=None: answer


@pytest.mark.parametrize(
    ("given_weights", "says"),
    [
        ([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], "it gives list"),
        (torch.ones(2, 3, dtype=torch.int64), r"it gives torch.int64; it must be \[2, 3\] in floating point"),
        (torch.ones(2, 2), r"it gives shape \[2, 2\]; it must be \[2, 3\]"),
        (torch.ones(3), r"it gives shape \[3\]"),
        (torch.tensor([[1.0, math.nan, 0.0], [1.0] * 3]), "the weight of turn 1 of 2 is nan"),
        (torch.tensor([[1.0, 1.0, math.nan], [1.0] * 3]), "the weight of turn 2 of 2 is nan"),
        (torch.tensor([[1.0] * 3, [1.0, math.inf, 1.0]]), "the weight of turn 1 of 3 is inf"),
        (torch.ones(2, 3), "it gives weight 1.0 to turn 2 of a trajectory of 2 turns"),
    ],
)
def test_a_rule_that_breaks_the_contract_is_refused(given_weights: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        checked_weights(_gives(given_weights), torch.tensor([2, 3]), 0.7)


def test_a_rule_of_ones_own_keeps_its_weights() -> None:
    """Any floating-point dtype, any sign; only padding has to be zero."""
    own = torch.tensor([[2.0, -1.0, 0.0], [0.0, 0.5, 1.0]])
    weights = checked_weights(_gives(own), torch.tensor([2, 3]), 0.7)
    assert weights.tolist() == own.tolist()
    assert weights.dtype is torch.float64


@pytest.mark.parametrize("gamma", [-1e-9, 1.0 + 1e-9, 2.0, math.nan, math.inf, -math.inf])
def test_gamma_outside_the_unit_interval_is_refused(gamma: float) -> None:
    for rule in (turn_weights, exponential_weights):
        with pytest.raises(ValueError, match=r"gamma is .*\[0, 1\]"):
            rule(torch.tensor([3]), gamma)


@pytest.mark.parametrize("name", sorted(WEIGHTINGS))
@pytest.mark.parametrize(
    ("num_turns", "max_turns", "message"),
    [
        (torch.tensor([2, 0]), None, "row 1 of num_turns is 0"),
        (torch.tensor([-3]), None, "row 0 of num_turns is -3"),
        (torch.tensor([2, 5]), 4, "row 1 of num_turns is 5, but there are only 4 columns"),
        (torch.tensor([2.0]), None, "must hold integers"),
        (torch.tensor([True]), None, "must hold integers"),
        (torch.tensor([[2]]), None, r"must be \[B\]"),
        (torch.tensor(2), None, r"must be \[B\]"),
    ],
)
def test_unusable_numbers_of_turns_are_refused(
    name: str, num_turns: torch.Tensor, max_turns: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        WEIGHTINGS[name](num_turns, 0.7, max_turns=max_turns)
