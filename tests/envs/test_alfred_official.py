"""The engine here and the official one, side by side; and how the official one is kept apart."""

from __future__ import annotations

import importlib.util
import json
import lzma
import random
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from test_alfred_engine import KITCHEN
from test_alfred_environments import HEAT, write_compact
from test_alfred_generator import any_settings, indices

from multiturn.envs import registry
from multiturn.envs.alfred import MOVE, PUT, alfworld, household, parse_problem
from multiturn.envs.alfred.generator import HouseholdSettings, generate
from multiturn.envs.alfred.logic import published_logic, wording_of
from multiturn.envs.alfred.writing import problem_text
from multiturn.envs.slots import ProcessSlot, make_slots
from multiturn.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from pathlib import Path

    from multiturn.envs.alfred import AlfredEnvironment

RUBBISH = (
    "",
    "dance",
    "LOOK",
    "look around",
    "go to  fridge 1",
    "help me",
    "examine",
    "{o.name}",
    "#look#",
    "é",
)

needs_textworld = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("textworld", "alfworld")),
    reason="the official engine is not installed: pip install 'multiturn[alfworld]'",
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTITURN_CACHE", str(tmp_path / "cache"))
    # The package alfworld makes this folder when it is imported.
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "alfworld"))


def play_both(
    ours: AlfredEnvironment, official: AlfredEnvironment, task_id: str, *, seed: int, turns: int
) -> int:
    """Play the same commands on both: the expert's, random ones and rubbish. Every answer has to be the same.

    Returns:
        How many turns were played.
    """
    rng = random.Random(seed)  # noqa: S311 - play, not secrets
    step = ours.reset(task_id)
    assert official.reset(task_id) == step
    for turn in range(turns):
        if step.terminated:
            assert official.step("look") == ours.step("look")
            return turn
        decision = ours.expert_action()
        assert official.expert_action() == decision
        commands = step.info["admissible_commands"]
        assert isinstance(commands, list)
        draw = rng.random()
        if decision is not None and draw < 0.5:
            command = decision.action
        elif draw < 0.9:
            verb = rng.choice(sorted({str(command).partition(" ")[0] for command in commands}))
            command = rng.choice([str(command) for command in commands if str(command).startswith(verb)])
        else:
            command = rng.choice(RUBBISH)
        step = ours.step(command)
        assert official.step(command) == step, f"{task_id}, turn {turn}: {command!r}"
    return turns


