"""Isolated environments: processes that die, hang or cannot be started, and what must not be left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from slot_helpers import TARGET, ask, gone

from multiturn.envs import Step
from multiturn.envs.slots import ProcessSlot, wait_any
from multiturn.errors import ConfigError, EnvironmentFaultError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

# The faults that only an isolated environment survives.
PROCESS = {
    "crash": ("crashed", "killed by SIGKILL; its last words: the end is near"),
    "exit": ("crashed", "exit code 9"),
    "half": ("crashed", "killed by SIGKILL; it printed nothing"),
}


@pytest.fixture(scope="module")
def shared() -> Iterator[ProcessSlot]:
    slot = ProcessSlot(TARGET, {}, deadline=20.0)
    yield slot
    slot.close()


@pytest.mark.parametrize("action", PROCESS)
def test_a_lost_process_is_a_fault_and_is_replaced(shared: ProcessSlot, action: str) -> None:
    kind, message = PROCESS[action]
    ask(shared, "reset", "t0")
    pid = shared.pid
    shared.start("step", action)
    with pytest.raises(EnvironmentFaultError, match=message) as caught:
        shared.poll(30.0)
    assert caught.value.kind == kind
    assert ask(shared, "reset", "t2").step == Step(observation="This is t2.")
    assert shared.pid != pid


def test_what_a_crashed_environment_had_started_is_gone(tmp_path: Path) -> None:
    """A simulator that outlives its environment would keep its memory for ever."""
    pids = tmp_path / "pids"
    slot = ProcessSlot(TARGET, {"pid_file": str(pids)})
    try:
        ask(slot, "reset", "t0")
        _, grandchild = map(int, pids.read_text(encoding="utf-8").split())
        slot.start("step", "crash")
        with pytest.raises(EnvironmentFaultError, match="killed by SIGKILL"):
            slot.poll(30.0)
        assert gone(grandchild)
    finally:
        slot.close()


def test_noise_does_not_disturb(shared: ProcessSlot) -> None:
    ask(shared, "reset", "t0")
    pid = shared.pid
    for _ in range(2):
        step = ask(shared, "step", "noise").step
        assert step is not None
        assert step.observation == "You said: noise"
    assert shared.pid == pid


def test_a_hung_environment_is_killed_at_its_deadline(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    slot = ProcessSlot(TARGET, {"pid_file": str(pids)}, deadline=0.5)
    other = ProcessSlot(TARGET, {}, deadline=30.0)
    try:
        ask(slot, "reset", "t0")
        worker, grandchild = map(int, pids.read_text(encoding="utf-8").split())
        slot.start("step", "hang")
        assert slot.poll() is None
        assert ask(other, "reset", "t1").step is not None, "a slot does not wait for another"
        with pytest.raises(EnvironmentFaultError, match=r"no answer within 0\.5 s") as caught:
            slot.poll(30.0)
        assert caught.value.kind == "hung"
        assert gone(worker)
        assert gone(grandchild), "what the environment had started is gone too"
        assert ask(slot, "reset", "t1").step is not None
        assert slot.pid not in {None, worker}
    finally:
        slot.close()
        other.close()


def test_an_answer_that_came_in_time_counts_however_late_it_is_fetched() -> None:
    slot = ProcessSlot(TARGET, {}, deadline=0.3)
    try:
        ask(slot, "reset", "t0")
        slot.start("step", "hello")
        time.sleep(0.6)
        assert slot.poll() is not None
    finally:
        slot.close()


def test_a_long_answer_needs_no_waiting(shared: ProcessSlot) -> None:
    """Six megabytes, of which a pipe holds one in a hundred: whoever polls gets all of it at once."""
    ask(shared, "reset", "t0")
    shared.start("step", "long")
    assert wait_any([shared], 30.0)
    answer = shared.poll()
    assert answer is not None
    assert answer.step is not None
    assert answer.step.observation == "\u20ac" * (1 << 20)


def test_nothing_is_waited_for_in_vain(shared: ProcessSlot) -> None:
    ask(shared, "reset", "t0")
    shared.start("step", "nap")
    assert not wait_any([shared], 0.05)
    assert shared.poll() is None
    assert shared.poll(0.05) is None
    assert wait_any([shared], 30.0)
    assert shared.poll() is not None


def test_a_worker_that_is_killed_between_calls(shared: ProcessSlot) -> None:
    ask(shared, "reset", "t0")
    assert shared.pid is not None
    os.kill(shared.pid, signal.SIGKILL)
    shared.start("step", "hello")
    with pytest.raises(EnvironmentFaultError, match="killed by SIGKILL") as caught:
        shared.poll(30.0)
    assert caught.value.kind == "crashed"
    assert ask(shared, "reset", "t0").step is not None


@pytest.mark.parametrize(
    ("fail", "error", "message"),
    [
        ("config", ConfigError, "fail is 'config'"),
        ("missing", MissingExtraError, r"multiturn\[faulty\]"),
        ("raise", EnvironmentFaultError, "RuntimeError: no such luck"),
        ("exit", EnvironmentFaultError, "exit code 3"),
        ("facts", EnvironmentFaultError, "'instructions' is None"),
    ],
)
def test_an_environment_that_cannot_be_made(fail: str, error: type[Exception], message: str) -> None:
    slot = ProcessSlot(TARGET, {"fail": fail})
    try:
        with pytest.raises(error, match=message):
            _ = slot.facts
        slot.start("reset", "t0")
        with pytest.raises(error, match=message):
            slot.poll(30.0)
    finally:
        slot.close()


def test_an_environment_that_hangs_while_it_is_made() -> None:
    slot = ProcessSlot(TARGET, {"fail": "hang"}, deadline=0.1, start_deadline=1.5)
    try:
        with pytest.raises(EnvironmentFaultError, match=r"being made: no answer within 1\.5 s"):
            _ = slot.facts
    finally:
        slot.close()


def test_an_environment_that_is_another_after_a_restart() -> None:
    slot = ProcessSlot(TARGET, {"changing": True})
    try:
        ask(slot, "reset", "t0")
        slot.start("step", "crash")
        with pytest.raises(EnvironmentFaultError, match="its process ended"):
            slot.poll(30.0)
        slot.start("reset", "t0")
        with pytest.raises(EnvironmentFaultError, match="not what it was before"):
            slot.poll(30.0)
    finally:
        slot.close()


def test_close_ends_the_process_and_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    slot = ProcessSlot(TARGET, {"pid_file": str(pids)})
    ask(slot, "reset", "t0")
    slot.close()
    slot.close()
    assert all(gone(int(pid)) for pid in pids.read_text(encoding="utf-8").split())
    with pytest.raises(RuntimeError, match="closed"):
        slot.start("reset", "t0")


@pytest.mark.parametrize("action", ["hello", "hang"])
def test_nothing_survives_a_parent_that_is_killed(tmp_path: Path, action: str) -> None:
    pids = tmp_path / "pids"
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from multiturn.envs.slots import ProcessSlot, wait_any
slot = ProcessSlot({TARGET!r}, {{"pid_file": {str(pids)!r}}})
slot.start("reset", "t0"); slot.poll(30.0)
slot.start("step", {action!r})
print("ready", flush=True)
time.sleep(600)
"""
    program = tmp_path / "parent.py"
    program.write_text(script, encoding="utf-8")
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE) as parent:  # noqa: S603 - ours
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        parent.kill()
    assert all(gone(int(pid)) for pid in pids.read_text(encoding="utf-8").split())
