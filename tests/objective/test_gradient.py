"""The gradient of DMPO: autograd against the formula M7."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_pairs import pair_batch, random_logps
from torch import Tensor

from multiturn.objective import PairLogps, dmpo, dpo, turn_weights, uniform_weights


def gradients(logps: PairLogps, *, beta: float, gamma: float | None) -> tuple[Tensor, Tensor]:
    """Autograd's derivative of the summed loss with respect to the policy's log-probabilities."""
    chosen = logps.policy_chosen.clone().requires_grad_()
    rejected = logps.policy_rejected.clone().requires_grad_()
    logps = dataclasses.replace(logps, policy_chosen=chosen, policy_rejected=rejected)
    output = dpo(logps, beta=beta) if gamma is None else dmpo(logps, beta=beta, gamma=gamma)
    grad_chosen, grad_rejected = torch.autograd.grad(output.losses.sum(), [chosen, rejected])
    return grad_chosen, grad_rejected


def formula(logps: PairLogps, *, beta: float, gamma: float | None) -> tuple[Tensor, Tensor]:
    """M7: minus (chosen) or plus (rejected) ``beta sigma(Phi_l - Phi_w) phi(t, T)``."""
    weights_chosen, weights_rejected = (
        uniform_weights(num_turns, max_turns=width)
        if gamma is None
        else turn_weights(num_turns, gamma, max_turns=width)
        for num_turns, width in (
            (logps.num_turns_chosen, logps.policy_chosen.shape[1]),
            (logps.num_turns_rejected, logps.policy_rejected.shape[1]),
        )
    )
    assert logps.reference_chosen is not None
    assert logps.reference_rejected is not None
    phi_w = beta * (weights_chosen * (logps.policy_chosen - logps.reference_chosen)).sum(1, keepdim=True)
    phi_l = beta * (weights_rejected * (logps.policy_rejected - logps.reference_rejected)).sum(
        1, keepdim=True
    )
    pair_weight = torch.sigmoid(phi_l - phi_w)
    return -beta * pair_weight * weights_chosen, beta * pair_weight * weights_rejected


def test_gradient_by_hand() -> None:
    """T_w = 3, T_l = 2, g = 1/2, beta = 1/2, at a policy that is its reference: sigma(0) = 1/2.

    Chosen:   -1/2 * 1/2 * (1, 3/7, 1/7) = (-1/4, -3/28, -1/28)
    Rejected: +1/2 * 1/2 * (1, 1/3)      = (+1/4, +1/12)
    """
    logps = random_logps([3], [2])
    logps = dataclasses.replace(
        logps, reference_chosen=logps.policy_chosen, reference_rejected=logps.policy_rejected
    )
    chosen, rejected = gradients(logps, beta=0.5, gamma=0.5)
    assert chosen.tolist()[0] == pytest.approx([-1 / 4, -3 / 28, -1 / 28], rel=1e-14)
    assert rejected.tolist()[0] == pytest.approx([1 / 4, 1 / 12], rel=1e-14)


@given(
    batch=pair_batch(),
    beta=st.floats(0.01, 2.0),
    gamma=st.one_of(st.none(), st.floats(0.0, 1.0), st.sampled_from([0.0, 1.0, 1.0 - 1e-12])),
)
@settings(deadline=None)
def test_autograd_gives_the_formula(batch: PairLogps, beta: float, gamma: float | None) -> None:
    for ours, expected in zip(
        gradients(batch, beta=beta, gamma=gamma), formula(batch, beta=beta, gamma=gamma), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-300)


@given(batch=pair_batch(), gamma=st.floats(0.05, 1.0))
@settings(deadline=None)
def test_a_step_down_makes_chosen_turns_likelier_and_rejected_ones_less(
    batch: PairLogps, gamma: float
) -> None:
    chosen, rejected = gradients(batch, beta=0.1, gamma=gamma)
    for row, total in zip(chosen, batch.num_turns_chosen.tolist(), strict=True):
        assert bool((row[:total] < 0).all())
        assert bool((row[:total].diff() > 0).all()), "later turns pull less"
    for row, total in zip(rejected, batch.num_turns_rejected.tolist(), strict=True):
        assert bool((row[:total] > 0).all())


def test_a_pair_told_apart_the_wrong_way_pulls_harder() -> None:
    zero = torch.zeros(2, 2, dtype=torch.float64)
    shift = torch.tensor([[30.0], [-30.0]], dtype=torch.float64)
    logps = PairLogps(
        policy_chosen=zero + shift,
        policy_rejected=zero,
        reference_chosen=zero,
        reference_rejected=zero,
        num_turns_chosen=torch.tensor([2, 2]),
        num_turns_rejected=torch.tensor([2, 2]),
    )
    chosen, _ = gradients(logps, beta=0.1, gamma=1.0)
    # Phi_w = .1 * 30 * (1 + 1/2) = 4.5, so the pairs' weights are sigma(-4.5) and sigma(4.5).
    sigma = 1 / (1 + math.exp(4.5))
    assert chosen[:, 0].tolist() == pytest.approx([-0.1 * sigma, -0.1 * (1 - sigma)])


def test_gradient_of_a_softmax_policy() -> None:
    """M7 with the policy's own parameters: every turn adds ``phi(t, T)`` times its score function.

    A table policy ``softmax(theta[t])`` over four actions; the score of action a at turn t is ``e_a - pi_t``.
    """
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(3, 4, generator=generator, dtype=torch.float64).log_softmax(-1)
    chosen, rejected, beta, gamma = [0, 2, 1], [3, 2], 0.5, 0.7
    policy = theta.log_softmax(-1)
    logps = PairLogps(
        policy_chosen=torch.stack([policy[t, a] for t, a in enumerate(chosen)])[None],
        policy_rejected=torch.stack([policy[t, a] for t, a in enumerate(rejected)])[None],
        reference_chosen=torch.stack([reference[t, a] for t, a in enumerate(chosen)])[None],
        reference_rejected=torch.stack([reference[t, a] for t, a in enumerate(rejected)])[None],
        num_turns_chosen=torch.tensor([3]),
        num_turns_rejected=torch.tensor([2]),
    )
    output = dmpo(logps, beta=beta, gamma=gamma)
    (gradient,) = torch.autograd.grad(output.loss, theta)

    expected = torch.zeros(3, 4, dtype=torch.float64)
    probabilities = theta.detach().softmax(-1)
    pair_weight = torch.sigmoid(-output.metrics["rewards/margins"][0])
    for sign, actions in ((-1, chosen), (1, rejected)):
        phi = turn_weights(torch.tensor([len(actions)]), gamma)[0]
        for turn, action in enumerate(actions):
            score = -probabilities[turn]
            score[action] += 1
            expected[turn] += sign * beta * pair_weight * phi[turn] * score
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)
