"""Memory: what this process holds, and what the processes hold that it has started."""

from __future__ import annotations

import mmap
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from multiturn import memory
from multiturn.memory import (
    MemoryMeter,
    available_host_memory,
    descendants,
    host_memory,
    peak_descendants_memory,
    peak_host_memory,
)

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
CHILD = """
import subprocess, sys
held = b"x" * (24 << 20)
del held  # what counts is the most
more = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
print(more.pid, flush=True)
sys.stdin.read()
more.kill()
"""


def new_pages(size: int) -> mmap.mmap:
    """Memory that the system gives this process now, whatever its allocator has kept from before."""
    pages = mmap.mmap(-1, size)
    pages.write(bytes(size))
    return pages


def test_what_a_process_holds_is_at_most_its_peak() -> None:
    before = host_memory()
    held = new_pages(32 * MIB)
    assert host_memory() >= before + 30 * MIB
    assert peak_host_memory() >= host_memory() - 4 * MIB, "the two are counted by different clocks"
    assert len(held) == 32 * MIB


@pytest.mark.skipif(descendants() is None, reason="the system does not tell what is started")
def test_processes_that_a_process_has_started() -> None:
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:  # noqa: S603 - ours
        assert child.stdin is not None
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        found = descendants()
        assert found is not None
        assert {child.pid, grandchild} <= set(found)
        assert descendants(child.pid) == [grandchild]
        of_both, of_one = peak_descendants_memory(), peak_descendants_memory(child.pid)
        assert of_both is not None
        assert of_one is not None
        assert of_both - of_one >= 24 * MIB, "its peak, not what it holds now"
        child.stdin.close()
    assert child.pid not in (descendants() or [])


def test_a_meter_counts_the_most_since_it_was_made() -> None:
    meter = MemoryMeter()
    assert meter.growth < 4 * MIB
    held = new_pages(48 * MIB)
    meter.look(every=60.0)
    assert meter.growth < 4 * MIB, "it has looked just now"
    meter.look()
    assert meter.growth >= 46 * MIB
    assert len(held) == 48 * MIB
    held.close()
    meter.look()
    assert meter.growth >= 46 * MIB


@pytest.mark.parametrize(("limit", "room"), [("max", 3 * MIB), (str(2 * MIB), MIB), (str(9 * MIB), 3 * MIB)])
def test_the_limit_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, room: int
) -> None:
    """3 MiB are free. The group holds 2 MiB, of which 1 makes way: below 2 MiB it leaves 2 - 2 + 1 = 1."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 3072 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("1:name=x:/other\n0::/job\n")
    group = tmp_path / "groups/job"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{2 * MIB}\n")
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {MIB}\n")
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    assert available_host_memory() == room
    (tmp_path / "proc/self/cgroup").unlink()
    assert available_host_memory() == 3 * MIB
