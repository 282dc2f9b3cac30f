"""Where the time of a training goes."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PHASES", "StepClock"]

PHASES: Final = ("data", "forward", "backward", "reference", "optimizer")
"""What a step consists of: making batches, the policy's forward and backward pass, the reference's forward
pass (or filling its cache), and the rest of the step: gradient norm, optimizer, schedule."""


class StepClock:
    """Adds up the seconds of each phase.

    On a CUDA device the phases are marked by events there, so measuring waits for nothing until the sums are
    asked for.

    Args:
        device: What the training runs on.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of a block for a phase; blocks must not overlap."""
        if not self._on_gpu:
            started = time.perf_counter()
            try:
                yield
            finally:
                self._seconds[name] += time.perf_counter() - started
            return
        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        start.record()
        try:
            yield
        finally:
            end.record()
            self._events.append((name, start, end))

    def seconds(self) -> dict[str, float]:
        """The seconds of each phase so far."""
        if self._events:
            torch.cuda.synchronize()
            for name, start, end in self._events:
                self._seconds[name] += start.elapsed_time(end) / 1000.0
            self._events.clear()
        return dict(self._seconds)
