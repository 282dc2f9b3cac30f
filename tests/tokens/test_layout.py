"""Conversations as a packed forest: every shared prefix once, everything in its place."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.tokens import NO_TURN, PackedForest, Rendered, Segment, forest_size, plant


def conversation(ids: list[int], turns: list[int]) -> Rendered:
    return Rendered(token_ids=tuple(ids), turns=tuple(turns), num_turns=max(turns) + 1)


def ancestors(forest: PackedForest, row: int) -> list[int]:
    """The places of a conversation's tokens, found upwards from the last one that is predicted."""
    last = int((forest.rows == row).nonzero().max())
    prediction = int(forest.scored[last])
    place = int(forest.sources[prediction])
    segment = next(s for s in forest.segments if s.start <= place < s.end)
    path = [p for above in forest.path(segment) for p in range(above.start, above.end) if p <= place]
    final = [
        p
        for p in range(len(forest.input_ids))
        if forest.input_ids[p] == forest.targets[prediction] and parent(forest, p) == place
    ]
    assert final, "what is predicted last stands in the forest, below the place that predicts it"
    return [*path, final[0]]


def parent(forest: PackedForest, place: int) -> int | None:
    """The place of the token before, None for a first one."""
    segment = next(s for s in forest.segments if s.start <= place < s.end)
    if place > segment.start:
        return place - 1
    return None if segment.parent is None else forest.segments[segment.parent].end - 1


@st.composite
def conversations(draw: st.DrawFn) -> Rendered:
    """A prompt, then turns with observations between them, in an alphabet of two or three."""
    turns = [NO_TURN] * draw(st.integers(1, 3))
    for turn in range(draw(st.integers(1, 3))):
        turns += [turn] * draw(st.integers(1, 3)) + [NO_TURN] * draw(st.integers(0, 2))
    ids = draw(st.lists(st.sampled_from([0, 0, 0, 7, 2**40]), min_size=len(turns), max_size=len(turns)))
    return conversation(ids, turns)


@st.composite
def families(draw: st.DrawFn) -> list[Rendered]:
    """Conversations, some of which begin as others do, or are others."""
    rows = draw(st.lists(conversations(), min_size=1, max_size=5))
    for _ in range(draw(st.integers(0, 3))):
        old, new = draw(st.sampled_from(rows)), draw(conversations())
        kept = draw(st.integers(1, len(old.token_ids)))
        before = 1 + max(old.turns[:kept])
        if draw(st.booleans()):
            rows.append(old)
            continue
        tail = [t if t == NO_TURN else t + before for t in new.turns]
        rows.append(conversation([*old.token_ids[:kept], *new.token_ids], [*old.turns[:kept], *tail]))
    return draw(st.permutations(rows))


def test_an_example_worked_by_hand() -> None:
    """In lexicographic order the layout is 2 1, then 5 6 7 3 4, then what the other one adds: 8 9."""
    rows = [
        conversation([5, 6, 7, 8, 9], [-1, 0, 0, -1, 1]),
        conversation([5, 6, 7, 3, 4, 6], [-1, 0, 0, -1, 1, -1]),
        conversation([2, 1], [-1, 0]),
    ]
    forest = plant(rows)
    assert forest.input_ids.tolist() == [2, 1, 5, 6, 7, 3, 4, 8, 9]
    assert forest.positions.tolist() == [0, 1, 0, 1, 2, 3, 4, 3, 4]
    assert forest.segments == (
        Segment(start=0, end=2, below=2, depth=0, parent=None),
        Segment(start=2, end=5, below=9, depth=0, parent=None),
        Segment(start=5, end=7, below=7, depth=3, parent=1),
        Segment(start=7, end=9, below=9, depth=3, parent=1),
    )
    assert list(zip(forest.sources.tolist(), forest.targets.tolist(), strict=True)) == [
        *((0, 1), (2, 6), (3, 7), (5, 4), (7, 9))
    ]
    assert forest.scored.tolist() == [1, 2, 4, 1, 2, 3, 0]
    assert forest.rows.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert forest.turns.tolist() == [0, 0, 1, 0, 0, 1, 0]
    assert forest.num_turns.tolist() == [2, 2, 1]
    assert forest.total_tokens == 12
    assert forest.depth == 5
    assert forest.path(forest.segments[3]) == [forest.segments[1], forest.segments[3]]
    assert forest_size(rows) == 9
    assert forest_size([]) == forest_size([], share=False) == 0