# --- without the official engine ----------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["textworld", "alfworld"])
def test_a_missing_package_is_named(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> object:
        return None if name == missing else object()

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    folder = write_compact(tmp_path / "data", [{"id": HEAT, "task": "x", "pddl": KITCHEN}])
    for make in (
        lambda: alfworld(path=str(folder), engine="textworld"),
        lambda: household(engine="textworld"),
    ):
        with pytest.raises(MissingExtraError, match=rf"'{missing}'.*pip install 'multiturn\[alfworld\]'"):
            make()
    if missing == "alfworld":
        with pytest.raises(MissingExtraError, match="official engine"):
            published_logic(PUT, "x")


@pytest.mark.parametrize("name", ["alfworld", "household"])
def test_the_official_engine_lives_in_a_process_of_its_own(name: str) -> None:
    entry = registry.find(name)
    assert entry.isolated({"engine": "textworld"})
    assert not entry.isolated({"engine": "python"})
    assert not entry.isolated()


@settings(max_examples=30, deadline=None)
@given(settings=any_settings, index=indices)
def test_a_written_problem_reads_back_as_the_same(settings: HouseholdSettings, index: int) -> None:
    problem = generate(settings, "train", index).problem
    assert parse_problem(problem_text(problem)) == problem


def test_a_written_problem_declares_what_there_is() -> None:
    """Types follow from the predicates; what is openable and has a type of object is an object."""
    text = problem_text(parse_problem(KITCHEN.replace("(openable Fridge_bar_1)", "(openable Egg_bar_1)")))
    lines = text.splitlines()
    for declared in (
        "agent1 - agent",
        "loc_bar_5 - location",
        "apple_bar_1 - object",
        "egg_bar_1 - object",
        "fridge_bar_1 - receptacle",
        "knifetype - otype",
        "butterknifetype - otype",
        "fridgetype - rtype",
    ):
        assert lines.count(declared) == 1, declared
    assert "(:goal (and (exists (?r - receptacle) (exists (?o - object) (and " in text
    assert parse_problem(text) == parse_problem(
        KITCHEN.replace("(openable Fridge_bar_1)", "(openable Egg_bar_1)")
    )


# --- with it ------------------------------------------------------------------------------------------


@needs_textworld
def test_the_grammar_of_2020_is_made_from_the_present_one(shared_data: Path) -> None:
    """Byte for byte the one that the games of 2020 bring."""
    folder = shared_data / "alfworld"
    if not folder.is_dir():
        pytest.skip("the ALFWorld games are not among the benchmark data")
    logic = published_logic(PUT, "UNKNOWN GOAL.")
    assert logic.domain == (folder / "alfred.pddl").read_text(encoding="utf-8")
    assert logic.grammar == (folder / "alfred_0.twl2").read_text(encoding="utf-8")


@needs_textworld
def test_the_package_brings_the_newer_wording() -> None:
    for wording in (PUT, MOVE):
        logic = published_logic(wording, 'put a "mug" in x.')
        assert wording_of(logic.domain, logic.grammar) == wording
        assert r"Your task is to: put a \"mug\" in x." in logic.grammar


@needs_textworld
@pytest.mark.parametrize("grammar", ["put", "move"])
def test_generated_games_are_the_same_on_both_engines(grammar: str) -> None:
    arguments = sys.argv
    ours = household(size="tiny", grammar=grammar, admissible=True)
    official = household(size="tiny", grammar=grammar, admissible=True, engine="textworld")
    assert official.fingerprint != ours.fingerprint
    for number in range(3):
        assert play_both(ours, official, f"train/{number}", seed=number, turns=40) >= 1
    assert sys.argv is arguments, "fast-downward overwrites the command line"


@needs_textworld
@pytest.mark.slow
@pytest.mark.parametrize("grammar", ["put", "move"])
@pytest.mark.parametrize("size", ["tiny", "small", "medium", "full"])
def test_more_generated_games_are_the_same_on_both_engines(size: str, grammar: str) -> None:
    options: dict[str, Any] = {"size": size, "grammar": grammar, "admissible": True, "seed": 5, "prior": 0.5}
    ours, official = household(**options), household(engine="textworld", **options)
    for number in range(8):
        play_both(ours, official, f"test/{number}", seed=number, turns=60)


@needs_textworld
@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"grammar": "move"}, {"max_receptacles": 6}], ids=str)
def test_real_games_are_the_same_on_both_engines(
    shared_data: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    source = shared_data / "alfworld" / "train.jsonl.xz"
    if not source.is_file():
        pytest.skip("the ALFWorld games are not among the benchmark data")
    with lzma.open(source) as file:
        rows = [json.loads(line) for number, line in enumerate(file) if number % 240 == 7]
    folder = str(write_compact(tmp_path / "data", rows))
    ours = alfworld(path=folder, admissible=True, **options)
    official = alfworld(path=folder, admissible=True, engine="textworld", **options)
    for number, task in enumerate(ours.tasks("train")):
        play_both(ours, official, task.id, seed=number, turns=60)


@needs_textworld
def test_a_game_file_is_played_by_its_own_rules(tmp_path: Path) -> None:
    """The file's own sentences are used, unless another wording is asked for."""
    logic = published_logic(MOVE, "heat some apple and put it in fridge.")
    grammar = logic.grammar.replace("You close the", "You shut the")
    problem = problem_text(parse_problem(KITCHEN))
    data = {"pddl_domain": logic.domain, "grammar": grammar, "pddl_problem": problem, "solvable": True}
    path = tmp_path / "json_2.1.1" / "valid_unseen" / HEAT / "game.tw-pddl"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(data), encoding="utf-8")
    for wording, arrival, closing in (
        ("auto", "You arrive at fridge 1. The fridge 1 is closed.", "You shut the fridge 1."),
        ("put", "You arrive at loc 3. The fridge 1 is closed.", "You close the fridge 1."),
    ):
        env = alfworld(path=str(tmp_path), engine="textworld", grammar=wording)
        env.reset(f"valid_unseen/{HEAT}")
        assert env.step("go to fridge 1").observation == arrival
        env.step("open fridge 1")
        assert env.step("close fridge 1").observation == closing


@needs_textworld
def test_a_game_that_textworld_cannot_read_is_named(tmp_path: Path) -> None:
    """The engine here does not look at declarations, TextWorld does."""
    folder = write_compact(tmp_path / "data", [{"id": HEAT, "task": "heat it.", "pddl": KITCHEN}])
    env = alfworld(path=str(folder), engine="textworld")
    with pytest.raises(DataError, match=r"TextWorld cannot read the game 'heat it\.'"):
        env.reset(f"train/{HEAT}")


@needs_textworld
def test_several_threads_may_play() -> None:
    """TextWorld itself is not made for that; one plays at a time."""
    wrong: list[object] = []

    def play(number: int) -> None:
        options: dict[str, Any] = {"size": "tiny", "admissible": True}
        try:
            play_both(
                household(**options),
                household(engine="textworld", **options),
                f"train/{number}",
                seed=1,
                turns=10,
            )
        except BaseException as error:  # noqa: BLE001 - threads do not fail tests by themselves
            wrong.append(error)

    threads = [threading.Thread(target=play, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@needs_textworld
def test_an_isolated_slot_plays_on_the_official_engine() -> None:
    (slot,) = make_slots("household", {"size": "tiny", "engine": "textworld"}, 1)
    try:
        assert isinstance(slot, ProcessSlot)
        assert "textworld" in slot.facts.fingerprint
        slot.start("reset", "train/0")
        answer = slot.poll(60)
        assert answer is not None
        assert answer.step is not None
        assert answer.step.observation == household(size="tiny").reset("train/0").observation
    finally:
        slot.close()
