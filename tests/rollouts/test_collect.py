"""Collecting: what conversations look like, how episodes end, and that nothing waits for the slowest."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import pytest
from fake_environments import FACTS, Ladder, TroubledSlot, jobs, ladders

from multiturn.agents.formats import FORMATS
from multiturn.agents.scripted import ScriptedAgent
from multiturn.envs.slots import EnvironmentSlot, LocalSlot
from multiturn.errors import ConfigError, RunStateError
from multiturn.rollouts.collect import CollectSettings, collect
from multiturn.rollouts.jobs import Job, reply_seed
from multiturn.rollouts.store import read_rollouts
from multiturn.trajectory import Outcome, Trajectory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from multiturn.agents.base import Request
    from multiturn.trajectory import Message

SETTINGS = CollectSettings(format=FORMATS["action"])


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTITURN_PROGRESS", "off")


def says(*actions: str | None) -> ScriptedAgent:
    """An agent that says these things in turn, then the last one again and again."""

    def script(messages: Sequence[Message]) -> str | None:
        turn = sum(message.role == "assistant" for message in messages)
        return actions[min(turn, len(actions) - 1)]

    return ScriptedAgent(script)


def play_one(agent: ScriptedAgent, task: str, path: Path, settings: CollectSettings = SETTINGS) -> Trajectory:
    collect(agent, ladders(1), jobs(task), path / "r.jsonl", settings)
    (trajectory,) = read_rollouts(path / "r.jsonl")
    return trajectory


def said(trajectory: Trajectory) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in trajectory.messages]


def test_a_whole_episode(tmp_path: Path) -> None:
    """Two rungs: half the reward at the first (2 * 1 >= 2), half at the top."""
    trajectory = play_one(says("up"), "train-2", tmp_path)
    instructions = f"Climb the ladder.\n\n{FORMATS['action'].instructions}"
    assert said(trajectory) == [
        ("system", instructions),
        ("user", "A ladder of 2 rungs."),
        ("assistant", "up"),
        ("user", "You are on rung 1."),
        ("assistant", "up"),
    ]
    assert (trajectory.id, trajectory.task_id, trajectory.split) == ("train-2#0", "train-2", "train")
    assert (trajectory.outcome, trajectory.reward, trajectory.success) == (Outcome.COMPLETED, 1.0, True)
    assert (trajectory.environment, trajectory.agent) == (FACTS.fingerprint, "scripted")
    assert trajectory.task_type == "climb"
    info: dict[str, Any] = dict(trajectory.info)
    assert info.pop("seconds") >= 0
    assert info == {
        "job": 0,
        "sample": 0,
        "invalid_actions": 0,
        "unusable_replies": 0,
        "truncated_replies": 0,
        "faults": 0,
        "final_observation": "You are on rung 2.",
        "environment": {"rung": 2},
    }


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"instructions": "none"}, [("user", "A ladder of 1 rungs.")]),
        ({"instructions": "Go!"}, [("system", "Go!"), ("user", "A ladder of 1 rungs.")]),
        (
            {"instructions": "Go!", "instructions_role": "user"},
            [("user", "Go!\n\nA ladder of 1 rungs.")],
        ),
    ],
)
def test_instructions(tmp_path: Path, settings: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    settings["format"] = FORMATS["action"]
    trajectory = play_one(says("up"), "train-1", tmp_path, CollectSettings(**settings))
    assert said(trajectory)[:-1] == expected


def test_turn_limit_of_the_environment(tmp_path: Path) -> None:
    """Six turns are not enough for nine rungs: 6 of 9 is past the half."""
    trajectory = play_one(says("up"), "train-9", tmp_path)
    assert trajectory.outcome is Outcome.TRUNCATED
    assert trajectory.num_turns == Ladder.max_turns
    assert (trajectory.reward, trajectory.success) == (0.5, False)
    assert trajectory.messages[-1].role == "assistant"
    assert trajectory.info["final_observation"] == "You are on rung 6."


def test_turn_limit_of_one_s_own(tmp_path: Path) -> None:
    settings = CollectSettings(format=FORMATS["action"], max_turns=8)
    assert play_one(says("up"), "train-8", tmp_path, settings).outcome is Outcome.COMPLETED


def test_the_environment_truncates(tmp_path: Path) -> None:
    trajectory = play_one(says("up"), "steep-5", tmp_path)
    assert (trajectory.outcome, trajectory.num_turns) == (Outcome.TRUNCATED, 2)


def test_over_before_it_began(tmp_path: Path) -> None:
    trajectory = play_one(says("up"), "closed-5", tmp_path)
    assert (trajectory.outcome, trajectory.num_turns) == (Outcome.COMPLETED, 0)
    assert trajectory.messages[-1].content == "A ladder of 5 rungs."


def test_an_action_the_environment_does_not_understand(tmp_path: Path) -> None:
    trajectory = play_one(says("jump", "up"), "train-1", tmp_path)
    assert ("user", "Nothing happens.") in said(trajectory)
    assert (trajectory.info["invalid_actions"], trajectory.info["unusable_replies"]) == (1, 0)
    assert trajectory.outcome is Outcome.COMPLETED


def test_a_reply_without_an_action(tmp_path: Path) -> None:
    """The environment is not stepped, the agent sees `invalid_observation`, and the turn counts."""
    trajectory = play_one(says("up", "", "\n", "up"), "train-2", tmp_path)
    assert said(trajectory)[2:] == [
        ("assistant", "up"),
        ("user", "You are on rung 1."),
        ("assistant", ""),
        ("user", "Pardon?"),
        ("assistant", "\n"),
        ("user", "Pardon?"),
        ("assistant", "up"),
    ]
    assert trajectory.info["unusable_replies"] == 2
    assert trajectory.outcome is Outcome.COMPLETED


def test_nothing_but_unusable_replies(tmp_path: Path) -> None:
    trajectory = play_one(says("up", ""), "train-4", tmp_path)
    assert (trajectory.outcome, trajectory.num_turns) == (Outcome.INVALID, 4)
    assert trajectory.messages[-1].role == "assistant"
    assert trajectory.reward == 0.0


def test_the_context_runs_out(tmp_path: Path) -> None:
    trajectory = play_one(says("up", None), "train-4", tmp_path)
    assert (trajectory.outcome, trajectory.num_turns) == (Outcome.CONTEXT_OVERFLOW, 1)
    assert trajectory.messages[-1].content == "up"
    assert trajectory.info["final_observation"] == "You are on rung 1."


def test_the_context_is_too_short_for_the_first_turn(tmp_path: Path) -> None:
    trajectory = play_one(says(None), "train-4", tmp_path)
    assert (trajectory.outcome, trajectory.num_turns) == (Outcome.CONTEXT_OVERFLOW, 0)
    assert trajectory.messages[-1].role == "user"


def test_samples_and_order(tmp_path: Path) -> None:
    wanted = jobs("train-3", "train-1", "test-2", samples=2)
    report = collect(says("up"), ladders(4), wanted, tmp_path / "r.jsonl", SETTINGS)
    assert [t.id for t in read_rollouts(tmp_path / "r.jsonl")] == [job.id for job in wanted]
    assert (report.episodes, report.played, report.outcomes) == (6, 6, {"completed": 6})
    assert (report.mean_reward, report.successes, report.turns) == (1.0, 6, 12)
    assert "6 episodes, average reward 1.000, 6 completed" in report.describe()


def test_going_on(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    agent = says("up")
    collect(agent, ladders(2), jobs("train-1", "train-2"), path, SETTINGS)
    slots = [TroubledSlot()]
    report = collect(agent, slots, jobs("train-2", "train-3", "train-1"), path, SETTINGS)
    assert [call for call in slots[0].calls if call.startswith("reset")] == ["reset train-3"]
    assert (report.episodes, report.played, report.mean_reward) == (3, 1, 1.0)
    assert collect(agent, ladders(1), jobs("train-3"), path, SETTINGS).played == 0


@pytest.mark.parametrize(
    ("agent", "settings", "named"),
    [
        (ScriptedAgent(lambda _: "up", fingerprint="other"), SETTINGS, "agent"),
        (says("up"), CollectSettings(format=FORMATS["react"]), "settings.format"),
        (says("up"), CollectSettings(format=FORMATS["action"], seed=1), "settings.seed"),
        (says("up"), CollectSettings(format=FORMATS["action"], max_turns=1), "settings.max_turns"),
    ],
)
def test_nothing_is_mixed(
    tmp_path: Path, agent: ScriptedAgent, settings: CollectSettings, named: str
) -> None:
    collect(says("up"), ladders(1), jobs("train-1"), tmp_path / "r.jsonl", SETTINGS)
    with pytest.raises(RunStateError, match=named):
        collect(agent, ladders(1), jobs("train-2"), tmp_path / "r.jsonl", settings)


def test_the_same_job_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train-1#0"):
        collect(says("up"), ladders(1), jobs("train-1", "train-1"), tmp_path / "r.jsonl", SETTINGS)


def test_a_job_without_a_task(tmp_path: Path) -> None:
    """Its episode could be written, but the file could not be read back."""
    with pytest.raises(ConfigError, match="empty task id"):
        collect(says("up"), ladders(1), [Job(task_id="")], tmp_path / "r.jsonl", SETTINGS)


def test_an_unknown_task_is_the_user_s_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no task 'x'"):
        collect(says("up"), ladders(1), jobs("train-1", "x"), tmp_path / "r.jsonl", SETTINGS)
    assert [t.id for t in read_rollouts(tmp_path / "r.jsonl")] == ["train-1#0"]


def test_slots_of_another_fingerprint_are_refused(tmp_path: Path) -> None:
    """The file's header names one environment; episodes of another must not come under it."""
    slots = [TroubledSlot(delay=0.2), TroubledSlot(facts=dataclasses.replace(FACTS, fingerprint="ladder-2"))]
    with pytest.raises(RunStateError, match="'ladder-2', slot 0 one with 'ladder-1'"):
        collect(says("up"), slots, jobs("train-1", "train-2"), tmp_path / "r.jsonl", SETTINGS)
    assert read_rollouts(tmp_path / "r.jsonl") == []


