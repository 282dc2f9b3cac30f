"""The memory that a doctor measures: what is held at most, what there is, and what is given back."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING

import torch

from multiturn.doctor import machine_memory
from multiturn.doctor.machine_memory import PeakMemory, release_memory, room

if TYPE_CHECKING:
    import pytest


def test_a_peak_counts_where_it_rose(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has held 900 bytes at most before, and holds 300, then 500, then 400 in the block."""
    most, now = [900], [300]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine_memory, "peak_host_memory", lambda: most[0])
    monkeypatch.setattr(machine_memory, "host_memory", lambda: now[0])
    with PeakMemory() as peak:
        now[0] = 500
        time.sleep(0.2)
        now[0] = 400
    assert peak.bytes == 500.0
    with PeakMemory() as peak:
        most[0] = 950
    assert peak.bytes == 950.0


def test_what_a_gpu_has_reserved_here_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (700, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 200)
    assert room() == 900.0


def test_what_is_left_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that hang in cycles first: only then are their blocks free to be given back."""
    released: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "empty_cache", lambda: released.append("blocks"))
        patch.setattr(gc, "collect", lambda: released.append("cycles"))
        release_memory()
    assert released == ["cycles", "blocks"]
