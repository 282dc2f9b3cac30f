"""Where two sides part, and what is wrong with pairs as a whole; worked by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest

from multiturn.pairs.balance import LEAST_PAIRS, length_warnings, overlap_warnings, side_lengths
from multiturn.pairs.branch import branch_point, shared_as_context
from multiturn.trajectory import Message, PreferencePair, Trajectory

ASK = Message(role="user", content="Find it.")


def said(*texts: str) -> tuple[Message, ...]:
    """Actions and observations by turns, an action first."""
    roles = ("assistant", "user")
    return tuple(Message(role=roles[i % 2], content=text) for i, text in enumerate(texts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        (said("a", "1", "b"), said("c", "1", "b"), (0, 0)),  # they part at once
        (said("a", "1", "b"), said("a", "1", "c"), (1, 2)),  # after one turn, two messages
        (said("a", "1", "b"), said("a", "2", "b"), (0, 0)),  # the same action, another answer
        (said("a", "1", "b", "2", "c"), said("a", "1", "b", "3", "d"), (1, 2)),
        (said("a", "1", "b"), said("a"), (0, 0)),  # one ends within the other's first turn
        (said("a", "1", "b", "2"), said("a", "1", "b"), (1, 2)),  # ... or its second: that is scored
        (said("a", "1"), said("a", "1"), (0, 0)),
    ],
)
def test_where_sides_part(
    chosen: tuple[Message, ...], rejected: tuple[Message, ...], expected: tuple[int, int]
) -> None:
    assert branch_point(chosen, rejected) == expected
    assert branch_point(rejected, chosen) == expected


def test_the_same_text_in_other_tokens_is_shared() -> None:
    chosen = (Message(role="assistant", content="a", token_ids=(1,)), *said("x", "1", "b")[1:])
    rejected = (Message(role="assistant", content="a", token_ids=(2, 3)), *said("x", "1", "c")[1:])
    assert branch_point(chosen, rejected) == (1, 2)
    pair = PreferencePair(id="p", prompt=(ASK,), chosen=chosen, rejected=rejected)
    assert shared_as_context(pair).prompt == (ASK, *chosen[:2])


def pair(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> PreferencePair:
    return PreferencePair(id="p", prompt=(ASK,), chosen=chosen, rejected=rejected)


def test_standardized_differences_by_hand() -> None:
    """Turns 1, 3 against 4, 6: means 2 and 5, both variances 2, so (2 - 5) / sqrt(2) = -2.1213.

    Characters of the actions: 2, 2 + 2 + 2 = 6 against 4, 6: means 4 and 5, variances 8 and 2, so
    (4 - 5) / sqrt((8 + 2) / 2) = -0.4472. Observations do not count.
    """
    turn = ("ab", "observation")
    pairs = [
        pair(said(*turn), said(*("a", "x") * 4)),
        pair(said(*turn * 3), said(*("a", "x") * 6)),
    ]
    turns, characters = side_lengths(pairs)
    assert (turns.chosen, turns.rejected, characters.chosen, characters.rejected) == (2, 5, 4, 5)
    assert turns.difference == pytest.approx(-3 / math.sqrt(2))
    assert characters.difference == pytest.approx(-1 / math.sqrt(5))
    assert side_lengths(pairs[:1]) == ()


def test_a_constant_difference_is_infinite_and_none_is_zero() -> None:
    turns, characters = side_lengths([pair(said("a"), said("b", "x", "c"))] * 3)
    assert turns.difference == -math.inf
    turns, characters = side_lengths([pair(said("a"), said("b"))] * 3)
    assert (turns.difference, characters.difference) == (0, 0)


def test_tool_calls_count_as_characters() -> None:
    call = Message(role="assistant", content="", tool_calls=({"name": "look"},))
    _, characters = side_lengths([pair((call,), said("a"))] * 2)
    assert characters.chosen == len('[{"name": "look"}]')


def test_length_bias_is_warned_of_beyond_the_threshold() -> None:
    biased = [pair(said("a"), said("b", "x", "c"))] * LEAST_PAIRS
    (warning,) = [w for w in length_warnings(biased) if "turns" in w]
    assert "chosen sides have 1.0 turns on average, rejected sides 2.0" in warning
    assert "threshold 0.5" in warning
    assert length_warnings(biased[1:]) == []
    # 1, 2, 3, ... turns against one more each: the gap is 1, the spread sqrt(385 / 11) = 5.9; 1 / 5.9 < 0.5
    even = [pair(said(*["a", "x"] * n), said(*["a", "x"] * (n + 1))) for n in range(1, LEAST_PAIRS + 1)]
    assert length_warnings(even) == []


def task(task_id: str, prompt: str, split: str = "") -> Trajectory:
    messages = (Message(role="user", content=prompt), *said("a"))
    return Trajectory(id=task_id, task_id=task_id, messages=messages, split=split)


def test_tasks_in_several_splits_and_held_out_ones() -> None:
    ours = [task("a", "A", "train"), task("a", "A", "test"), task("b", "B", "train")]
    theirs = {"test.jsonl": [task("b", "other words"), task("c", "A"), task("d", "D")], "dev.jsonl": []}
    several, both = overlap_warnings(ours, theirs)
    assert several == "1 task is ('a') in several splits (test, train); keep one split"
    assert both.startswith("2 tasks are ('b', 'c') held out in test.jsonl and among these trajectories")
    assert overlap_warnings(ours[2:], {"x": [task("e", "E")]}) == []
    without = [dataclasses.replace(each, messages=each.messages[1:]) for each in (ours[0], task("e", "E"))]
    assert overlap_warnings(without[:1], {"x": without[1:]}) == []
