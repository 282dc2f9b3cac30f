"""Environments on a Ray cluster: the same slots, answers and faults as on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from slot_helpers import TARGET, ask, gone

from multiturn.envs import Step
from multiturn.envs._ray import HERE, RayWorker, connect
from multiturn.envs.slots import ProcessSlot, make_slots, wait_any
from multiturn.errors import ConfigError, EnvironmentFaultError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

on_ray = pytest.mark.skipif(
    find_spec("ray") is None, reason="Ray is not installed: pip install 'multiturn[ray]'"
)


def test_without_ray_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'multiturn\[ray\]'"):
        make_slots("household", {"size": "tiny"}, 1, ray=HERE)


def test_an_environment_on_a_cluster_is_isolated() -> None:
    with pytest.raises(ConfigError, match="is isolated"):
        make_slots("household", {"size": "tiny"}, 1, isolate=False, ray=HERE)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of this machine's own, whose workers find what the tests import."""
    ray: Any = pytest.importorskip("ray")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        path for path in [str(Path(__file__).parent), *sys.path] if path
    )
    connect(HERE)
    yield
    ray.shutdown()
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


@pytest.fixture
def slot(cluster: None) -> Iterator[ProcessSlot]:
    made = ProcessSlot(TARGET, {}, deadline=20.0, worker=RayWorker)
    yield made
    made.close()


@on_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
class TestOnACluster:
    def test_facts_tasks_and_episodes_are_those_of_this_machine(self, cluster: None) -> None:
        (there,) = make_slots("household", {"size": "tiny"}, 1, ray=HERE)
        (here,) = make_slots("household", {"size": "tiny"}, 1, isolate=True)
        with contextlib.closing(there), contextlib.closing(here):
            assert there.facts == here.facts
            tasks = here.tasks("train")
            assert there.tasks("train") == tasks
            for task in tasks[:3]:
                assert ask(there, "reset", task.id) == ask(here, "reset", task.id)
                for _ in range(20):
                    advice = ask(here, "expert")
                    assert ask(there, "expert") == advice
                    if advice.expert is None:
                        break
                    step = ask(here, "step", advice.expert.action)
                    assert ask(there, "step", advice.expert.action) == step
                    if step.step is not None and step.step.terminated:
                        break

    def test_waiting_for_any_of_several(self, cluster: None) -> None:
        slots = make_slots("household", {"size": "tiny"}, 2, ray=HERE)
        task = slots[0].tasks("train")[0].id
        for each in slots:
            each.start("reset", task)
        waiting = list(slots)
        while waiting:
            assert wait_any(waiting, 30.0)
            waiting = [each for each in waiting if each.poll() is None]
        for each in slots:
            each.close()

    @pytest.mark.parametrize(
        ("action", "kind", "message"),
        [
            ("crash", "crashed", "killed by SIGKILL; its last words: the end is near"),
            ("exit", "crashed", "exit code 9"),
            ("raise", "raised", "raised"),
        ],
    )
    def test_a_fault_is_typed_and_the_slot_lives(
        self, slot: ProcessSlot, action: str, kind: str, message: str
    ) -> None:
        ask(slot, "reset", "t0")
        slot.start("step", action)
        with pytest.raises(EnvironmentFaultError, match=message) as caught:
            slot.poll(30.0)
        assert caught.value.kind == kind
        assert ask(slot, "reset", "t2").step == Step(observation="This is t2.")

    def test_a_hung_environment_is_given_up(self, cluster: None) -> None:
        hung = ProcessSlot(TARGET, {}, deadline=1.0, worker=RayWorker)
        with contextlib.closing(hung):
            ask(hung, "reset", "t0")
            pid = hung.pid
            hung.start("step", "hang")
            with pytest.raises(EnvironmentFaultError, match="no answer within 1 s") as caught:
                hung.poll(10.0)
            assert caught.value.kind == "hung"
            assert pid is not None
            assert gone(pid)
            assert ask(hung, "reset", "t1").step == Step(observation="This is t1.")

    def test_a_lost_actor_is_a_crash(self, slot: ProcessSlot) -> None:
        import ray

        ask(slot, "reset", "t0")
        assert isinstance(slot._process, RayWorker)
        child = slot.pid
        ray.kill(slot._process._host)
        slot.start("step", "look")
        with pytest.raises(EnvironmentFaultError, match="its actor is lost") as caught:
            slot.poll(30.0)
        assert caught.value.kind == "crashed"
        assert child is not None
        assert gone(child)
        assert ask(slot, "reset", "t2").step == Step(observation="This is t2.")

    def test_a_killed_child_is_a_crash(self, slot: ProcessSlot) -> None:
        ask(slot, "reset", "t0")
        assert slot.pid is not None
        os.kill(slot.pid, signal.SIGKILL)
        slot.start("step", "look")
        with pytest.raises(EnvironmentFaultError, match="killed by SIGKILL"):
            slot.poll(30.0)

    def test_a_cluster_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import ray

        monkeypatch.setattr(ray, "is_initialized", lambda: False)

        def refuse(**_: object) -> None:
            raise ConnectionError("nobody answers")

        monkeypatch.setattr(ray, "init", refuse)
        with pytest.raises(ConfigError, match=r"no Ray cluster at '127.0.0.1:1' \(nobody answers\)"):
            connect("127.0.0.1:1")
