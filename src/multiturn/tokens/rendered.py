"""A conversation as token ids with the assistant turn of each, and cutting one that is too long."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NO_TURN", "Overlong", "Rendered", "cut", "require_scorable"]

NO_TURN = -1
"""The turn of a token that belongs to no assistant turn."""

Overlong = Literal["error", "drop", "cut"]
"""What to do with a conversation that is too long: refuse it, leave it out, or cut it at a turn boundary."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as token ids.

    Attributes:
        token_ids: The ids, of length L.
        turns: For each token the assistant turn it belongs to, in ``[0, num_turns)``, or `NO_TURN`. A turn's
            tokens are those that the model produces: its content and its end-of-turn token.
        num_turns: ``T``, the number of assistant turns; each has at least one token.
    """

    token_ids: tuple[int, ...]
    turns: tuple[int, ...]
    num_turns: int

    @property
    def scored_tokens(self) -> int:
        """The number of tokens that belong to a turn."""
        return sum(turn != NO_TURN for turn in self.turns)

    @property
    def scored_length(self) -> int:
        """The length up to the last token that belongs to a turn; nothing after it can change a score."""
        return next((i for i in range(len(self.turns), 0, -1) if self.turns[i - 1] != NO_TURN), 0)


def cut(rendered: Rendered, max_length: int) -> Rendered:
    """The longest beginning of a conversation that ends with a whole turn and fits.

    Args:
        rendered: The conversation.
        max_length: The largest number of tokens, at least 1.

    Returns:
        What is left. `num_turns` counts the turns that are left, 0 when not even the first one fits. A
        conversation that fits comes back as it is.

    Raises:
        ValueError: `max_length` is not positive.
    """
    if max_length < 1:
        raise ValueError(f"max_length must be at least 1, not {max_length}")
    if len(rendered.token_ids) <= max_length:
        return rendered
    end = num_turns = 0
    for position, turn in enumerate(rendered.turns):
        last_of_turn = turn != NO_TURN and rendered.turns[position + 1 : position + 2] != (turn,)
        if last_of_turn and position < max_length:
            end, num_turns = position + 1, turn + 1
    return Rendered(token_ids=rendered.token_ids[:end], turns=rendered.turns[:end], num_turns=num_turns)


def require_scorable(rendered: Sequence[Rendered]) -> None:
    """Refuse conversations that cannot be laid out for scoring.

    Raises:
        ValueError: There is no conversation, one has no turn, or a first token belongs to a turn.
    """
    if not rendered:
        raise ValueError("a batch needs at least one conversation")
    for index, row in enumerate(rendered):
        if row.num_turns < 1:
            raise ValueError(f"row {index} has no assistant turn; drop such conversations before")
        if row.turns[0] != NO_TURN:
            raise ValueError(f"row {index} begins with a token of a turn, which nothing can predict")
