"""Forward passes over sequences of like length."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_samples import pairs, policy

from multiturn.models import turn_logps
from multiturn.tokens import Renderer, TokenBatch, collate
from multiturn.training import render_pairs
from multiturn.training.batch import length_groups, logps_by_length


@settings(deadline=None)
@given(st.lists(st.integers(1, 2000), min_size=1, max_size=40))
def test_groups_hold_every_index_once_and_like_lengths(lengths: list[int]) -> None:
    groups = length_groups(lengths)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        inside = [lengths[index] for index in group]
        assert inside[0] == max(inside)
        assert min(inside) >= min(0.9 * inside[0], inside[0] - 16)


def test_groups_by_hand() -> None:
    """400 takes what is above 360; of 100 and 84, 16 tokens apart, the shorter is still like the longer."""
    assert length_groups([100, 400, 84, 365, 83, 359]) == [[1, 3], [5], [0, 2], [4]]


def test_the_sums_are_the_same_in_the_same_order() -> None:
    tiny: Any = policy(dtype=torch.float64)
    rows = render_pairs(pairs(7), Renderer(tiny.tokenizer)).rows
    sequences = [s for row in rows for s in row.sequences]
    batch, lengths = collate(sequences), [s.scored_length for s in sequences]
    assert len(length_groups(lengths)) > 2
    shapes = []

    def run(part: TokenBatch) -> torch.Tensor:
        shapes.append(part.input_ids.shape)
        return turn_logps(tiny.model, part, max_turns=4)

    with torch.no_grad():
        torch.testing.assert_close(logps_by_length(run, batch, lengths), run(batch), rtol=0, atol=1e-12)
    *parts, whole = shapes
    assert sum(a * b for a, b in parts) < whole[0] * whole[1]
