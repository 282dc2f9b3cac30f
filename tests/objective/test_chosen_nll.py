"""The chosen side's likelihood beside a pairwise loss (M15)."""

from __future__ import annotations

import math

import pytest
import torch

from multiturn.objective import PairLogps, dmpo, with_chosen_nll

CHOSEN = torch.tensor([[-1.0, -2.0], [-3.0, 99.0]], dtype=torch.float64)
TURNS = torch.tensor([2, 1])
TOKENS = torch.tensor([6, 4])


def pairs() -> PairLogps:
    """Policy equal to reference: the pairwise loss is ln 2 whatever the weights."""
    rejected = torch.tensor([[-4.0], [-5.0]], dtype=torch.float64)
    return PairLogps(
        policy_chosen=CHOSEN,
        policy_rejected=rejected,
        reference_chosen=CHOSEN,
        reference_rejected=rejected,
        num_turns_chosen=TURNS,
        num_turns_rejected=torch.tensor([1, 1]),
    )


def test_by_hand() -> None:
    """First pair: (1 + 2) / 6 = 0.5 nats per token; second: 3 / 4, its padding of 99 ignored.

    With weight 0.2 the losses are ln 2 + 0.1 and ln 2 + 0.15.
    """
    output = with_chosen_nll(dmpo(pairs(), beta=0.1, gamma=0.7), CHOSEN, TOKENS, TURNS, weight=0.2)
    expected = torch.tensor([math.log(2) + 0.1, math.log(2) + 0.15], dtype=torch.float64)
    torch.testing.assert_close(output.losses, expected)
    torch.testing.assert_close(output.metrics["nll/token"], torch.tensor([0.5, 0.75], dtype=torch.float64))
    torch.testing.assert_close(output.loss, expected.mean())
    assert output.metrics["rewards/margins"].tolist() == [0.0, 0.0]


def test_the_gradient_of_a_turn_grows_by_its_share_of_the_tokens() -> None:
    """d/dlogp of weight * NLL / tokens is -weight / tokens for every real turn and nothing for padding."""
    chosen = CHOSEN.clone().requires_grad_()
    empty = dmpo(pairs(), beta=0.1, gamma=0.7)
    output = with_chosen_nll(empty, chosen, TOKENS, TURNS, weight=0.6)
    (gradient,) = torch.autograd.grad(output.losses.sum(), chosen)
    expected = torch.tensor([[-0.1, -0.1], [-0.15, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected)


def test_weight_zero_changes_nothing() -> None:
    output = dmpo(pairs(), beta=0.1, gamma=0.7)
    torch.testing.assert_close(
        with_chosen_nll(output, CHOSEN, TOKENS, TURNS, weight=0.0).losses, output.losses
    )


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_that_means_nothing(weight: float) -> None:
    with pytest.raises(ValueError, match="weight of the chosen NLL"):
        with_chosen_nll(dmpo(pairs(), beta=0.1, gamma=0.7), CHOSEN, TOKENS, TURNS, weight=weight)
