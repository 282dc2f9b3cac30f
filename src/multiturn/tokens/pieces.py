"""The tree of the conversation prefixes that a renderer has seen, piece by piece."""

from __future__ import annotations

from typing import TYPE_CHECKING

from multiturn.tokens.rendered import NO_TURN

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["Piece"]


class Piece:
    """What a conversation's text adds to the text of its parent piece.

    Args:
        parent: The piece before it; None for the empty beginning.
        text: As below.
        context: As below.
        ids: As below.
        messages: As below.

    Attributes:
        parent: The piece before it; None for the empty beginning.
        start: Where the piece's text begins in the whole text, in characters.
        text: The piece's text, with stand-ins for special tokens.
        context: The text up to here from the last control token on, for the encoder.
        ids: The piece's token ids.
        turn: The assistant turn, or `NO_TURN`.
        scored: How many ids, from the first, belong to the turn.
        messages: How many messages the text up to here holds.
        children: The pieces that follow it, by the messages that they add.
    """

    __slots__ = ("children", "context", "ids", "messages", "parent", "scored", "start", "text", "turn")

    def __init__(
        self,
        parent: Piece | None = None,
        *,
        text: str = "",
        context: str = "",
        ids: tuple[int, ...] = (),
        messages: int = 0,
    ) -> None:
        self.parent = parent
        self.start = 0 if parent is None else parent.end
        self.text = text
        self.context = context
        self.ids = ids
        self.turn = NO_TURN
        self.scored = 0
        self.messages = messages
        self.children: dict[Hashable, Piece] = {}

    @property
    def end(self) -> int:
        """Where the piece's text ends in the whole text."""
        return self.start + len(self.text)

    def path(self) -> list[Piece]:
        """The pieces from the beginning to this one."""
        nodes = [self]
        while nodes[-1].parent is not None:
            nodes.append(nodes[-1].parent)
        return nodes[::-1]

    def difference(self, text: str) -> int | None:
        """Where `text` stops beginning with the text up to here; None if it does not stop."""
        for node in self.path():
            if not text.startswith(node.text, node.start):
                pairs = zip(node.text, text[node.start :], strict=False)
                same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(text) - node.start)
                return node.start + same
        return None
