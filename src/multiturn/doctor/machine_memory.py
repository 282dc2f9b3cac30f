"""The memory that trainings are measured by: a GPU's where there is one, otherwise this process's."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Final, Self

import torch

from multiturn.memory import available_host_memory, host_memory, peak_host_memory

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["GIB", "PeakMemory", "held_memory", "release_memory", "room"]

GIB: Final = 2**30
_LOOK_SECONDS: Final = 0.01
"""Seconds between two looks at what the process holds."""


def release_memory() -> None:
    """Give back what earlier measurements have left: models in cycles, blocks kept for reuse on a GPU."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def held_memory() -> float:
    """Bytes that are in use now: of tensors on the GPU, or of the whole process."""
    return float(torch.cuda.memory_allocated() if torch.cuda.is_available() else host_memory())


def room() -> float | None:
    """Bytes that a training may take: what is free, and what this process holds, which a run would too.

    None where the system does not say.
    """
    if torch.cuda.is_available():
        # What torch has reserved here is not free for others, but a training would get it.
        return float(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved())
    free = available_host_memory()
    return None if free is None else float(free + host_memory())


class PeakMemory:
    """The most memory that is held while a block runs.

    The system's own count of the most that a process has held never falls. It is exact where the block has
    raised it; where it has not, an earlier block is what it speaks of, and what was seen every hundredth of a
    second counts instead (on systems that do not say what a process holds now, that is the same count).

    Attributes:
        bytes: The most that was held, once the block is over.
    """

    def __init__(self) -> None:
        self.bytes = 0.0
        self._most_before = 0
        self._seen = 0
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            self._most_before, self._seen = peak_host_memory(), host_memory()
            self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if torch.cuda.is_available():
            self.bytes = float(torch.cuda.max_memory_allocated())
            return
        self._over.set()
        self._watcher.join()
        most = peak_host_memory()
        self.bytes = float(most if most > self._most_before else max(self._seen, host_memory()))

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            self._seen = max(self._seen, host_memory())
