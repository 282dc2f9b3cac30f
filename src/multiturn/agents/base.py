"""What an agent is: something that is asked for the next turn of a conversation and answers later.

Agents answer asynchronously so that nothing waits for the slowest: a rollout keeps many slots open, submits a
request whenever an environment has answered, and polls for whatever replies are ready.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.trajectory import Message

__all__ = ["Agent", "Reply", "Request"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A question for the next turn.

    Attributes:
        slot: Which of the agent's slots asks, in ``[0, capacity)``. A slot has one request open at most, and
            its successive requests extend one conversation until ``release``.
        messages: The whole conversation so far; the last message is not the assistant's.
        seed: Seeds the sampling of this reply, so that a reply does not depend on its neighbours. It is a
            function of the run's seed, the task, the sample and the turn.
    """

    slot: int
    messages: Sequence[Message]
    seed: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back for a slot.

    Attributes:
        slot: The slot that asked.
        message: The assistant message, with the token ids the model produced where it is a local model;
            None when the conversation does not fit the model's context any more.
        truncated: Whether the reply was cut off by the limit of new tokens.
        fault: Why there is no answer at all, where the agent could not be asked; the episode says nothing
            about the agent then, and is not kept.
    """

    slot: int
    message: Message | None
    truncated: bool = False
    fault: str | None = None


@runtime_checkable
class Agent(Protocol):
    """Something that answers conversations.

    Attributes:
        fingerprint: Changes whenever the same conversation may get another answer: weights, template,
            sampling settings. Stored with every rollout.
        capacity: The number of slots it serves at once.
    """

    fingerprint: str
    capacity: int

    def submit(self, request: Request) -> None:
        """Take a request; returns at once."""
        ...

    def poll(self) -> list[Reply]:
        """Work a little and return the replies that are ready; an empty list when none is.

        Raises:
            RuntimeError: Nothing was submitted.
        """
        ...

    def release(self, slot: int) -> None:
        """The slot's conversation is over; forget what was kept for it."""
        ...

    def close(self) -> None:
        """Free what the agent holds. May be called twice."""
        ...
