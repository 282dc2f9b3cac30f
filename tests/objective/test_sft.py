"""SFT: worked by hand, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from multiturn.objective import sft


def test_sft_by_hand() -> None:
    """Rows of 3 turns with 6 tokens, and 1 turn with 2 tokens, whose padding is garbage.

    Per token: (1 + 2 + 3) / 6 = 1 and 5 / 2 = 2.5. Over the batch every token counts alike:
    (6 * 1 + 2 * 2.5) / 8 = 11 / 8 = 1.375.
    """
    turn_logps = torch.tensor([[-1.0, -2.0, -3.0], [-5.0, math.nan, math.inf]], dtype=torch.float64)
    turn_logps.requires_grad_()
    output = sft(turn_logps, torch.tensor([6, 2]), num_turns=torch.tensor([3, 1]))
    assert output.losses.tolist() == [1.0, 2.5]
    assert output.counts.tolist() == [6.0, 2.0]
    assert output.loss.item() == 1.375
    assert set(output.metrics) == {"nll/token"}
    assert output.metrics["nll/token"].tolist() == [1.0, 2.5]
    assert output.turn_rewards_chosen is None
    (gradient,) = torch.autograd.grad(output.loss, turn_logps)
    assert gradient.tolist() == [[-0.125] * 3, [-0.125, 0.0, 0.0]]


def test_sft_without_numbers_of_turns_sums_every_column() -> None:
    assert sft(torch.tensor([[-1.0, -3.0]]), torch.tensor([2])).losses.tolist() == [2.0]


@pytest.mark.parametrize(
    ("num_tokens", "num_turns", "message"),
    [
        (torch.tensor([0]), None, "num_tokens must hold integers of at least 1"),
        (torch.tensor([1.0]), None, "num_tokens must hold integers of at least 1"),
        (torch.tensor([1, 1]), None, "has 1 rows"),
        (torch.tensor([1]), torch.tensor([0]), "num_turns is 0"),
        (torch.tensor([1]), torch.tensor([3]), "only 2 columns"),
        (torch.tensor([1]), torch.tensor([2, 2]), "has 1 rows"),
    ],
)
def test_sft_refuses_what_it_cannot_count(num_tokens: Tensor, num_turns: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sft(torch.zeros(1, 2), num_tokens, num_turns=num_turns)


@pytest.mark.parametrize(
    ("given_dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_sft_works_in_float32_at_least(given_dtype: torch.dtype, expected: torch.dtype) -> None:
    output = sft(torch.zeros(2, 3, dtype=given_dtype), torch.tensor([5, 6]))
    assert {output.losses.dtype, output.counts.dtype, output.loss.dtype} == {expected}
