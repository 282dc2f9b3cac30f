"""Scores: what of a turn its weight multiplies."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["Score", "SideLogps", "log_ratios", "token_shares"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SideLogps:
    """One side of a batch of pairs; zero, not garbage, beyond a row's turns.

    Attributes:
        policy: ``[B, T]`` nats under the policy, with its gradient.
        reference: ``[B, T]`` nats under the reference, or None where there is none.
        num_tokens: ``[B]`` scored tokens as floating-point numbers, or None where they are not known.
    """

    policy: Tensor
    reference: Tensor | None
    num_tokens: Tensor | None


Score: TypeAlias = "Callable[[SideLogps], Tensor]"
"""From a side to ``[B, T]`` in nats, zero where the side's log-probabilities are."""


def log_ratios(side: SideLogps) -> Tensor:
    """Policy less reference, turn by turn (M4).

    Raises:
        ValueError: There is no reference.
    """
    if side.reference is None:
        raise ValueError("this objective reads the reference's log-probabilities, and there are none")
    return side.policy - side.reference


def token_shares(side: SideLogps) -> Tensor:
    """The policy's log-probability of a turn as its share of the mean over the trajectory's tokens (M25).

    Raises:
        ValueError: The numbers of tokens are not known.
    """
    if side.num_tokens is None:
        raise ValueError("this objective counts tokens; give num_tokens_chosen and num_tokens_rejected")
    return side.policy / side.num_tokens[:, None]
