"""Batches of pairs for the tests of the objectives."""

from __future__ import annotations

import dataclasses

import torch
from hypothesis import strategies as st
from torch import Tensor

from multiturn.objective import PairLogps

SIDES = ("chosen", "rejected")


def random_logps(
    num_turns_chosen: list[int],
    num_turns_rejected: list[int],
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> PairLogps:
    """Negative log-probabilities of some nats, padded to the longest row of each side."""
    generator = torch.Generator().manual_seed(seed)

    def draw(num_turns: list[int]) -> Tensor:
        shape = (len(num_turns), max(num_turns))
        return (-8 * torch.rand(shape, generator=generator, dtype=torch.float64)).to(dtype)

    return PairLogps(
        policy_chosen=draw(num_turns_chosen),
        policy_rejected=draw(num_turns_rejected),
        reference_chosen=draw(num_turns_chosen),
        reference_rejected=draw(num_turns_rejected),
        num_turns_chosen=torch.tensor(num_turns_chosen),
        num_turns_rejected=torch.tensor(num_turns_rejected),
    )


def swapped(logps: PairLogps) -> PairLogps:
    """The same pairs with the roles of their sides exchanged."""
    return PairLogps(
        policy_chosen=logps.policy_rejected,
        policy_rejected=logps.policy_chosen,
        reference_chosen=logps.reference_rejected,
        reference_rejected=logps.reference_chosen,
        num_turns_chosen=logps.num_turns_rejected,
        num_turns_rejected=logps.num_turns_chosen,
        num_tokens_chosen=logps.num_tokens_rejected,
        num_tokens_rejected=logps.num_tokens_chosen,
    )


def counted(logps: PairLogps) -> PairLogps:
    """`logps` with numbers of tokens: three for each turn, and one to end the conversation."""
    return dataclasses.replace(
        logps,
        num_tokens_chosen=3 * logps.num_turns_chosen + 1,
        num_tokens_rejected=3 * logps.num_turns_rejected + 1,
    )


def widened(logps: PairLogps, extra: int, garbage: float) -> PairLogps:
    """`logps` with `garbage` in every padded entry and in `extra` more columns."""

    def widen(values: Tensor, num_turns: Tensor) -> Tensor:
        wide = torch.full((len(values), values.shape[1] + extra), garbage, dtype=values.dtype)
        for row, (source, total) in enumerate(zip(values, num_turns.tolist(), strict=True)):
            wide[row, :total] = source[:total]
        return wide

    return dataclasses.replace(
        logps,
        **{
            f"{model}_{side}": widen(getattr(logps, f"{model}_{side}"), getattr(logps, f"num_turns_{side}"))
            for model in ("policy", "reference")
            for side in SIDES
        },
    )


@st.composite
def pair_batch(draw: st.DrawFn) -> PairLogps:
    """Up to four pairs of trajectories of one to six turns, in float64."""
    size = draw(st.integers(1, 4))
    turns = st.lists(st.integers(1, 6), min_size=size, max_size=size)
    return random_logps(draw(turns), draw(turns), seed=draw(st.integers(0, 2**32)))
