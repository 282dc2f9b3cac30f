"""The objectives beside DMPO and DPO (M19 to M25): worked by hand, at their limits, by their properties."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_pairs import counted, pair_batch, swapped
from torch import Tensor

from multiturn.objective import (
    PAIR_OBJECTIVES,
    WEIGHTINGS,
    LinkSettings,
    PairLogps,
    dmpo,
    dpo,
    links,
)

OTHERS = ("ipo", "hinge", "cdpo", "robust", "simpo")
SMOOTHED = ("cdpo", "robust")
EPSILONS = st.floats(0.0, 0.49)
FINITE = st.floats(-50.0, 50.0)


def worked() -> PairLogps:
    """T_w = 3 and T_l = 2 turns of 7 and 4 tokens; the last rejected turn is padding.

    rho_w = (-1.3 + 2, -3.4 + 2, -.9 + 3) = (.7, -1.4, 2.1), 1.4 in all; rho_l = (-2.5 + 2, -.8 + 2) =
    (-.5, 1.2), .7 in all. At beta = 1/2 and weight 1: Phi_w = .7, Phi_l = .35, m = .35.
    """
    return PairLogps(
        policy_chosen=torch.tensor([[-1.3, -3.4, -0.9]], dtype=torch.float64),
        reference_chosen=torch.tensor([[-2.0, -2.0, -3.0]], dtype=torch.float64),
        policy_rejected=torch.tensor([[-2.5, -0.8, -7.0]], dtype=torch.float64),
        reference_rejected=torch.tensor([[-2.0, -2.0, -5.0]], dtype=torch.float64),
        num_turns_chosen=torch.tensor([3]),
        num_turns_rejected=torch.tensor([2]),
        num_tokens_chosen=torch.tensor([7]),
        num_tokens_rejected=torch.tensor([4]),
    )


def run(name: str, logps: PairLogps, *, beta: float = 0.5, gamma: float = 0.5, **more: float) -> Tensor:
    return PAIR_OBJECTIVES[name](logps, beta=beta, gamma=gamma, **more).losses


# ---- by hand ----


def test_ipo_by_hand() -> None:
    """m / beta = 1.4 - .7 = .7 and 1 / (2 beta) = 1: the loss is (.7 - 1)^2 = .09."""
    assert run("ipo", worked()).tolist() == pytest.approx([0.09])


def test_ipo_with_the_weights_of_dmpo_by_hand() -> None:
    """g = 1/2: phi(., 3) = (1, 3/7, 1/7) and phi(., 2) = (1, 1/3).

    m / beta = (.7 - .6 + .3) - (-.5 + .4) = .5, so the loss is (.5 - 1)^2 = .25.
    """
    objective = dataclasses.replace(PAIR_OBJECTIVES["ipo"], weighting=WEIGHTINGS["phi"])
    assert objective(worked(), beta=0.5, gamma=0.5).losses.tolist() == pytest.approx([0.25])


def test_ipo_at_the_reference_by_hand() -> None:
    """m = 0: the loss is 1 / (4 beta^2), 25 for beta = .1, and its slope in m is -1 / beta^2 = -100."""
    margins = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    loss = links.squared(margins, LinkSettings(beta=0.1))
    (slope,) = torch.autograd.grad(loss.sum(), margins)
    assert loss.item() == pytest.approx(25)
    assert slope.item() == pytest.approx(-100)


def test_hinge_by_hand() -> None:
    """m = .35: the loss is 1 - .35. With the sides swapped it is 1 + .35; at beta = 2, m is 1.4 and it 0."""
    assert run("hinge", worked()).tolist() == pytest.approx([0.65])
    assert run("hinge", swapped(worked())).tolist() == pytest.approx([1.35])
    assert run("hinge", worked(), beta=2.0).tolist() == [0.0]


def test_cdpo_by_hand() -> None:
    """m = .35, epsilon = .2: -log sigmoid(.35) = log(1 + e^-.35) = .533383, and .2 * .35 = .07 more.

    The long way: .8 * .533383 + .2 * log(1 + e^.35) = .8 * .533383 + .2 * .883383 = .603383.
    """
    (loss,) = run("cdpo", worked(), label_smoothing=0.2).tolist()
    assert loss == pytest.approx(0.603383, abs=1e-6)
    assert loss == pytest.approx(0.8 * math.log1p(math.exp(-0.35)) + 0.2 * math.log1p(math.exp(0.35)))


def test_robust_dpo_by_hand() -> None:
    """m = .35, epsilon = .2: .533383 - .2 / .6 * .35 = .533383 - .116667 = .416716.

    The long way: (.8 * .533383 - .2 * .883383) / .6 = (.426706 - .176677) / .6 = .416716.
    """
    (loss,) = run("robust", worked(), label_smoothing=0.2).tolist()
    assert loss == pytest.approx(0.416716, abs=1e-6)
    both = math.log1p(math.exp(-0.35)), math.log1p(math.exp(0.35))
    assert loss == pytest.approx((0.8 * both[0] - 0.2 * both[1]) / 0.6)


def test_simpo_by_hand() -> None:
    """Means over tokens: -5.6 / 7 = -.8 and -3.3 / 4 = -.825. beta = 2, target .3.

    Rewards -1.6 and -1.65, m = .05; the loss is -log sigmoid(.05 - .3) = log(1 + e^.25) = .825939.
    """
    output = PAIR_OBJECTIVES["simpo"](worked(), beta=2.0, gamma=0.5, target_margin=0.3)
    assert output.losses.tolist() == pytest.approx([0.825939], abs=1e-6)
    rewards = {name: values.item() for name, values in output.metrics.items()}
    assert rewards["rewards/chosen"] == pytest.approx(-1.6)
    assert rewards["rewards/rejected"] == pytest.approx(-1.65)
    assert rewards["rewards/margins"] == pytest.approx(0.05)
    assert rewards["rewards/accuracies"] == 1.0
    assert rewards["logps/chosen"] == pytest.approx(-5.6)
    assert output.turn_rewards_chosen is not None
    # 2 / 7 of each turn's log-probability
    assert output.turn_rewards_chosen.tolist()[0] == pytest.approx([-2.6 / 7, -6.8 / 7, -1.8 / 7])


def test_simpo_with_the_last_turn_alone_by_hand() -> None:
    """N stays the number of all tokens: -.9 / 7 and -.8 / 4. beta = 7, target 0: m = -.9 + 1.4 = .5."""
    objective = dataclasses.replace(PAIR_OBJECTIVES["simpo"], weighting=WEIGHTINGS["last"])
    output = objective(worked(), beta=7.0, gamma=0.5, target_margin=0.0)
    assert output.metrics["rewards/margins"].tolist() == pytest.approx([0.5])
    assert output.losses.tolist() == pytest.approx([math.log1p(math.exp(-0.5))])


# ---- what they read ----


def test_simpo_reads_no_reference() -> None:
    """With one, whatever it says, or without: the loss is the same, and without there are no log-ratios."""
    bare = dataclasses.replace(worked(), reference_chosen=None, reference_rejected=None)
    assert torch.equal(run("simpo", bare), run("simpo", worked()))
    assert not [name for name in PAIR_OBJECTIVES["simpo"](bare, beta=1, gamma=1).metrics if "ratio" in name]
    assert {name for name, one in PAIR_OBJECTIVES.items() if not one.reads_reference} == {"simpo"}
    for name in set(PAIR_OBJECTIVES) - {"simpo"}:
        with pytest.raises(ValueError, match="reads the reference's log-probabilities"):
            run(name, bare)


def test_simpo_needs_the_numbers_of_tokens() -> None:
    bare = dataclasses.replace(worked(), num_tokens_chosen=None, num_tokens_rejected=None)
    with pytest.raises(ValueError, match="counts tokens"):
        run("simpo", bare)


@pytest.mark.parametrize("name", sorted(PAIR_OBJECTIVES))
@pytest.mark.parametrize("setting", ["label_smoothing", "target_margin"])
def test_a_setting_is_read_or_refused(name: str, setting: str) -> None:
    objective = PAIR_OBJECTIVES[name]
    by_itself = run(name, worked())
    own = getattr(objective, setting)
    if own is None:
        with pytest.raises(ValueError, match=f"{setting} is 0.25, but this objective reads none"):
            run(name, worked(), **{setting: 0.25})
    else:
        assert torch.equal(run(name, worked(), **{setting: own}), by_itself)
        assert not torch.equal(run(name, worked(), **{setting: 0.25}), by_itself)


@pytest.mark.parametrize(
    ("name", "setting", "value", "says"),
    [
        ("cdpo", "label_smoothing", 0.5, r"\[0, 0.5\)"),
        ("robust", "label_smoothing", -0.1, r"\[0, 0.5\)"),
        ("robust", "label_smoothing", math.nan, r"\[0, 0.5\)"),
        ("simpo", "target_margin", -1.0, "0 or more"),
        ("simpo", "target_margin", math.inf, "0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, setting: str, value: float, says: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} is {value}.*{says}"):
        run(name, worked(), **{setting: value})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"reference_chosen": None}, "one side has reference"),
        ({"num_tokens_chosen": torch.tensor([0])}, "num_tokens_chosen must hold integers of at least 1"),
        ({"num_tokens_rejected": torch.tensor([1.0])}, "num_tokens_rejected must hold integers"),
        ({"num_tokens_rejected": torch.tensor([1, 1])}, "policy_rejected has 1 rows"),
    ],
)
def test_batches_that_do_not_fit_together_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(worked(), **changes)


# ---- limits and symmetries ----


@given(batch=pair_batch(), beta=st.floats(0.01, 2.0))
@settings(deadline=None)
def test_no_smoothing_is_dpo_to_the_last_bit(batch: PairLogps, beta: float) -> None:
    expected = dpo(batch, beta=beta).losses
    for name in SMOOTHED:
        assert torch.equal(run(name, batch, beta=beta, label_smoothing=0.0), expected)


@given(batch=pair_batch(), beta=st.floats(0.01, 2.0), gamma=st.floats(0.0, 1.0))
@settings(deadline=None)
def test_dpo_with_the_weights_of_dmpo_is_dmpo_and_the_other_way_round(
    batch: PairLogps, beta: float, gamma: float
) -> None:
    for name, weighting, other in (
        ("dpo", "phi", dmpo(batch, beta=beta, gamma=gamma)),
        ("dmpo", "uniform", dpo(batch, beta=beta)),
    ):
        objective = dataclasses.replace(PAIR_OBJECTIVES[name], weighting=WEIGHTINGS[weighting])
        assert torch.equal(objective(batch, beta=beta, gamma=gamma).losses, other.losses)


@given(margin=FINITE, epsilon=EPSILONS)
def test_robust_losses_of_swapped_labels_average_to_the_logistic_loss(margin: float, epsilon: float) -> None:
    """(1 - e) l(m) + e l(-m) = -log sigmoid(m): what makes it unbiased."""
    how = LinkSettings(beta=0.1, label_smoothing=epsilon)
    margins = torch.tensor([margin, -margin], dtype=torch.float64)
    kept, flipped = links.robust(margins, how).tolist()
    expected = links.logistic(margins, how)[0].item()
    assert (1 - epsilon) * kept + epsilon * flipped == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(margin=FINITE, epsilon=EPSILONS)
def test_cdpo_is_the_expected_logistic_loss(margin: float, epsilon: float) -> None:
    how = LinkSettings(beta=0.1, label_smoothing=epsilon)
    margins = torch.tensor([margin, -margin], dtype=torch.float64)
    right, wrong = links.logistic(margins, how).tolist()
    smoothed = links.conservative(margins, how)[0].item()
    assert smoothed == pytest.approx((1 - epsilon) * right + epsilon * wrong, rel=1e-9, abs=1e-9)


@given(margin=FINITE, other=FINITE, epsilon=st.floats(0.01, 0.49))
def test_cdpo_is_least_where_sigma_says_what_labels_do(margin: float, other: float, epsilon: float) -> None:
    """sigma(m) = 1 - e, that is m = log((1 - e) / e); IPO is least at m = 1/2."""
    best = math.log((1 - epsilon) / epsilon)
    how = LinkSettings(beta=0.3, label_smoothing=epsilon)
    margins = torch.tensor([best, margin], dtype=torch.float64)
    least, some = links.conservative(margins, how).tolist()
    assert least <= some + 1e-12
    aim, anywhere = links.squared(torch.tensor([0.5, other], dtype=torch.float64), how).tolist()
    assert aim == 0.0 <= anywhere


@given(batch=pair_batch(), beta=st.floats(0.01, 2.0))
@settings(deadline=None)
def test_swapping_the_sides_swaps_the_sign_of_the_margin(batch: PairLogps, beta: float) -> None:
    """So IPO's two losses differ by ((m + 1/2)^2 - (m - 1/2)^2) / beta^2 = 2 m / beta^2."""
    batch = counted(batch)
    for name in OTHERS:
        objective = PAIR_OBJECTIVES[name]
        ours, theirs = (objective(logps, beta=beta, gamma=0.7) for logps in (batch, swapped(batch)))
        margins = ours.metrics["rewards/margins"]
        assert torch.equal(theirs.metrics["rewards/margins"], -margins)
        if name == "ipo":
            torch.testing.assert_close(theirs.losses - ours.losses, 2 * margins / beta**2)


