"""Slots: whatever an environment does, its slot answers, says what went wrong, and can be used again."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, cast

import pytest
from faulty_environment import Faulty
from hypothesis import given, settings
from hypothesis import strategies as st
from slot_helpers import TARGET, ask

from multiturn.envs import ExpertAction, Step, Task, _wire, register
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
from multiturn.errors import ConfigError, EnvironmentFaultError

if TYPE_CHECKING:
    from collections.abc import Iterator

FACTS = EnvironmentFacts(
    name="faulty",
    fingerprint="faulty/1",
    instructions="Say something.",
    invalid_observation="Nothing happens.",
)
# The faults that both kinds of slots notice.
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
    "no info": ("garbage", "'info' is None"),
    "info": ("garbage", "JSON"),
    "big info": ("oversized", "bytes"),
}


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


@pytest.mark.parametrize(
    "task",
    [
        Task(id=cast("str", 3), split="train", type="talk"),
        Task(id="t3", split="train", type=cast("str", None)),
    ],
)
def test_tasks_that_are_not_text_are_refused(task: Task) -> None:
    """A number as an id would be stored, but could never be read back."""
    with pytest.raises(EnvironmentFaultError, match="must be strings"):
        _wire.encode_tasks([task])


def test_an_error_of_one_s_own_arrives_as_what_it_is() -> None:
    """An environment may derive its own error from ConfigError: it stays a mistake of the user's."""

    class NoSuchTaskError(ConfigError):
        pass

    error = _wire.decode_error(_wire.encode_error(NoSuchTaskError("there is no task 'x'")))
    assert (type(error), str(error)) == (ConfigError, "there is no task 'x'")


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


def test_wait_any_does_not_wait_for_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in this process is ready once it is asked; a slot of one's own is given a moment."""
    naps: list[float] = []
    monkeypatch.setattr("time.sleep", naps.append)
    own = cast("EnvironmentSlot", object())
    assert wait_any([LocalSlot(Faulty), own], 5.0)
    assert naps == []
    assert wait_any([own], 5.0)
    assert wait_any([own], 0.0)
    assert naps == [0.001, 0.0]


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


def test_a_local_environment_that_cannot_be_made() -> None:
    """What the factory raises counts as a fault, as it does in a process; a user's mistake does not."""
    broken = LocalSlot(lambda: Faulty(fail="raise"))
    with pytest.raises(
        EnvironmentFaultError, match="could not be made: RuntimeError: no such luck"
    ) as caught:
        _ = broken.facts
    assert caught.value.kind == "raised"
    broken.start("reset", "t0")
    with pytest.raises(EnvironmentFaultError, match="no such luck"):
        broken.poll()
    with pytest.raises(ConfigError, match="fail is 'config'"):
        _ = LocalSlot(lambda: Faulty(fail="config")).facts
