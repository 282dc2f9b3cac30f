"""Cutting at turn boundaries, and rows of a batch."""

from __future__ import annotations

import pytest
import torch

from multiturn.tokens.padded import collate
from multiturn.tokens.rendered import Rendered, cut

# A prompt of 2, turn 0 of 2 tokens and a line break, an observation of 2, turn 1 of 1, a line break.
TALK = Rendered(
    token_ids=(10, 11, 20, 21, 12, 13, 14, 22, 15),
    turns=(-1, -1, 0, 0, -1, -1, -1, 1, -1),
    num_turns=2,
)


def test_lengths() -> None:
    assert TALK.scored_tokens == 3
    assert TALK.scored_length == 8


@pytest.mark.parametrize(
    ("max_length", "length", "num_turns"),
    [(100, 9, 2), (9, 9, 2), (8, 8, 2), (7, 4, 1), (5, 4, 1), (4, 4, 1), (3, 0, 0), (1, 0, 0)],
)
def test_cut(max_length: int, length: int, num_turns: int) -> None:
    """Turn 0 ends after 4 tokens and turn 1 after 8; the last line break may go alone."""
    left = cut(TALK, max_length)
    assert left == Rendered(token_ids=TALK.token_ids[:length], turns=TALK.turns[:length], num_turns=num_turns)


def test_cut_between_turns_that_touch() -> None:
    """Two assistant messages in a row, with a template that puts nothing between them."""
    talk = Rendered(token_ids=(1, 2, 3, 4, 5), turns=(-1, 0, 0, 1, 1), num_turns=2)
    assert cut(talk, 4) == Rendered(token_ids=(1, 2, 3), turns=(-1, 0, 0), num_turns=1)


def test_cut_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        cut(TALK, 0)


def test_rows_are_padded_on_the_right() -> None:
    short = Rendered(token_ids=(7, 8, 9), turns=(-1, 0, 0), num_turns=1)
    batch = collate([short, TALK], pad_id=99)
    assert batch.input_ids.tolist() == [[7, 8, 9] + [99] * 5, [10, 11, 20, 21, 12, 13, 14, 22]]
    assert batch.attention_mask.tolist() == [[1] * 3 + [0] * 5, [1] * 8]
    assert batch.turns.tolist() == [[-1, 0, 0] + [-1] * 5, [-1, -1, 0, 0, -1, -1, -1, 1]]
    assert batch.num_turns.tolist() == [1, 2]


def test_the_mask_does_not_come_from_pad_ids() -> None:
    """SmolLM2's pad token is its end-of-turn token."""
    talk = Rendered(token_ids=(2, 2, 2), turns=(-1, 0, 0), num_turns=1)
    batch = collate([talk, TALK], pad_id=2)
    assert batch.attention_mask[0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


def test_moving_a_batch_keeps_it() -> None:
    batch = collate([TALK])
    moved = batch.to(torch.device("cpu"))
    assert torch.equal(moved.turns, batch.turns)
    assert torch.equal(moved.input_ids, batch.input_ids)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one conversation"),
        ([cut(TALK, 3)], "row 0 has no assistant turn"),
        (
            [TALK, Rendered(token_ids=(1, 2), turns=(0, 0), num_turns=1)],
            "row 1 begins with a token of a turn",
        ),
    ],
)
def test_what_cannot_be_laid_out(rows: list[Rendered], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collate(rows)
