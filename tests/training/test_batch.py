"""Forward passes over sequences of like length."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_samples import pair, pairs, policy

from multiturn.models import turn_logps
from multiturn.tokens import PaddedBatch, Renderer, collate
from multiturn.training import render_pairs
from multiturn.training.batch import PASS_COST, length_groups, logps_by_length


@settings(deadline=None)
@given(st.lists(st.integers(1, 2000), min_size=1, max_size=7))
def test_groups_are_the_cheapest(lengths: list[int]) -> None:
    """Against every way to cut the sorted sequences into passes."""

    def cost(groups: list[list[int]]) -> int:
        return sum(max(lengths[i] for i in group) * len(group) + PASS_COST for group in groups)

    groups = length_groups(lengths)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    costs = []
    for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
        starts = [0, *(i + 1 for i, is_cut in enumerate(cuts) if is_cut), len(lengths)]
        costs.append(cost([order[a:b] for a, b in itertools.pairwise(starts)]))
    assert cost(groups) == min(costs)


def test_groups_by_hand() -> None:
    """400 and 365 cost 800 + 64 together and 765 + 128 apart: together. With them, 100 would pad 300."""
    assert length_groups([100, 400, 84, 365]) == [[1, 3], [0, 2]]
    assert length_groups([7]) == [[0]]


def test_the_sums_are_the_same_in_the_same_order() -> None:
    tiny: Any = policy(dtype=torch.float64)
    rows = render_pairs([*pairs(4), pair(9, chosen=12), pair(8, rejected=7)], Renderer(tiny.tokenizer)).rows
    sequences = [s for row in rows for s in row.sequences]
    batch, lengths = collate(sequences), [s.scored_length for s in sequences]
    groups = length_groups(lengths)
    assert len(groups) > 2
    shapes = []

    def run(part: PaddedBatch, passes: int) -> torch.Tensor:
        shapes.append(part.input_ids.shape)
        assert passes == (len(groups) if len(part.num_turns) < len(lengths) else 1)
        return turn_logps(tiny.model, part, max_turns=12, passes=passes)

    with torch.no_grad():
        got = logps_by_length(run, batch, lengths, groups)
        torch.testing.assert_close(got, run(batch, 1), rtol=0, atol=1e-12)
    *parts, whole = shapes
    assert sum(a * b for a, b in parts) < whole[0] * whole[1]
