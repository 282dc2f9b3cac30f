"""An agent that is a function: for tests, baselines, and trying an environment out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from multiturn.agents.base import Reply, Request
from multiturn.trajectory import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ScriptedAgent"]


class ScriptedAgent:
    """Answers every conversation by calling a function.

    Args:
        script: From the messages so far to the text of the reply; None says that the conversation is too
            long.
        capacity: Conversations at once.
        fingerprint: What its rollouts are known by; change it when the script changes.
        latency: Seconds before a reply is ready, for each conversation on its own; a function gets the
        request.
    """

    def __init__(
        self,
        script: Callable[[Sequence[Message]], str | None],
        *,
        capacity: int = 4,
        fingerprint: str = "scripted",
        latency: float | Callable[[Request], float] = 0.0,
    ) -> None:
        self.capacity = capacity
        self.fingerprint = fingerprint
        self._script = script
        self._latency = latency
        self._open: dict[int, tuple[float, Request]] = {}

    def submit(self, request: Request) -> None:
        """Take a request.

        Raises:
            ValueError: There is no such slot, or it has a request open.
        """
        if not 0 <= request.slot < self.capacity or request.slot in self._open:
            raise ValueError(f"slot {request.slot} does not exist or has a request open")
        latency = self._latency(request) if callable(self._latency) else self._latency
        self._open[request.slot] = (time.monotonic() + latency, request)

    def poll(self) -> list[Reply]:
        """The replies whose time has come.

        Raises:
            RuntimeError: Nothing was submitted.
        """
        if not self._open:
            raise RuntimeError("no request is open; submit one before polling")
        now = time.monotonic()
        due = [request for ready, request in self._open.values() if ready <= now]
        for request in due:
            del self._open[request.slot]
        return [self._reply(request) for request in due]

    def release(self, slot: int) -> None:
        """Forget a conversation."""
        self._open.pop(slot, None)

    def close(self) -> None:
        """Forget all conversations."""
        self._open.clear()

    def _reply(self, request: Request) -> Reply:
        text = self._script(request.messages)
        message = None if text is None else Message(role="assistant", content=text)
        return Reply(slot=request.slot, message=message)
