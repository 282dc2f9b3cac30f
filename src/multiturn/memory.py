"""How much memory a process has needed."""

from __future__ import annotations

import resource
import sys

__all__ = ["peak_host_memory"]


def peak_host_memory(*, children: bool = False) -> int:
    """The most main memory that this process has held at once, in bytes.

    Args:
        children: Whether each of its finished children counts as well; the largest of them all is then given.
    """
    who = [resource.RUSAGE_SELF, *([resource.RUSAGE_CHILDREN] if children else [])]
    peak = max(resource.getrusage(each).ru_maxrss for each in who)
    return peak if sys.platform == "darwin" else peak * 1024  # elsewhere it is counted in KiB
