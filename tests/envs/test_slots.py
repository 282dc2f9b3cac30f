"""Slots: whatever an environment does, its slot answers, says what went wrong, and can be used again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faulty_environment import Faulty
from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.envs import ExpertAction, Step, _wire, register
from multiturn.envs.registry import unregister
from multiturn.envs.slots import (
    EnvironmentFacts,
    EnvironmentSlot,
    LocalSlot,
    ProcessSlot,
    SlotAnswer,
    make_slots,
    wait_any,
)
from multiturn.errors import ConfigError, EnvironmentFaultError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGET = "faulty_environment:Faulty"
FACTS = EnvironmentFacts(
    name="faulty",
    fingerprint="faulty/1",
    instructions="Say something.",
    invalid_observation="Nothing happens.",
)
# Faults of the environment's answers, which both kinds of slots notice, ...
ANSWERS = {
    "raise": ("raised", "ValueError: I was told to"),
    "raise a fault": ("crashed", "the simulator is gone"),
    "big": ("oversized", "10,000,000 characters"),
    "not a step": ("garbage", "must answer a multiturn.envs.Step"),
    "no text": ("garbage", "observation"),
    "nan": ("garbage", "finite"),
    "text reward": ("garbage", "must be a number"),
    "not a flag": ("garbage", "'terminated'"),
    "not a success": ("garbage", "'success'"),
    "limit": ("garbage", "'max_turns' is 0"),
}
# ... and faults of its process, or of what cannot be sent.
PROCESS = {
    "crash": ("crashed", "killed by SIGKILL; its last words: the end is near"),
    "exit": ("crashed", "exit code 9"),
    "big info": ("oversized", "bytes"),
    "info": ("garbage", "JSON"),
}


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


@pytest.fixture(scope="module")
def shared() -> Iterator[ProcessSlot]:
    slot = ProcessSlot(TARGET, {}, deadline=20.0)
    yield slot
    slot.close()


@pytest.fixture(params=["local", "process"])
def slot(request: pytest.FixtureRequest) -> Iterator[EnvironmentSlot]:
    if request.param == "process":
        yield request.getfixturevalue("shared")
        return
    local = LocalSlot(Faulty)
    yield local
    local.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
STEPS = st.builds(
    Step,
    observation=st.text(alphabet=st.characters()),
    reward=st.floats(allow_nan=False, allow_infinity=False),
    terminated=st.booleans(),
    truncated=st.booleans(),
    success=st.none() | st.booleans(),
    valid=st.booleans(),
    info=st.dictionaries(st.text(), JSON, max_size=3),
)


@settings(deadline=None)
@given(step=st.none() | STEPS, action=st.text(), max_turns=st.integers(min_value=1))
def test_answers_survive_the_wire(step: Step | None, action: str, max_turns: int) -> None:
    answer = SlotAnswer(step=step, expert=ExpertAction(action=action), max_turns=max_turns)
    line = _wire.dump(_wire.encode_answer(answer))
    assert line.count(b"\n") == 1, "one line, whatever is in it"
    assert _wire.decode_answer(_wire.load(line)) == answer


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]\n", b"\xff\n", b"{}\n", b'{"step": 3, "expert": 0, "max_turns": 1}\n']
)
def test_lines_that_are_no_answers(line: bytes) -> None:
    with pytest.raises(EnvironmentFaultError) as caught:
        _wire.decode_answer(_wire.load(line))
    assert caught.value.kind == "garbage"


def test_a_slot_is_what_rollouts_expect(slot: EnvironmentSlot) -> None:
    assert isinstance(slot, EnvironmentSlot)
    assert slot.facts == FACTS
    assert [task.id for task in slot.tasks("train")] == ["t0", "t1", "t2"]


def test_calls_and_their_answers(slot: EnvironmentSlot) -> None:
    assert ask(slot, "reset", "t1") == SlotAnswer(
        step=Step(observation="This is t1."), expert=None, max_turns=7
    )
    expert = ask(slot, "expert")
    assert expert == SlotAnswer(
        step=None, expert=ExpertAction(action="word 1", thought="Why not."), max_turns=7
    )
    step = ask(slot, "step", "hello").step
    assert step is not None
    assert (step.observation, step.reward) == ("You said: hello", 0.25)
    ask(slot, "expert")
    assert ask(slot, "expert").expert is None, "the expert gives up"


def test_text_arrives_unchanged(slot: EnvironmentSlot) -> None:
    ask(slot, "reset", "t0")
    step = ask(slot, "step", "odd text").step
    assert step == Step(observation="\ud800 \x00 \u2028 \U0001f600 <|im_end|>\n", info={"a": [1, None]})
    spoken = ask(slot, "step", 'a "quoted"\n\tline \u2028 \ud800').step
    assert spoken is not None
    assert spoken.observation == 'You said: a "quoted"\n\tline \u2028 \ud800'


@pytest.mark.parametrize("action", ANSWERS)
def test_an_unusable_answer_is_a_fault_and_the_slot_goes_on(slot: EnvironmentSlot, action: str) -> None:
    kind, message = ANSWERS[action]
    ask(slot, "reset", "t0")
    slot.start("step", action)
    with pytest.raises(EnvironmentFaultError, match=message) as caught:
        slot.poll(30.0)
    assert caught.value.kind == kind
    assert f"environment 'faulty', step('{action}')" in str(caught.value)
    assert ask(slot, "reset", "t2").step == Step(observation="This is t2.")


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


def test_a_mistake_of_the_user_is_not_a_fault(slot: EnvironmentSlot) -> None:
    ask(slot, "reset", "t0")
    before = getattr(slot, "pid", None)
    slot.start("reset", "t9")
    with pytest.raises(ConfigError, match="there is no task 't9'"):
        slot.poll(30.0)
    with pytest.raises(ConfigError, match="there is no split 'dev'"):
        slot.tasks("dev")
    assert ask(slot, "reset", "t0").step is not None
    assert getattr(slot, "pid", None) == before, "the environment need not be made again"


def test_one_call_at_a_time(slot: EnvironmentSlot) -> None:
    with pytest.raises(RuntimeError, match="no call was started"):
        slot.poll()
    slot.start("reset", "t0")
    with pytest.raises(RuntimeError, match="has not been fetched"):
        slot.start("reset", "t1")
    assert slot.poll(30.0) is not None


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
from multiturn.envs.slots import ProcessSlot
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


def test_make_slots_follows_the_registry() -> None:
    with contextlib.ExitStack() as stack:
        (local,) = make_slots("household", {}, 1)
        stack.callback(local.close)
        assert isinstance(local, LocalSlot)
        isolated = make_slots("household", {"size": "tiny"}, 2, isolate=True)
        for slot in isolated:
            stack.callback(slot.close)
            assert isinstance(slot, ProcessSlot)
        assert isolated[0].facts.name == "household"
        assert isolated[0].facts == isolated[1].facts


def test_make_slots_refuses_what_cannot_work() -> None:
    with pytest.raises(ConfigError, match="did you mean 'household'"):
        make_slots("houshold", {}, 1)
    with pytest.raises(ConfigError, match="did you mean 'size'"):
        make_slots("household", {"sise": "tiny"}, 1)
    with pytest.raises(ConfigError, match="at least one"):
        make_slots("household", {}, 0)
    with pytest.raises(ConfigError, match="plain JSON"):
        ProcessSlot(TARGET, {"fail": object()})
    with pytest.raises(ConfigError, match="positive"):
        ProcessSlot(TARGET, {}, deadline=0.0)


def test_what_only_this_program_knows_cannot_be_isolated() -> None:
    register("only-here", lambda: Faulty(), summary="a lambda")  # noqa: PLW0108 - what is tested
    register("importable", Faulty, isolate=True)
    try:
        with pytest.raises(ConfigError, match=r"Put the factory into a module"):
            make_slots("only-here", {}, 1, isolate=True)
        (slot,) = make_slots("importable", {}, 1)
        assert isinstance(slot, ProcessSlot)
        assert slot.facts == FACTS
        slot.close()
    finally:
        unregister("only-here")
        unregister("importable")


def test_wait_any_returns_when_something_is_there() -> None:
    slots = [ProcessSlot(TARGET, {}, deadline=30.0) for _ in range(2)]
    try:
        for slot in slots:
            ask(slot, "reset", "t0")
        slots[0].start("step", "hang")
        assert not wait_any(slots[:1], 0.05)
        slots[1].start("step", "hello")
        assert wait_any(slots, 30.0)
        assert slots[1].ready
        assert not slots[0].ready
    finally:
        for slot in slots:
            slot.close()


def test_a_local_environment_that_fails_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Faulty) -> None:
        raise OSError("stuck")

    monkeypatch.setattr(Faulty, "close", fail)
    slot = LocalSlot(Faulty)
    ask(slot, "reset", "t0")
    slot.start("step", "raise")
    with pytest.raises(EnvironmentFaultError, match="I was told to"):
        slot.poll()
    ask(slot, "reset", "t0")
    with pytest.raises(EnvironmentFaultError, match="stuck"):
        slot.close()
