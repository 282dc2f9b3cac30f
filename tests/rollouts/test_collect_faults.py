"""Environments that crash: played again once, then told apart from what the agent did."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, cast

import pytest
from fake_environments import Ladder, TroubledSlot, jobs, ladders

from multiturn.agents.formats import FORMATS
from multiturn.agents.scripted import ScriptedAgent
from multiturn.envs.slots import LocalSlot
from multiturn.errors import EnvironmentFaultError
from multiturn.rollouts.collect import CollectSettings, collect
from multiturn.rollouts.store import read_rollouts
from multiturn.trajectory import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from multiturn.envs.base import Step

SETTINGS = CollectSettings(format=FORMATS["action"])


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTITURN_PROGRESS", "off")


def climber() -> ScriptedAgent:
    return ScriptedAgent(lambda _: "up")


def test_an_environment_that_fails_once(tmp_path: Path) -> None:
    slot = TroubledSlot(faults={"train-3": 1})
    report = collect(climber(), [slot], jobs("train-2", "train-3"), tmp_path / "r.jsonl", SETTINGS)
    trajectories = read_rollouts(tmp_path / "r.jsonl")
    assert [t.reward for t in trajectories] == [1.0, 1.0]
    assert [t.info["faults"] for t in trajectories] == [0, 1]
    assert [m.content for m in trajectories[1].messages[1:3]] == ["A ladder of 3 rungs.", "up"]
    assert report.counts["faults"] == 1


def test_an_environment_that_fails_twice(tmp_path: Path) -> None:
    slot = TroubledSlot(faults={"train-3": 2})
    report = collect(climber(), [slot], jobs("train-3", "train-2"), tmp_path / "r.jsonl", SETTINGS)
    failed, played = read_rollouts(tmp_path / "r.jsonl")
    assert failed.outcome is Outcome.ENVIRONMENT_ERROR
    assert (failed.reward, failed.success) == (None, None)
    assert failed.messages[-1].role == "assistant"
    assert failed.info["fault"] == "the ladder broke"
    assert failed.info["fault_kind"] == "crashed"
    assert played.reward == 1.0
    assert report.outcomes == {"completed": 1, "environment_error": 1}
    assert (report.known, report.mean_reward) == (1, 1.0)


def test_an_answer_that_cannot_be_stored_is_a_fault(tmp_path: Path) -> None:
    """An `info` that JSON does not know ends that episode, not the collection."""

    class Odd(Ladder):
        def step(self, action: str) -> Step:
            step = super().step(action)
            return dataclasses.replace(step, info={"at": cast("str", {1, 2})}) if step.terminated else step

    report = collect(climber(), [LocalSlot(Odd)], jobs("train-1", "train-9"), tmp_path / "r.jsonl", SETTINGS)
    failed, _ = read_rollouts(tmp_path / "r.jsonl")
    assert (failed.outcome, failed.info["fault_kind"]) == (Outcome.ENVIRONMENT_ERROR, "garbage")
    assert report.outcomes == {"truncated": 1, "environment_error": 1}


def test_an_environment_that_always_fails_is_given_up(tmp_path: Path) -> None:
    """After eight lost episodes in a row; they are not kept, so that they are played again."""
    tasks = [f"train-{n}" for n in range(3, 15)]
    slot = TroubledSlot(faults=dict.fromkeys(tasks, 99))
    with pytest.raises(EnvironmentFaultError, match="8 episodes in a row"):
        collect(climber(), [slot], jobs(*tasks), tmp_path / "r.jsonl", SETTINGS)
    assert read_rollouts(tmp_path / "r.jsonl") == []
    settings = CollectSettings(format=FORMATS["action"], max_turns=20)
    healthy = collect(climber(), ladders(1), jobs(*tasks), tmp_path / "other.jsonl", settings)
    assert healthy.successes == len(tasks)
