"""How this process was launched: alone, or by a launcher as one of several that work together."""

from __future__ import annotations

import os

__all__ = ["local_index", "process_count", "process_index"]


def process_count() -> int:
    """The number of processes that a launcher (torchrun, accelerate) has started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def process_index() -> int:
    """The number of this process among them, from 0."""
    return int(os.environ.get("RANK") or 0)


def local_index() -> int:
    """The number of this process among those on the same machine, from 0: which of its GPUs is ours."""
    return int(os.environ.get("LOCAL_RANK") or 0)