def test_the_last_token_before_a_fork_predicts_several() -> None:
    rows = [
        conversation([1, 2, 3], [-1, -1, 0]),
        conversation([1, 2, 4, 5], [-1, -1, 0, 0]),
        conversation([1, 2, 4, 6], [-1, -1, 0, 0]),
    ]
    forest = plant(rows)
    assert forest.input_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert forest.positions.tolist() == [0, 1, 2, 2, 3, 3]
    assert [(s.start, s.end, s.below, s.parent) for s in forest.segments] == [
        *((0, 2, 6, None), (2, 3, 3, 0), (3, 4, 6, 0), (4, 5, 5, 2), (5, 6, 6, 2))
    ]
    assert forest.sources.tolist() == [1, 1, 3, 3]
    assert forest.targets.tolist() == [3, 4, 5, 6]
    assert forest.scored.tolist() == [0, 1, 2, 1, 3]


def test_a_conversation_that_occurs_twice_stands_once_and_counts_twice() -> None:
    row = conversation([4, 5, 6], [-1, 0, 1])
    forest = plant([row, conversation([4, 5], [-1, 0]), row])
    assert forest.input_ids.tolist() == [4, 5, 6]
    assert forest.total_tokens == 8
    assert forest.scored.tolist() == [0, 1, 0, 0, 1]
    assert forest.rows.tolist() == [0, 0, 1, 2, 2]
    assert forest.turns.tolist() == [0, 1, 0, 0, 1]


def test_a_conversation_that_is_the_beginning_of_another() -> None:
    forest = plant([conversation([1, 2, 3, 4], [-1, 0, -1, 1]), conversation([1, 2], [-1, 0])])
    assert forest.input_ids.tolist() == [1, 2, 3, 4]
    assert forest.sources.tolist() == [0, 2]
    assert forest.scored.tolist() == [0, 1, 0]
    assert forest.rows.tolist() == [0, 0, 1]
    assert [s.parent for s in forest.segments] == [*itertools.chain([None], range(len(forest.segments) - 1))]


def test_without_sharing_each_conversation_is_a_tree_of_its_own() -> None:
    row = conversation([4, 5, 6], [-1, 0, 1])
    rows = [row, conversation([4, 5], [-1, 0]), row]
    forest = plant(rows, share=False)
    assert forest.input_ids.tolist() == [4, 5, 6, 4, 5, 4, 5, 6]
    assert forest.positions.tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
    assert [(s.start, s.end, s.below, s.depth, s.parent) for s in forest.segments] == [
        *((0, 3, 3, 0, None), (3, 5, 5, 0, None), (5, 8, 8, 0, None))
    ]
    assert forest.sources.tolist() == [0, 1, 3, 5, 6]
    assert forest.scored.tolist() == [0, 1, 2, 3, 4]
    assert forest_size(rows, share=False) == forest.total_tokens == 8


def test_the_same_tokens_may_belong_to_different_turns() -> None:
    forest = plant(
        [
            conversation([1, 2, 3, 4], [-1, 0, 0, 0]),
            conversation([1, 2, 3, 4], [-1, 0, -1, 1]),
            conversation([1, 2, 3, 4], [-1, -1, -1, 0]),
        ]
    )
    assert forest.input_ids.tolist() == [1, 2, 3, 4]
    assert forest.sources.tolist() == [0, 1, 2]
    assert forest.scored.tolist() == [0, 1, 2, 0, 2, 2]
    assert forest.rows.tolist() == [0, 0, 0, 1, 1, 2]
    assert forest.turns.tolist() == [0, 0, 0, 0, 1, 0]
    assert forest.num_turns.tolist() == [1, 2, 1]


