"""The expert's episodes are conversations like the agent's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fake_environments import TroubledSlot, jobs, ladders

from multiturn.agents.formats import FORMATS
from multiturn.agents.scripted import ScriptedAgent
from multiturn.rollouts.collect import CollectSettings, collect
from multiturn.rollouts.expert import collect_expert
from multiturn.rollouts.store import read_rollouts
from multiturn.trajectory import Outcome

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTITURN_PROGRESS", "off")


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_expert_s_conversation_is_an_agent_s(tmp_path: Path, name: str) -> None:
    settings = CollectSettings(format=FORMATS[name])
    report = collect_expert(ladders(2), jobs("train-3", "train-2"), tmp_path / "expert", settings)
    text = settings.format.compose("The top is up.", "up")
    collect(
        ScriptedAgent(lambda _: text), ladders(1), jobs("train-3", "train-2"), tmp_path / "agent", settings
    )
    expert, agent = read_rollouts(tmp_path / "expert"), read_rollouts(tmp_path / "agent")
    assert [t.messages for t in expert] == [t.messages for t in agent]
    assert [t.reward for t in expert] == [1.0, 1.0]
    assert {t.agent for t in expert} == {"expert"}
    assert (report.successes, report.played) == (2, 2)
    assert collect_expert(ladders(1), jobs("train-3"), tmp_path / "expert", settings).played == 0


def test_an_expert_that_gives_up(tmp_path: Path) -> None:
    """It climbs one rung of two, which is worth half, and then knows nothing more."""
    settings = CollectSettings()
    report = collect_expert(ladders(1), jobs("expertless-2", "train-1"), tmp_path / "r", settings)
    gave_up, won = read_rollouts(tmp_path / "r")
    assert (gave_up.outcome, gave_up.reward, gave_up.num_turns) == (Outcome.TRUNCATED, 0.5, 1)
    assert gave_up.info["expert_gave_up"] is True
    assert gave_up.messages[-1].role == "assistant"
    assert won.reward == 1.0
    assert report.outcomes == {"completed": 1, "truncated": 1}


def test_an_expert_that_fails(tmp_path: Path) -> None:
    collect_expert(ladders(1), jobs("train-9"), tmp_path / "r", CollectSettings())
    (trajectory,) = read_rollouts(tmp_path / "r")
    assert (trajectory.outcome, trajectory.reward) == (Outcome.TRUNCATED, 0.5)


def test_faults(tmp_path: Path) -> None:
    slot = TroubledSlot(faults={"train-3": 1, "train-4": 2})
    collect_expert([slot], jobs("train-3", "train-4", "train-1"), tmp_path / "r", CollectSettings())
    outcomes = [t.outcome for t in read_rollouts(tmp_path / "r")]
    assert outcomes == [Outcome.COMPLETED, Outcome.ENVIRONMENT_ERROR, Outcome.COMPLETED]