@given(batch=pair_batch(), shift=st.floats(-5.0, 5.0))
@settings(deadline=None)
def test_a_shared_shift_of_all_log_ratios_of_equally_long_sides_cancels(
    batch: PairLogps, shift: float
) -> None:
    """Every loss but SimPO's sees log-ratios only, and of these only the difference of the sides."""
    same = dataclasses.replace(
        batch,
        policy_rejected=batch.policy_chosen - 1.0,
        reference_rejected=batch.reference_chosen,
        num_turns_rejected=batch.num_turns_chosen,
    )
    moved = dataclasses.replace(
        same, policy_chosen=same.policy_chosen + shift, policy_rejected=same.policy_rejected + shift
    )
    for name in ("ipo", "hinge", *SMOOTHED):
        torch.testing.assert_close(run(name, moved), run(name, same), rtol=1e-9, atol=1e-9)


@given(margins=st.lists(FINITE, min_size=2, max_size=2, unique=True), epsilon=EPSILONS)
def test_losses_that_fall_with_the_margin(margins: list[float], epsilon: float) -> None:
    """Logistic, robust and SimPO's fall everywhere, the hinge up to 1."""
    how = LinkSettings(beta=0.1, label_smoothing=epsilon, target_margin=0.5)
    ordered = torch.tensor(sorted(margins), dtype=torch.float64)
    for link in (links.logistic, links.robust, links.logistic_beyond, links.hinge):
        low, high = link(ordered, how).tolist()
        assert high <= low


def test_a_larger_target_asks_for_more() -> None:
    losses = [run("simpo", worked(), target_margin=target).item() for target in (0.0, 0.5, 1.0)]
    assert losses == sorted(losses)
    assert losses[0] == pytest.approx(-math.log(1 / (1 + math.exp(-0.5 * (-0.8 + 0.825)))))
