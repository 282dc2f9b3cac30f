"""Rollouts over environments that hang, crash, are killed, talk nonsense: other episodes are as ever."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from failing_environment import FAULTS, HARMLESS, STEPS, Failing

from multiturn.agents.formats import FORMATS
from multiturn.agents.scripted import ScriptedAgent
from multiturn.envs.slots import LocalSlot, ProcessSlot
from multiturn.memory import descendants
from multiturn.rollouts.collect import CollectSettings, Job, collect
from multiturn.rollouts.store import read_rollouts
from multiturn.trajectory import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from multiturn.trajectory import Message, Trajectory

TARGET = "failing_environment:Failing"
SETTINGS = CollectSettings(format=FORMATS["action"], instructions="none")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTITURN_PROGRESS", "off")


@contextlib.contextmanager
def isolated(count: int, *, simulator: bool = False, deadline: float = 30.0) -> Iterator[list[ProcessSlot]]:
    slots = [ProcessSlot(TARGET, {"simulator": simulator}, deadline=deadline) for _ in range(count)]
    try:
        yield slots
    finally:
        for slot in slots:
            slot.close()


def jobs(*task_ids: str) -> list[Job]:
    return [Job(task_id=task_id, task_type=task_id.partition("/")[0], split="train") for task_id in task_ids]


def healthy(count: int) -> list[str]:
    return [f"nothing/{n}" for n in range(count)]


def seen(trajectories: Sequence[Trajectory]) -> dict[str, tuple[float | None, list[str]]]:
    return {t.task_id: (t.reward, [m.content for m in t.messages]) for t in trajectories}


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        return stat.rpartition(")")[2].split()[0] not in "ZX"
    return False


def test_no_fault_stops_a_rollout_or_harms_another_episode(tmp_path: Path) -> None:
    """Every fault once among healthy episodes, on three workers; each is tried twice, typed and counted."""
    well = healthy(2 * len(FAULTS))
    ill = [f"{what}/0" for what in FAULTS]
    mixed = [task for n, what in enumerate(ill) for task in (what, *well[2 * n : 2 * n + 2])]
    mixed += [f"{what}/0" for what in HARMLESS]
    agent = ScriptedAgent(lambda messages: f"go {len(messages)}")
    with isolated(3, deadline=1.5) as slots:
        report = collect(agent, slots, jobs(*mixed), tmp_path / "r.jsonl", SETTINGS)
        started = descendants() or []
    trajectories = read_rollouts(tmp_path / "r.jsonl")
    assert [t.task_id for t in trajectories] == mixed
    failed = [t for t in trajectories if t.outcome is Outcome.ENVIRONMENT_ERROR]
    assert {t.task_type: t.info["fault_kind"] for t in failed} == FAULTS
    assert {t.info["faults"] for t in failed} == {2}
    assert {(t.reward, t.success) for t in failed} == {(None, None)}
    assert report.outcomes == {"completed": len(well) + len(HARMLESS), "environment_error": len(FAULTS)}
    assert report.counts["faults"] == 2 * len(FAULTS)

    fine = [*well, *(f"{what}/0" for what in HARMLESS)]
    undisturbed = [f"nothing/{task}" for task in fine]
    collect(agent, [LocalSlot(Failing)], jobs(*undisturbed), tmp_path / "alone.jsonl", SETTINGS)
    alone = seen(read_rollouts(tmp_path / "alone.jsonl"))
    played = seen([t for t in trajectories if t not in failed])
    for task, (reward, messages) in played.items():
        assert (reward, messages[1:]) == (1.0, alone[f"nothing/{task}"][1][1:]), task
    until = time.monotonic() + 5.0
    while any(map(alive, started)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(alive, started)), "nothing that the environments started is left, forked children too"


def test_what_an_environment_in_this_process_survives(tmp_path: Path) -> None:
    """All but what takes the process itself along; the environment is made anew each time."""
    survived = ("raise", "raise at once", "misuse", "big", "tuple", "bytes")
    made: list[Failing] = []

    def make() -> Failing:
        made.append(Failing())
        return made[-1]

    tasks = [task for n, what in enumerate(survived) for task in (f"{what}/0", f"nothing/{n}")]
    slots = [LocalSlot(make), LocalSlot(make)]
    report = collect(ScriptedAgent(lambda _: "go"), slots, jobs(*tasks), tmp_path / "r.jsonl", SETTINGS)
    trajectories = read_rollouts(tmp_path / "r.jsonl")
    kinds = {t.task_type: t.info["fault_kind"] for t in trajectories if t.reward is None}
    assert kinds == {what: FAULTS[what] for what in survived}
    assert [t.reward for t in trajectories if t.task_type == "nothing"] == [1.0] * len(survived)
    assert report.counts["faults"] == 2 * len(survived)
    assert len(made) <= 2 + 2 * len(survived), "once for each slot and each fault"


@pytest.mark.parametrize("victim", ["worker", "simulator"])
def test_what_is_killed_in_mid_episode_is_replaced_and_the_episode_completed(
    tmp_path: Path, victim: str
) -> None:
    """As a machine that runs out of memory does it: to the environment's process, or to its simulator."""
    killed: list[int] = []

    def script(messages: Sequence[Message]) -> str:
        if not killed and messages[0].content == "This is nothing/3." and len(messages) == 5:
            worker = slots[0].pid or 0
            killed.append(worker if victim == "worker" else (descendants(worker) or [])[0])
            os.kill(killed[0], signal.SIGKILL)
            while alive(killed[0]):  # the signal takes a moment, and the episode would not wait for it
                time.sleep(0.001)
        return "go"

    with isolated(1, simulator=True) as slots:
        report = collect(ScriptedAgent(script), slots, jobs(*healthy(6)), tmp_path / "r.jsonl", SETTINGS)
    trajectories = read_rollouts(tmp_path / "r.jsonl")
    assert len(killed) == 1
    assert [t.info["faults"] for t in trajectories] == [0, 0, 0, 1, 0, 0]
    assert [t.reward for t in trajectories] == [1.0] * 6
    assert {t.num_turns for t in trajectories} == {STEPS}
    assert report.outcomes == {"completed": 6}
    assert report.counts["faults"] == 1
    pids = [t.info["environment"]["simulator"] for t in trajectories]  # type: ignore[call-overload, index]
    assert len(set(pids)) == 2, "one was killed, another has taken its place"
    assert pids[2] != pids[3] == pids[5]
