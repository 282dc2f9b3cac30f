"""ScienceWorld without Java: scores, rewards, tasks and options, on a stand-in for the simulator."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from multiturn import make
from multiturn.agents.formats import FORMATS
from multiturn.agents.scripted import ScriptedAgent
from multiturn.envs.scienceworld import (
    PAPER_SPLITS,
    TASK_TYPES,
    TURN_LIMITS,
    paper_overlap,
    paper_tasks,
    scienceworld,
    task_type_name,
)
from multiturn.envs.scienceworld import environment as module
from multiturn.envs.scienceworld.tasks import spread
from multiturn.envs.slots import LocalSlot
from multiturn.errors import ConfigError, EnvironmentFaultError, MissingExtraError
from multiturn.rollouts.collect import CollectSettings, Job, collect
from multiturn.rollouts.store import read_rollouts

if TYPE_CHECKING:
    from pathlib import Path

FIND = "find-animal"


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


def test_the_best_and_the_final_score_are_kept_with_the_episode(
    stand_in: type[StandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores .25, .50, .10, then the turn limit: the reward is .50, the final score .10."""
    monkeypatch.setenv("MULTITURN_PROGRESS", "off")
    stand_in.script = tuple((f"{i}", score, False) for i, score in enumerate((0.25, 0.5, 0.1)))
    slot = LocalSlot(lambda: scienceworld(task_types=[FIND], max_turns=3))
    settings = CollectSettings(format=FORMATS["action"])
    collect(ScriptedAgent(lambda _: "wait"), [slot], [Job(task_id=f"{FIND}/0")], tmp_path / "r", settings)
    (trajectory,) = read_rollouts(tmp_path / "r")
    assert trajectory.reward == 0.5
    assert trajectory.info["environment"] == {"score": 0.1, "best": 0.5}


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
    with pytest.raises(
        ConfigError, match="no split 'valid'; it has train, dev, test, paper-train, paper-seen"
    ):
        env.tasks("valid")


def test_the_paper_s_lists() -> None:
    """Their sizes, and what was counted in them: 24 task types, 54 tasks both trained and evaluated on."""
    lists = {split: paper_tasks(split) for split in PAPER_SPLITS}
    assert {split: len(tasks) for split, tasks in lists.items()} == {
        "paper-train": 1483,
        "paper-seen": 194,
        "paper-unseen": 211,
    }
    assert all(len(set(tasks)) == len(tasks) for tasks in lists.values())
    assert all({kind for kind, _ in tasks} == set(TURN_LIMITS) for tasks in lists.values())
    overlap = paper_overlap()
    assert {split: len(ids) for split, ids in overlap.items()} == {"paper-seen": 54, "paper-unseen": 0}
    train, seen = ({f"{kind}/{n}" for kind, n in lists[split]} for split in ("paper-train", "paper-seen"))
    assert set(overlap["paper-seen"]) == train & seen
    with pytest.raises(ConfigError, match="no task list 'train'; it has paper-train"):
        paper_tasks("train")


def test_the_paper_s_lists_are_those_of_its_code(shared_data: Path) -> None:
    files = ("train_indices.json", "dev_indices.json", "test_indices.json")
    for split, name in zip(PAPER_SPLITS, files, strict=True):
        published = json.loads((shared_data / "eto_indices/sciworld" / name).read_text(encoding="utf-8"))
        assert paper_tasks(split) == tuple((task_type_name(kind), n) for kind, n in published)


def test_the_paper_s_splits(stand_in: type[StandIn]) -> None:
    """The lists, task types in turns; those to evaluate on with or without what is trained on."""
    env = scienceworld()
    for split in PAPER_SPLITS:
        tasks = env.tasks(split)
        assert sorted(task.id for task in tasks) == sorted(f"{kind}/{n}" for kind, n in paper_tasks(split))
        assert {task.split for task in tasks} == {split}
        assert {task.type for task in tasks[:24]} == set(TURN_LIMITS), "any beginning is mixed"
    assert stand_in.started == 1
    strict = scienceworld(exclude_overlap=True)
    kept = {task.id for task in strict.tasks("paper-seen")}
    assert len(kept) == 194 - 54
    assert kept == {task.id for task in env.tasks("paper-seen")} - set(paper_overlap()["paper-seen"])
    assert strict.tasks("paper-train") == env.tasks("paper-train")
    assert strict.fingerprint == f"{env.fingerprint}/without-overlap"


def test_a_part_of_the_paper_s_splits(stand_in: type[StandIn]) -> None:
    """Published for unseen: variations 21 to 29 of these two."""
    env = scienceworld(task_types=["boil", "melt"], limit={"paper-unseen": 3, "paper-train": 1})
    ids = [task.id for task in env.tasks("paper-unseen")]
    assert ids == ["boil/21", "melt/21", "boil/24", "melt/24", "boil/27", "melt/27"]
    assert len(env.tasks("paper-train")) == 2
    assert len(env.tasks("paper-seen")) == 13, "6 and 7"
    unused = scienceworld(task_types=["mendelian-genetics-known-plant"])
    with pytest.raises(ConfigError, match="paper-seen has no task of mendelian-genetics-known-plant"):
        unused.tasks("paper-seen")


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
