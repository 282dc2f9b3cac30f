"""What the tests of slots share."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiturn.envs.slots import EnvironmentSlot, SlotAnswer

TARGET = "faulty_environment:Faulty"


def ask(slot: EnvironmentSlot, call: str, argument: str = "") -> SlotAnswer:
    slot.start(call, argument)  # type: ignore[arg-type]  # the tests pass literals
    answer = slot.poll(30.0)
    assert answer is not None
    return answer


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process ends; one that only waits for init to notice its end counts."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(FileNotFoundError):
            if Path("/proc/self").exists():
                state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
                if state not in "ZX":
                    time.sleep(0.02)
                    continue
                return True
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False
