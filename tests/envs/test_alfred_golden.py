"""The engine against recordings of the original simulator, byte for byte."""

from __future__ import annotations

import json
import lzma
import time
from typing import TYPE_CHECKING, Any

import pytest

import multiturn
from multiturn.envs.alfred import TASK_TYPES, Engine, Outcome, parse_problem

if TYPE_CHECKING:
    from pathlib import Path


def rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        pytest.skip(f"{path.name} is not among the benchmark data")
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def games(shared_data: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in rows(shared_data / "alfworld" / "valid_seen.jsonl.xz")}


@pytest.fixture(scope="module")
def traces(shared_data: Path) -> list[dict[str, Any]]:
    return rows(shared_data / "golden" / "alfworld" / "alf_traces.jsonl.xz")


def said(engine: Engine, outcome: Outcome) -> dict[str, Any]:
    return {
        "observation": outcome.observation,
        "admissible_commands": engine.admissible_commands(),
        "won": outcome.won,
        "score": outcome.score,
        "done": outcome.done,
    }


def test_every_answer_of_every_trace_is_the_same(
    games: dict[str, dict[str, Any]], traces: list[dict[str, Any]]
) -> None:
    steps, spent = 0, 0.0
    for trace in traces:
        game = games[trace["id"]]
        began = time.process_time()
        engine = Engine(parse_problem(game["pddl"]), game["task"])
        where = f"{trace['id']} ({trace['run']})"
        answers = [said(engine, engine.last)]
        answers += [said(engine, engine.step(step["action"])) for step in trace["steps"]]
        spent += time.process_time() - began
        for number, (answer, recorded) in enumerate(
            zip(answers, [trace["reset"], *trace["steps"]], strict=True)
        ):
            expected = {key: recorded.get(key, answer[key]) for key in answer}
            assert answer == expected, f"{where}, step {number}: {recorded.get('action', 'reset')!r}"
        steps += len(trace["steps"])
    assert steps >= 2000
    assert steps / spent > 500, "loading and playing, with admissible commands, has to do 500 steps a second"


@pytest.mark.parametrize("banner", [True, False])
def test_the_environment_answers_as_recorded(
    shared_data: Path,
    traces: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    banner: bool,
) -> None:
    """As an agent sees it. Without the banner only the first observation differs: that line is gone."""
    monkeypatch.setenv("MULTITURN_CACHE", str(tmp_path))
    options = {} if banner else {"banner": False}
    env = multiturn.make("alfworld", path=str(shared_data / "alfworld"), admissible=True, **options)
    line = "" if banner else "-= Welcome to TextWorld, ALFRED! =-\n\n"
    for trace in traces:
        step = env.reset(f"{trace['split']}/{trace['id']}")
        first = trace["reset"]
        assert first["observation"].startswith(line)
        assert step.observation == first["observation"].removeprefix(line)
        assert step.info["admissible_commands"] == first["admissible_commands"]
        assert step.success is first["won"]
        for recorded in trace["steps"]:
            step = env.step(recorded["action"])
            answer = (step.observation, step.info["admissible_commands"], step.success, step.terminated)
            expected = (recorded["observation"], recorded["admissible_commands"], recorded["won"])
            assert answer == (*expected, recorded["done"]), f"{trace['id']}: {recorded['action']!r}"
            assert step.valid is (recorded["observation"] != "Nothing happens.")


def test_the_traces_cover_what_there_is(traces: list[dict[str, Any]]) -> None:
    """If this fails, equality above says less than it seems to."""
    types = {trace["id"].partition("-")[0] for trace in traces}
    verbs = {step["action"].partition(" ")[0] for trace in traces for step in trace["steps"] if step["valid"]}
    assert types == set(TASK_TYPES)
    assert verbs >= {
        *("go", "open", "close", "take", "put", "examine", "look"),
        *("inventory", "use", "clean", "heat", "cool", "slice"),
    }
    assert any(step["after_done"] for trace in traces for step in trace["steps"])


def test_a_problem_loads_in_milliseconds(games: dict[str, dict[str, Any]]) -> None:
    began = time.process_time()
    for game in games.values():
        Engine(parse_problem(game["pddl"]), game["task"])
    assert (time.process_time() - began) / len(games) < 0.05
