"""Where two sides of a pair part."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from multiturn.pairs.judging import said

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from multiturn.trajectory import Message, PreferencePair

__all__ = ["branch_of", "branch_point", "shared_as_context"]


def branch_point(chosen: Sequence[Message], rejected: Sequence[Message]) -> tuple[int, int]:
    """How far two continuations of one prompt go together.

    A turn is shared when its action and what answered it are the same, and both sides go on after it. Token
    ids do not count: the same text may have been produced in other tokens.

    Args:
        chosen: One continuation.
        rejected: The other.

    Returns:
        The shared turns, and the messages they consist of. The next message of both is the assistant's.
    """
    return branch_of(said(chosen), said(rejected))


def branch_of(left: Sequence[Mapping[str, object]], right: Sequence[Mapping[str, object]]) -> tuple[int, int]:
    """The same of messages as `multiturn.pairs.judging.said` gives them."""
    turns = messages = assistants = 0
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a["role"] == b["role"] == "assistant":
            turns, messages = assistants, position
            assistants += 1
        if a != b:
            break
    return turns, messages


def shared_as_context(pair: PreferencePair) -> PreferencePair:
    """The pair from where its sides part: the turns that they share become part of the prompt.

    Assistant messages of a prompt are never scored, so ``T`` counts from the branch on, and the discount
    does. That is another preference than that of the whole trajectories: of two ways to go on from a state
    in which the policy may never be.
    """
    turns, messages = branch_point(pair.chosen, pair.rejected)
    info = dict(pair.info)
    for side in ("chosen", "rejected"):
        count = sum(message.role == "assistant" for message in getattr(pair, side)[messages:])
        info[f"{side}_num_turns"] = count
    return dataclasses.replace(
        pair,
        prompt=pair.prompt + pair.chosen[:messages],
        chosen=pair.chosen[messages:],
        rejected=pair.rejected[messages:],
        info={**info, "context_turns": turns},
    )
