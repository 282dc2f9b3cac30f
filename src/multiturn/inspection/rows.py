"""One row as the loss sees it: every token with its text, its turn and its weight."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Literal

import torch

from multiturn.errors import DataError
from multiturn.tokens import NO_TURN, Overlong
from multiturn.training.data import DataReport, render_pairs, render_trajectories
from multiturn.training.rows import chosen_row
from multiturn.trajectory import PreferencePair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from multiturn.objective import Weighting
    from multiturn.tokens import Rendered, Renderer
    from multiturn.training.rows import Rows
    from multiturn.trajectory import Trajectory

__all__ = ["InspectedRow", "InspectedSide", "InspectedToken", "Inspector", "LeftOutError", "token_texts"]

_UNFINISHED: Final = "\ufffd"
"""What a decoder gives for bytes that do not make a character yet."""
_MOST_BYTES: Final = 8
"""Tokens that one character may be spread over; bytes that make none at all are not waited for longer."""


class LeftOutError(DataError):
    """A row that training would leave out and go on; the message is the reason."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InspectedToken:
    """A token of a conversation.

    Attributes:
        id: The token id.
        text: What it adds to the text; empty where a character's bytes go on in the next token.
        special: Whether it is one of the tokenizer's special tokens.
        turn: The assistant turn it is scored in, from 0; None where it is not scored.
        weight: What its log-probability is multiplied with in the objective; None where it is not scored.
    """

    id: int
    text: str
    special: bool
    turn: int | None
    weight: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InspectedSide:
    """A conversation of a row.

    Attributes:
        name: ``"chosen"`` or ``"rejected"``; empty for a trajectory.
        tokens: All its tokens up to the last one that is scored.
        weights: The weight of each scored turn.
        closed: For each scored turn, whether the token that ends it is scored. It is not where the model's
            reply was cut off: the template then ends the turn, and the model learns nothing of that.
        cut: Whether it was cut at a turn boundary to fit.
        shared: How many of the first tokens are the same on the row's other side.
    """

    name: str
    tokens: tuple[InspectedToken, ...]
    weights: tuple[float, ...]
    closed: tuple[bool, ...]
    cut: bool
    shared: int

    @property
    def scored(self) -> int:
        """How many tokens are scored."""
        return sum(token.turn is not None for token in self.tokens)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InspectedRow:
    """A row of data.

    Attributes:
        id: The row's own id.
        sides: One conversation, or chosen and rejected.
    """

    id: str
    sides: tuple[InspectedSide, ...]