def test_what_cannot_be_scored_is_refused() -> None:
    good = conversation([1, 2], [-1, 0])
    with pytest.raises(ValueError, match="at least one conversation"):
        plant([])
    with pytest.raises(ValueError, match="row 1 has no assistant turn"):
        plant([good, Rendered((1, 2), (-1, -1), 0)])
    with pytest.raises(ValueError, match="row 1 begins with a token of a turn"):
        plant([good, conversation([1, 2], [0, 0])])


def test_a_forest_moves_to_a_device_as_a_whole() -> None:
    forest = plant([conversation([1, 2, 3], [-1, 0, 1])])
    moved = forest.to("meta")
    tensors = ("input_ids", "positions", "sources", "targets", "scored", "rows", "turns", "num_turns")
    assert all(getattr(moved, name).device.type == "meta" for name in tensors)
    assert all(getattr(forest, name).dtype == torch.int64 for name in tensors)
    assert moved.segments == forest.segments


@settings(deadline=None, max_examples=150)
@given(rows=families(), share=st.booleans())
def test_following_parents_gives_back_every_conversation(rows: list[Rendered], *, share: bool) -> None:
    forest = plant(rows, share=share)
    for index, row in enumerate(rows):
        places = ancestors(forest, index)
        assert forest.input_ids[places].tolist() == list(row.token_ids[: row.scored_length])
        assert forest.positions[places].tolist() == list(range(row.scored_length))
        assert [parent(forest, place) for place in places] == [None, *places[:-1]]


@settings(deadline=None, max_examples=150)
@given(rows=families())
def test_every_node_of_the_trie_stands_once(rows: list[Rendered]) -> None:
    trie = {row.token_ids[:n] for row in rows for n in range(1, row.scored_length + 1)}
    forest = plant(rows)
    assert len(forest.input_ids) == len(forest.positions) == len(trie) == forest_size(rows)
    assert Counter(forest.positions.tolist()) == Counter(len(node) - 1 for node in trie)
    assert forest.depth == max(row.scored_length for row in rows)
    everything = sum(row.scored_length for row in rows)
    assert plant(rows, share=False).total_tokens == forest.total_tokens == everything
    assert forest_size(rows, share=False) == everything


@settings(deadline=None, max_examples=150)
@given(rows=families(), share=st.booleans())
def test_what_is_below_a_segment_follows_it_without_a_gap(rows: list[Rendered], *, share: bool) -> None:
    forest = plant(rows, share=share)
    ends = [0, *(segment.end for segment in forest.segments)]
    assert [segment.start for segment in forest.segments] == ends[:-1]
    assert ends[-1] == len(forest.input_ids)
    for index, segment in enumerate(forest.segments):
        assert segment.start < segment.end <= segment.below
        below = {p for s in forest.segments if segment in forest.path(s)[:-1] for p in range(s.start, s.end)}
        assert below == set(range(segment.end, segment.below))
        if segment.parent is None:
            assert segment.depth == 0
        else:
            above = forest.segments[segment.parent]
            assert segment.parent < index
            assert segment.depth == above.depth + above.end - above.start
        assert forest.positions[segment.start : segment.end].tolist() == list(
            range(segment.depth, segment.depth + segment.end - segment.start)
        )


@settings(deadline=None, max_examples=150)
@given(rows=families(), share=st.booleans())
def test_every_scored_token_is_one_right_prediction(rows: list[Rendered], *, share: bool) -> None:
    forest = plant(rows, share=share)
    predictions = list(zip(forest.sources.tolist(), forest.targets.tolist(), strict=True))
    assert len(set(predictions)) == len(predictions)
    assert set(forest.scored.tolist()) == set(range(len(predictions)))
    got: Counter[tuple[int, int, int, int]] = Counter()
    for scored, row, turn in zip(
        forest.scored.tolist(), forest.rows.tolist(), forest.turns.tolist(), strict=True
    ):
        got[row, turn, *predictions[scored]] += 1
    expected: Counter[tuple[int, int, int, int]] = Counter()
    for index, row in enumerate(rows):
        places = ancestors(forest, index)
        for position, turn in enumerate(row.turns):
            if turn != NO_TURN:
                expected[index, turn, places[position - 1], row.token_ids[position]] += 1
    assert got == expected
    assert forest.num_turns.tolist() == [row.num_turns for row in rows]
