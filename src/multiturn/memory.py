"""How much memory a process needs, and those that it has started."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import sys
import time
from pathlib import Path

__all__ = [
    "MemoryMeter",
    "available_host_memory",
    "descendants",
    "host_memory",
    "peak_descendants_memory",
    "peak_host_memory",
]

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")


def peak_host_memory(*, children: bool = False) -> int:
    """The most main memory that this process has held at once, in bytes.

    Args:
        children: Whether each of its finished children counts as well; the largest of them all is then given.
    """
    who = [resource.RUSAGE_SELF, *([resource.RUSAGE_CHILDREN] if children else [])]
    peak = max(resource.getrusage(each).ru_maxrss for each in who)
    return peak if sys.platform == "darwin" else peak * 1024  # elsewhere it is counted in KiB


def host_memory() -> int:
    """The main memory that this process holds now, in bytes.

    Where the system keeps no count of that, the most it has ever held.
    """
    try:
        pages = int((_PROC / "self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak_host_memory()
    return pages * os.sysconf("SC_PAGE_SIZE")


def available_host_memory() -> int | None:
    """The main memory that programs can still take, in bytes; None where the system does not say.

    Where this process lives in a container or a batch job with a limit of its own, that counts as well.
    """
    try:
        lines = (_PROC / "meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    known = [] if found is None else [int(found) * 1024]
    room = _group_room()
    return min([*known, *([] if room is None else [room])], default=None)


def _group_room() -> int | None:
    """What the limit of this process's control group (version 2) leaves; None where there is none."""
    try:
        lines = (_PROC / "self/cgroup").read_text(encoding="utf-8").splitlines()
        name = next(line[3:] for line in lines if line.startswith("0::"))
        folder = _GROUPS / name.strip("/")
        limit = int((folder / "memory.max").read_text(encoding="ascii"))
        held = int((folder / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
    except (OSError, ValueError, StopIteration):
        return None  # "max", which is no limit, is no number either
    # Files that were read and are only kept make way.
    return max(0, limit - held + int(stat.get("inactive_file", 0)))


def descendants(pid: int | None = None) -> list[int] | None:
    """The processes that a process has started, and those that they have; None where the system does not say.

    Args:
        pid: The process; None for this one.
    """
    if not (_PROC / "self/stat").exists():
        return None
    children: dict[int, list[int]] = {}
    for stat in _PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # The name may hold anything, brackets and blanks too; after it come the state and the parent.
            parent = int(stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = children.pop(os.getpid() if pid is None else pid, [])
    for each in found:  # which grows meanwhile
        found += children.pop(each, [])
    return found


def peak_descendants_memory(pid: int | None = None) -> int | None:
    """The sum of the most main memory that each living descendant has held, in bytes.

    Shared pages count for each. None where the system does not say.

    Args:
        pid: Whose descendants; None for this process's.
    """
    found = descendants(pid)
    if found is None:
        return None
    total = 0
    for each in found:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            for line in (_PROC / f"{each}/status").read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1]) * 1024
    return total


class MemoryMeter:
    """What something needs beside what was held before: by how much this process grows, and its descendants.

    Attributes:
        growth: The most by which this process has grown since the meter was made, in bytes.
        descendants: The most that all processes that it has started have held, as
            `peak_descendants_memory` counts it; None where the system does not say.
    """

    def __init__(self) -> None:
        self.growth = 0
        self.descendants: int | None = None
        self._before, self._peak_before = host_memory(), peak_host_memory()
        self._looked = -math.inf
        self.look()

    def look(self, *, every: float = 0.0) -> None:
        """Look how much it is now.

        Args:
            every: Do nothing if the last look is less than so many seconds ago.
        """
        if time.monotonic() - self._looked < every:
            return
        peak = peak_host_memory()
        # A peak that is higher than before is exact; otherwise what is seen from time to time has to do.
        most = peak if peak > self._peak_before else host_memory()
        self.growth = max(self.growth, most - self._before)
        started = peak_descendants_memory()
        if started is not None:
            self.descendants = max(self.descendants or 0, started)
        self._looked = time.monotonic()