class Inspector:
    """Renders rows exactly as training does, and says what every token is worth.

    Args:
        tokenizer: The model's tokenizer.
        renderer: Turns conversations into tokens, with the chat template of the training.
        weighting: The weight of each turn; None weighs every turn 1, as SFT does.
        sides: What is learned from of a pair: ``both`` sides, or the ``chosen`` one, as SFT does.
        gamma: The discount that the weighting is given, in [0, 1].
        max_length: Tokens of a conversation at most; None sets no limit.
        overlong: What becomes of longer ones.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        renderer: Renderer,
        *,
        weighting: Weighting | None = None,
        sides: Literal["both", "chosen"] = "both",
        gamma: float = 1.0,
        max_length: int | None = None,
        overlong: Overlong = "error",
    ) -> None:
        self._tokenizer = tokenizer
        self._renderer = renderer
        self._weighting = weighting
        self._sides = sides
        self._gamma = gamma
        self._max_length = max_length
        self._overlong = overlong
        self._special = frozenset(
            [*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)]
        )

    def render(self, item: Trajectory | PreferencePair) -> tuple[tuple[Rendered, ...], tuple[bool, ...]]:
        """A row's conversations as tokens, as training would take them, and which of them were cut to fit.

        Raises:
            LeftOutError: Training would leave the row out.
            DataError: Training would refuse the row; the message says why.
        """
        try:
            sequences, report = self._rendered(item, self._max_length)
        except DataError as error:
            # Its place among one row tells nobody anything.
            rows = "pairs" if isinstance(item, PreferencePair) else "trajectories"
            raise DataError(f"{item.id}{str(error).removeprefix(f'{rows} row 0 (id {item.id})')}") from None
        if sequences is None:
            (reason,) = report.dropped
            raise LeftOutError(reason)
        if not report.cut:
            return sequences, (False,) * len(sequences)
        whole, _ = self._rendered(item, None)
        return sequences, tuple(s != w for s, w in zip(sequences, whole or (), strict=True))

    def inspect(self, item: Trajectory | PreferencePair) -> InspectedRow:
        """A row, token by token.

        Raises:
            LeftOutError: Training would leave the row out.
            DataError: Training would refuse the row; the message says why.
        """
        sequences, cut = self.render(item)
        names = ("chosen", "rejected")[: len(sequences)] if isinstance(item, PreferencePair) else ("",)
        shared = _common(sequences[0].token_ids, sequences[-1].token_ids) if len(sequences) == 2 else 0
        return InspectedRow(
            id=item.id or "row",
            sides=tuple(
                self._side(name, rendered, shared, was_cut=was_cut)
                for name, rendered, was_cut in zip(names, sequences, cut, strict=True)
            ),
        )

    def _rendered(
        self, item: Trajectory | PreferencePair, max_length: int | None
    ) -> tuple[tuple[Rendered, ...] | None, DataReport]:
        """What training makes of a row: the sequences, None where it is left out, and its report."""
        if isinstance(item, PreferencePair) and self._sides == "both":
            pairs = render_pairs([item], self._renderer, max_length=max_length, overlong=self._overlong)
            return (pairs.rows[0].sequences if pairs.rows else None), pairs.report
        learned: Rows = [chosen_row(item)] if isinstance(item, PreferencePair) else [item]
        rows = render_trajectories(learned, self._renderer, max_length=max_length, overlong=self._overlong)
        return (rows.rows[0].sequences if rows.rows else None), rows.report

    def _side(self, name: str, rendered: Rendered, shared: int, *, was_cut: bool) -> InspectedSide:
        weights = self._weights(rendered.num_turns)
        texts = token_texts(self._tokenizer, rendered.token_ids)
        tokens = tuple(
            InspectedToken(
                id=token_id,
                text=text,
                special=token_id in self._special,
                turn=None if turn == NO_TURN else turn,
                weight=None if turn == NO_TURN else weights[turn],
            )
            for token_id, text, turn in zip(rendered.token_ids, texts, rendered.turns, strict=True)
        )
        last = {token.turn: token for token in tokens}
        return InspectedSide(
            name=name,
            tokens=tokens,
            weights=weights,
            closed=tuple(
                last[turn].special or last[turn].id in self._renderer.stop_ids
                for turn in range(rendered.num_turns)
            ),
            cut=was_cut,
            shared=shared,
        )

    def _weights(self, num_turns: int) -> tuple[float, ...]:
        if self._weighting is None:
            return (1.0,) * num_turns
        row = self._weighting(torch.tensor([num_turns]), self._gamma)[0]
        return tuple(float(weight) for weight in row)


def token_texts(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> list[str]:
    """What each token adds to the text.

    A token is decoded after the one before it, since some tokenizers strip what stands first. Where a
    character's bytes are spread over several tokens, the last of them has the character and the others
    nothing.

    Args:
        tokenizer: The tokenizer.
        token_ids: The ids, L of them.

    Returns:
        L texts.
    """
    texts: list[str] = []
    start = 0
    for end in range(1, len(token_ids) + 1):
        text = _added(tokenizer, token_ids[max(start - 1, 0) : start], token_ids[start:end])
        if text.endswith(_UNFINISHED) and end - start < _MOST_BYTES and end < len(token_ids):
            texts.append("")
            continue
        texts.append(text)
        start = end
    return texts


def _added(tokenizer: PreTrainedTokenizerBase, before: Sequence[int], ids: Sequence[int]) -> str:
    """The text that ids add after others."""
    ahead, whole = _decoded(tokenizer, before), _decoded(tokenizer, [*before, *ids])
    return whole[len(ahead) :] if before and whole.startswith(ahead) else _decoded(tokenizer, ids)


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """The length of the longest common prefix."""
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))
