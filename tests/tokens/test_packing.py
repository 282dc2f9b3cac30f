"""Filling passes to a token budget."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.tokens import Rendered, fill_passes, forest_size

Pair = tuple[Rendered, Rendered]


def row(*ids: int) -> Rendered:
    """A conversation whose first token is the prompt and whose others are one turn."""
    return Rendered(token_ids=ids, turns=(-1, *[0] * (len(ids) - 1)), num_turns=1)


def conversations() -> st.SearchStrategy[Rendered]:
    tails = st.lists(st.integers(1, 2), min_size=1, max_size=8)
    return tails.map(lambda tail: row(0, *tail))


def size(rows: list[Pair], *, share: bool = True) -> int:
    return forest_size([sequence for pair in rows for sequence in pair], share=share)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(conversations(), conversations()), min_size=1, max_size=9),
    budget=st.integers(1, 60),
    at_least=st.integers(1, 9),
    share=st.booleans(),
)
def test_passes_keep_the_budget_and_every_row(
    rows: list[Pair], budget: int, at_least: int, *, share: bool
) -> None:
    at_least = min(at_least, len(rows))
    numbered = list(enumerate(rows))
    passes = fill_passes(numbered, lambda item: item[1], max_tokens=budget, share=share, at_least=at_least)
    assert sorted(index for each in passes for index, _ in each) == list(range(len(rows)))
    assert len(passes) >= at_least
    for each in passes:
        assert len(each) == 1 or size([pair for _, pair in each], share=share) <= budget


@settings(deadline=None)
@given(st.lists(st.lists(conversations(), min_size=1, max_size=4), min_size=1, max_size=9))
def test_the_budget_that_all_rows_need_is_enough(rows: list[list[Rendered]]) -> None:
    """What `fill_passes` believes a pass costs is what `plant` lays out: one token less needs two passes."""
    everything = forest_size([sequence for item in rows for sequence in item])
    assert len(fill_passes(rows, lambda item: item, max_tokens=everything, share=True)) == 1
    if everything > max(forest_size(item) for item in rows):
        assert len(fill_passes(rows, lambda item: item, max_tokens=everything - 1, share=True)) > 1


def test_thousands_of_rows_take_a_moment() -> None:
    """Twelve thousand sequences; with every two of them compared this takes 11 s and 1 GiB, not 0.4 s."""
    rows = [(row(0, task, *range(9)), row(0, task, side)) for task in range(600) for side in range(10)]
    started = time.process_time()
    passes = fill_passes(rows, lambda pair: pair, max_tokens=1000, share=True)
    assert time.process_time() - started < 5
    assert sum(len(each) for each in passes) == 6000


def test_by_hand() -> None:
    """Tasks 1 and 2 have two pairs each. With sharing a task takes 1 + 1 + 3 tokens, so two tasks need 9."""
    first = [(row(0, 1, 5), row(0, 1, 6)), (row(0, 1, 5), row(0, 1, 7))]
    second = [(row(0, 2, 5), row(0, 2, 6)), (row(0, 2, 5), row(0, 2, 7))]
    rows = [first[0], second[0], first[1], second[1]]
    assert size(first) == 5
    assert size(rows) == 9
    assert fill_passes(rows, lambda pair: pair, max_tokens=8, share=True) == [first, second]
    assert fill_passes(rows, lambda pair: pair, max_tokens=9, share=True) == [[*first, *second]]
    # Without sharing a pair takes 6: two fill a pass of 12 or 17, and three fill one of 18.
    assert [len(p) for p in fill_passes(rows, lambda pair: pair, max_tokens=17, share=False)] == [2, 2]
    assert [len(p) for p in fill_passes(rows, lambda pair: pair, max_tokens=5, share=False)] == [1] * 4


def test_passes_are_of_like_size() -> None:
    """Six rows of 3 tokens into a budget of 15: two passes of 9 rather than 15 and 3."""
    rows = [(row(i, 1, 2),) for i in range(6)]
    passes = fill_passes(rows, lambda item: item, max_tokens=15, share=True)
    assert [len(each) for each in passes] == [3, 3]


def test_too_few_rows() -> None:
    with pytest.raises(ValueError, match="2 items cannot fill 3 passes"):
        fill_passes([row(0, 1)] * 2, lambda item: (item,), max_tokens=9, share=True, at_least=3)