def test_no_jobs_and_no_slots(tmp_path: Path) -> None:
    assert collect(says("up"), ladders(1), [], tmp_path / "r.jsonl", SETTINGS).mean_reward is None
    with pytest.raises(ValueError, match="no slots"):
        collect(says("up"), [], jobs("train-1"), tmp_path / "r.jsonl", SETTINGS)


def test_a_slow_slot_holds_up_nobody(tmp_path: Path) -> None:
    """One slot takes 0.4 s a call: in the time of its one episode the other plays all the rest."""
    slow, quick = TroubledSlot(delay=0.4), TroubledSlot()
    wanted = jobs(*(f"train-{n % 4 + 1}" for n in range(1)), *(f"test-{n}" for n in range(1, 30)))
    started = time.monotonic()
    collect(says("up"), [slow, quick], wanted, tmp_path / "r.jsonl", SETTINGS)
    assert time.monotonic() - started < 5.0
    assert sum(call.startswith("reset") for call in slow.calls) == 1
    assert sum(call.startswith("reset") for call in quick.calls) == 29


def test_a_slow_reply_holds_up_nobody(tmp_path: Path) -> None:
    """The first conversation's replies take 0.3 s; the others' episodes end before its second."""

    def latency(request: Request) -> float:
        return 0.3 if request.slot == 0 else 0.0

    agent = ScriptedAgent(lambda _: "up", capacity=2, latency=latency)
    slots = [TroubledSlot(), TroubledSlot()]
    collect(agent, slots, jobs("train-2", *(f"test-{n}" for n in range(1, 20))), tmp_path / "r", SETTINGS)
    lines = (tmp_path / "r").read_text().splitlines()[1:]
    assert '"train-2#0"' in lines[-1]
    assert sum(call.startswith("reset") for call in slots[1].calls) == 19


