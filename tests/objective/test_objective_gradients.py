"""The gradients of every objective under every weighting (M19 to M25); padding is never read."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_pairs import counted, pair_batch, random_logps, widened
from torch import Tensor

from multiturn.objective import (
    PAIR_OBJECTIVES,
    WEIGHTINGS,
    LinkSettings,
    ObjectiveOutput,
    PairLogps,
    links,
)

OTHERS = ("ipo", "hinge", "cdpo", "robust", "simpo")


def gradients(name: str, logps: PairLogps) -> tuple[Tensor, Tensor]:
    chosen = logps.policy_chosen.clone().requires_grad_()
    rejected = logps.policy_rejected.clone().requires_grad_()
    logps = dataclasses.replace(logps, policy_chosen=chosen, policy_rejected=rejected)
    losses = PAIR_OBJECTIVES[name](logps, beta=0.5, gamma=0.7).losses
    grad_chosen, grad_rejected = torch.autograd.grad(losses.sum(), [chosen, rejected])
    return grad_chosen, grad_rejected


@pytest.mark.parametrize("name", sorted(PAIR_OBJECTIVES))
@pytest.mark.parametrize("weighting", sorted(WEIGHTINGS))
def test_gradcheck(name: str, weighting: str) -> None:
    """Autograd's derivative of every objective under every weighting is that of its finite differences."""
    objective = dataclasses.replace(PAIR_OBJECTIVES[name], weighting=WEIGHTINGS[weighting])
    logps = counted(random_logps([2, 3], [3, 1], seed=3))

    def losses(chosen: Tensor, rejected: Tensor) -> Tensor:
        given = dataclasses.replace(logps, policy_chosen=chosen, policy_rejected=rejected)
        return objective(given, beta=0.1, gamma=0.7).losses

    leaves = [x.clone().requires_grad_() for x in (logps.policy_chosen, logps.policy_rejected)]
    assert torch.autograd.gradcheck(losses, leaves)


@given(batch=pair_batch())
@settings(deadline=None)
def test_a_step_down_makes_chosen_turns_likelier_and_rejected_ones_less(batch: PairLogps) -> None:
    """As long as the margin is short of where the loss is least: of policy = reference, it is 0."""
    batch = dataclasses.replace(
        counted(batch), reference_chosen=batch.policy_chosen, reference_rejected=batch.policy_rejected
    )
    for name in OTHERS:
        chosen, rejected = gradients(name, batch)
        for row, total in zip(chosen, batch.num_turns_chosen.tolist(), strict=True):
            assert bool((row[:total] < 0).all()), name
        for row, total in zip(rejected, batch.num_turns_rejected.tolist(), strict=True):
            assert bool((row[:total] > 0).all()), name


def test_where_nothing_pulls_any_more() -> None:
    """Margins beyond 1 for the hinge, at 1/2 for IPO, at log 9 for cDPO with 1 in 10 swapped; then back."""
    slopes = {}
    for link, margin in (
        (links.hinge, 1.5),
        (links.squared, 0.5),
        (links.conservative, math.log(9)),
        (links.squared, 0.6),
        (links.conservative, 3.0),
        (links.robust, 50.0),
    ):
        margins = torch.tensor([margin], dtype=torch.float64, requires_grad=True)
        loss = link(margins, LinkSettings(beta=0.5, label_smoothing=0.1))
        (slopes[link.__name__, margin],) = torch.autograd.grad(loss.sum(), margins)
    assert slopes["hinge", 1.5] == slopes["squared", 0.5] == 0
    assert slopes["conservative", math.log(9)].item() == pytest.approx(0, abs=1e-15)
    assert slopes["squared", 0.6].item() == pytest.approx(2 * 0.1 / 0.25)
    assert slopes["conservative", 3.0] > 0
    assert slopes["robust", 50.0].item() == pytest.approx(-0.1 / 0.8)


@given(
    batch=pair_batch(),
    extra=st.integers(1, 3),
    garbage=st.sampled_from([math.nan, math.inf, -math.inf, 1e30]),
    weighting=st.sampled_from(sorted(WEIGHTINGS)),
)
@settings(deadline=None, max_examples=25)
def test_padding_is_never_looked_at(batch: PairLogps, extra: int, garbage: float, weighting: str) -> None:
    """Neither losses, metrics nor gradients change, whatever stands beyond a row's turns."""

    def derived(name: str, logps: PairLogps) -> tuple[ObjectiveOutput, Tensor, Tensor]:
        chosen = logps.policy_chosen.clone().requires_grad_()
        rejected = logps.policy_rejected.clone().requires_grad_()
        logps = dataclasses.replace(logps, policy_chosen=chosen, policy_rejected=rejected)
        objective = dataclasses.replace(PAIR_OBJECTIVES[name], weighting=WEIGHTINGS[weighting])
        output = objective(logps, beta=0.1, gamma=0.7)
        grad_chosen, grad_rejected = torch.autograd.grad(output.losses.sum(), [chosen, rejected])
        return output, grad_chosen, grad_rejected

    for name in PAIR_OBJECTIVES:
        plain, chosen, rejected = derived(name, counted(widened(batch, 0, 0.0)))
        padded, padded_chosen, padded_rejected = derived(name, counted(widened(batch, extra, garbage)))
        torch.testing.assert_close(padded.losses, plain.losses, rtol=1e-12, atol=0)
        for metric, values in plain.metrics.items():
            torch.testing.assert_close(padded.metrics[metric], values, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(padded_chosen[:, :-extra], chosen)
        torch.testing.assert_close(padded_rejected[:, :-extra], rejected)
        assert not padded_chosen[:, -extra:].any()
        assert not padded_rejected[:, -extra:].any()


@pytest.mark.parametrize("name", OTHERS)
def test_losses_come_in_float32_at_least_and_stay_finite(name: str) -> None:
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        logps = counted(random_logps([2, 3], [4, 1], dtype=dtype))
        for shift in (-1e4, 0.0, 1e4):
            far = dataclasses.replace(logps, policy_chosen=logps.policy_chosen + shift)
            losses = PAIR_OBJECTIVES[name](far, beta=0.5, gamma=0.7).losses
            assert losses.dtype is expected
            assert bool(losses.isfinite().all())
