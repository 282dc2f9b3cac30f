"""`household` as an environment, and what it shares with `alfworld`: episodes, rewards, options."""

from __future__ import annotations

import json
import lzma
import math
import re
from typing import TYPE_CHECKING, Any

import pytest
from test_alfred_engine import INTRO, KITCHEN

from multiturn.envs.alfred import TASK_TYPES, alfworld, household
from multiturn.envs.base import Environment
from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from multiturn.envs.alfred import AlfredEnvironment

HEAT = "pick_heat_then_place_in_recep-Apple-None-Fridge-1/trial_1"
PLAN = [
    "go to countertop 1",
    "take apple 1 from countertop 1",
    "go to microwave 1",
    "heat apple 1 with microwave 1",
    "go to fridge 1",
    "open fridge 1",
    "put apple 1 in/on fridge 1",
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MULTITURN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MULTITURN_ALFWORLD_DATA", raising=False)
    return tmp_path / "cache"


def write_compact(folder: Path, rows: list[dict[str, Any]], split: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    with lzma.open(folder / f"{split}.jsonl.xz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


def three_games(folder: Path) -> Path:
    """Make a folder with three games in compact form."""
    ids = [
        HEAT,
        "pick_and_place_simple-Mug-None-Shelf-2/trial_2",
        "look_at_obj_in_light-CD-None-DeskLamp-3/trial_3",
    ]
    rows = [
        {"id": game_id, "task": "heat some apple and put it in fridge.", "pddl": KITCHEN} for game_id in ids
    ]
    return write_compact(folder / "data", rows)


def run_expert(env: AlfredEnvironment, task_id: str, limit: int | None = None) -> tuple[bool, int]:
    step = env.reset(task_id)
    for turn in range(limit or env.max_turns):
        if step.terminated:
            return True, turn
        decision = env.expert_action()
        if decision is None:
            return False, turn
        step = env.step(decision.action)
    return step.terminated, limit or env.max_turns


def test_both_are_environments(tmp_path: Path) -> None:
    assert isinstance(household(), Environment)
    assert isinstance(alfworld(path=str(three_games(tmp_path))), Environment)


def test_an_episode_from_the_first_sentence_to_the_reward(tmp_path: Path) -> None:
    env = alfworld(path=str(three_games(tmp_path)))
    step = env.reset(f"train/{HEAT}")
    assert step.observation == INTRO
    assert (step.reward, step.terminated, step.success, step.valid) == (0.0, False, False, True)
    step = env.step("dance")
    assert (step.observation, step.valid, step.reward) == ("Nothing happens.", False, 0.0)
    assert env.invalid_observation == "Nothing happens."
    for command in PLAN[:-1]:
        step = env.step(command)
        assert (step.valid, step.reward, step.terminated, step.success) == (True, 0.0, False, False)
    step = env.step(PLAN[-1])
    assert (step.reward, step.terminated, step.truncated, step.success) == (1.0, True, False, True)
    assert env.expert_action() is None
    again = env.step("look")
    assert (again.reward, again.terminated, again.success) == (0.0, True, True)
    assert again.observation == step.observation
    assert env.reset(f"train/{HEAT}").success is False


def test_the_banner_can_be_left_out_and_then_the_fingerprint_says_so(tmp_path: Path) -> None:
    folder = str(three_games(tmp_path))
    plain, bare = alfworld(path=folder), alfworld(path=folder, banner=False)
    assert bare.reset(f"train/{HEAT}").observation == INTRO.removeprefix(
        "-= Welcome to TextWorld, ALFRED! =-\n\n"
    )
    assert plain.fingerprint != bare.fingerprint
    assert household().reset("train/0").observation.startswith("You are in the middle of a room.")
    with pytest.raises(ConfigError, match="`banner` is 1; it has to be true or false"):
        alfworld(path=folder, banner=1)  # type: ignore[arg-type]


def test_admissible_commands_are_told_only_on_request(tmp_path: Path) -> None:
    folder = str(three_games(tmp_path))
    assert alfworld(path=folder).reset(f"train/{HEAT}").info == {}
    commands = alfworld(path=folder, admissible=True).reset(f"train/{HEAT}").info["admissible_commands"]
    assert isinstance(commands, list)
    assert commands[-2:] == ["inventory", "look"]


def test_an_environment_says_that_reset_comes_first() -> None:
    env = household()
    with pytest.raises(ConfigError, match=r"reset\(task_id\)"):
        env.step("look")
    with pytest.raises(ConfigError, match=r"reset\(task_id\)"):
        env.expert_action()
    env.close()
    env.close()


def test_instructions_name_the_command_of_the_wording() -> None:
    assert "put O in/on X" in household().instructions
    assert "move O to X" in household(grammar="move").instructions


def test_household_tasks() -> None:
    env = household(train=8, test=3, task_types=["pick_and_place_simple", "pick_two_obj_and_place"])
    assert [task.id for task in env.tasks("test")] == ["test/0", "test/1", "test/2"]
    assert [task.type for task in env.tasks("test")] == [TASK_TYPES[0], TASK_TYPES[-1], TASK_TYPES[0]]
    assert {task.split for task in env.tasks("train")} == {"train"}
    assert len(env.tasks("train")) == 8
    for task in env.tasks("train"):
        assert env.game(task.id).task_type == task.type


@pytest.mark.parametrize(
    "task_id", ["train/8", "train/-1", "train/01", "train/x", "dev/0", "train", "", "train/²"]
)
def test_household_refuses_tasks_that_it_does_not_have(task_id: str) -> None:
    with pytest.raises(ConfigError, match="train/0 to train/7"):
        household(train=8).reset(task_id)


def test_household_names_its_splits() -> None:
    with pytest.raises(ConfigError, match="train, test"):
        household().tasks("valid_seen")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "smal"}, "did you mean 'small'"),
        ({"size": ["small"]}, "does not know ['small']"),
        ({"grammar": ["put"]}, "does not know ['put']"),
        ({"task_types": ["pick_two"]}, "known are pick_and_place_simple"),
        ({"task_types": "pick_and_place_simple"}, "has to be a list"),
        ({"task_types": []}, "has to be a list"),
        ({"rooms": ["kitchn"]}, "did you mean 'kitchen'"),
        ({"rooms": ["bathroom"]}, "add one of these to `rooms`"),
        ({"receptacles": 3}, "4 or more"),
        ({"objects": 0}, "1 or more"),
        ({"object_types": True}, "2 or more"),
        ({"train": "many"}, "0 or more"),
        ({"prior": 1.5}, "from 0 to 1"),
        ({"prior": math.nan}, "from 0 to 1"),
        ({"grammar": "newest"}, "does not know 'newest'; known are put, move"),
        ({"max_turns": 0}, "1 or more"),
        ({"engine": "textwrld"}, "did you mean 'textworld'"),
    ],
)
def test_household_says_which_options_it_takes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        household(**options)


def test_household_turn_limits_follow_the_size() -> None:
    limits = {size: household(size=size).max_turns for size in ("tiny", "small", "medium", "full")}
    assert limits == {"tiny": 20, "small": 24, "medium": 32, "full": 40}
    assert household(size="tiny", receptacles=8).max_turns == 28
    assert household(max_turns=7).max_turns == 7


def test_household_fingerprints_follow_what_the_answers_depend_on() -> None:
    base = household().fingerprint
    assert base.startswith("household-")
    assert household(train=5, test=5, max_turns=9, admissible=True).fingerprint == base
    assert household(seed=1).fingerprint != base
    assert household(search="listed").fingerprint != base, "trajectories of two experts must not mix"
    assert household(size="tiny").fingerprint != base