def test_capacity_bounds_the_slots(tmp_path: Path) -> None:
    slots = [TroubledSlot() for _ in range(3)]
    agent = ScriptedAgent(lambda _: "up", capacity=2)
    collect(agent, slots, jobs(*(f"train-{n}" for n in range(1, 6))), tmp_path / "r.jsonl", SETTINGS)
    assert [bool(slot.calls) for slot in slots] == [True, True, False]


def test_an_interrupt_loses_nothing_that_ended(tmp_path: Path) -> None:
    """Ctrl-C in the second episode: the first is there, the file is free, and the rest is played later."""
    released = []

    class Interrupted(ScriptedAgent):
        def release(self, slot: int) -> None:
            super().release(slot)
            released.append(slot)

    def script(messages: Sequence[Message]) -> str:
        if "2 rungs" in messages[1].content:
            raise KeyboardInterrupt
        return "up"

    path, wanted = tmp_path / "r.jsonl", jobs("train-1", "train-2", "train-3")
    with pytest.raises(KeyboardInterrupt):
        collect(Interrupted(script), ladders(1), wanted, path, SETTINGS)
    assert [t.id for t in read_rollouts(path)] == ["train-1#0"]
    assert released == [0, 0]
    assert collect(says("up"), ladders(1), wanted, path, SETTINGS).played == 2


def test_seeds_depend_on_the_episode_and_not_on_the_schedule(tmp_path: Path) -> None:
    """The same requests, slot by slot in any number of slots."""

    def seeds(places: int) -> dict[tuple[str, int], int]:
        seen = {}

        class Noting(ScriptedAgent):
            def submit(self, request: Request) -> None:
                super().submit(request)
                seen[request.messages[1].content, len(request.messages)] = request.seed

        settings = CollectSettings(format=FORMATS["action"], seed=5)
        agent = Noting(lambda _: "up")
        collect(agent, ladders(places), jobs("train-3", "train-2"), tmp_path / f"{places}", settings)
        return seen

    assert seeds(1) == seeds(2)
    assert len(set(seeds(3).values())) == 5
    job = Job(task_id="train-3")
    assert seeds(4)["A ladder of 3 rungs.", 4] == reply_seed(5, job, 1)


def test_seeds_differ() -> None:
    job = Job(task_id="a")
    other = Job(task_id="a", sample=1)
    drawn = {reply_seed(s, j, t) for s in range(3) for j in (job, other) for t in range(3)}
    assert len(drawn) == 18
    assert all(0 <= seed < 2**63 for seed in drawn)


@pytest.mark.parametrize(
    "settings",
    [{"max_turns": 0}, {"max_unusable": 0}, {"fault_retries": -1}, {"instructions_role": "tool"}],
)
def test_bad_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        CollectSettings(**settings)


def test_the_fakes_are_slots() -> None:
    assert isinstance(TroubledSlot(), EnvironmentSlot)
    assert isinstance(LocalSlot(Ladder), EnvironmentSlot)
