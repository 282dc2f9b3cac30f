"""The checker: what ships passes, and whatever breaks a rule of the protocol is named."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import TYPE_CHECKING, cast

import pytest

from multiturn import check_env
from multiturn.envs import Environment, ExpertAction, Step, Task, make
from multiturn.errors import ConfigError
from multiturn.memory import descendants

if TYPE_CHECKING:
    from collections.abc import Sequence


class Counting:
    """Count to three, one number a turn. The base of the broken ones below."""

    name = "counting"
    fingerprint = "counting/1"
    instructions = "Say the next number."
    invalid_observation = "?"
    max_turns = 6

    def __init__(self) -> None:
        self.count = 0
        self.episodes = 0
        self.closed = 0

    def tasks(self, split: str) -> Sequence[Task]:
        if split != "train":
            raise ConfigError(f"there is no split {split!r}; there is 'train'")
        return [Task(id=f"train/{i}", split=split, type="count") for i in range(5)]

    def reset(self, task_id: str) -> Step:
        if task_id not in {task.id for task in self.tasks("train")}:
            raise ConfigError(f"there is no task {task_id!r}")
        self.count = 0
        self.episodes += 1
        return self.answer("Count to three.", valid=True, reward=0.0)

    def step(self, action: str) -> Step:
        if self.count == 3 or action != str(self.count + 1):
            return self.answer("?", valid=False, reward=0.0)
        self.count += 1
        return self.answer(f"{self.count}!", valid=True, reward=1 / 3)

    def answer(self, observation: str, *, valid: bool, reward: float) -> Step:
        done = self.count == 3
        commands = [str(self.count + 1)]
        return Step(
            observation=observation,
            reward=reward,
            terminated=done,
            success=True if done else None,
            valid=valid,
            info={"admissible_commands": commands},
        )

    def expert_action(self) -> ExpertAction | None:
        return ExpertAction(action=str(self.count + 1))

    def close(self) -> None:
        self.closed += 1


def test_a_good_environment_passes() -> None:
    env = Counting()
    report = check_env(env)
    assert report.ok
    assert report.findings == ()
    assert (report.name, report.fingerprint, report.tasks) == ("counting", "counting/1", 5)
    # Each of three tasks: four rubbish actions; the expert's three, one after the end, the same three again;
    # the random agent's three (only the right one is admissible), one after the end.
    assert report.steps == 3 * (4 + 3 + 1 + 3 + 3 + 1)
    assert report.steps_per_second > 0
    assert report.memory_growth >= 0
    assert report.expert_returns == pytest.approx((1.0, 1.0, 1.0))
    assert report.random_returns == pytest.approx((1.0, 1.0, 1.0))
    assert env.closed == 2
    assert "counting: keeps the protocol" in report.describe()


@pytest.mark.skipif(descendants() is None, reason="the system does not tell what is started")
def test_memory_is_that_of_this_process_and_of_those_it_starts() -> None:
    """An environment that holds 64 MiB more once it is reset, with a simulator that holds 32 MiB."""

    class Heavy(Counting):
        def __init__(self) -> None:
            super().__init__()
            self.held = b""
            code = "held = b'x' * (32 << 20); print(flush=True); input()"
            command = [sys.executable, "-c", code]
            pipe = subprocess.PIPE
            self.simulator = subprocess.Popen(command, stdin=pipe, stdout=pipe)  # noqa: S603 - ours
            assert self.simulator.stdout is not None
            self.simulator.stdout.readline()

        def reset(self, task_id: str) -> Step:
            self.held = self.held or b"x" * (64 << 20)
            return super().reset(task_id)

        def close(self) -> None:
            super().close()
            with self.simulator:
                self.simulator.kill()

    report = check_env(Heavy())
    assert report.ok, report.describe()
    assert 60 << 20 <= report.memory_growth <= 160 << 20
    assert report.process_memory is not None
    assert report.process_memory >= 32 << 20
    growth, started = report.memory_growth / 2**20, report.process_memory / 2**20
    assert f"  memory:      {growth:,.0f} MiB, and {started:,.0f} MiB in processes" in report.describe()


def test_what_ships_passes() -> None:
    report = check_env(make("household", size="tiny", admissible=True), episodes=4)
    assert report.findings == ()
    assert report.expert_returns == (1.0, 1.0, 1.0, 1.0)
    assert report.random_returns


class NoFingerprint(Counting):
    fingerprint = ""


class NotText(Counting):
    instructions = cast("str", None)


class NoTasks(Counting):
    def tasks(self, split: str) -> Sequence[Task]:
        super().tasks(split)
        return []


class Twice(Counting):
    def tasks(self, split: str) -> Sequence[Task]:
        return [*super().tasks(split), *super().tasks(split)]


class Shuffled(Counting):
    calls = 0

    def tasks(self, split: str) -> Sequence[Task]:
        self.calls += 1
        tasks = list(super().tasks(split))
        return tasks if self.calls % 2 else tasks[::-1]


class AnySplit(Counting):
    def tasks(self, split: str) -> Sequence[Task]:
        return [Task(id=f"train/{i}", split="train", type="count") for i in range(5)]


class AnyTask(Counting):
    def reset(self, task_id: str) -> Step:
        return super().reset("train/0")


class KeyErrorForTasks(Counting):
    def reset(self, task_id: str) -> Step:
        return super().reset({task.id: task.id for task in self.tasks("train")}[task_id])


class AnotherBeginning(Counting):
    def reset(self, task_id: str) -> Step:
        return dataclasses.replace(super().reset(task_id), observation=f"Episode {self.episodes}.")


class NoGoal(Counting):
    def reset(self, task_id: str) -> Step:
        return dataclasses.replace(super().reset(task_id), observation=" ")


class PaidForComing(Counting):
    def reset(self, task_id: str) -> Step:
        return dataclasses.replace(super().reset(task_id), reward=0.1)


class OverAtOnce(Counting):
    def reset(self, task_id: str) -> Step:
        return dataclasses.replace(super().reset(task_id), terminated=True)


class RaisesOnRubbish(Counting):
    def step(self, action: str) -> Step:
        int(action)
        return super().step(action)


class TakesAnything(Counting):
    def step(self, action: str) -> Step:
        return dataclasses.replace(super().step(action), valid=True)


class Generous(Counting):
    def step(self, action: str) -> Step:
        step = super().step(action)
        return dataclasses.replace(step, reward=step.reward * 2)


class NotFinite(Counting):
    def step(self, action: str) -> Step:
        return dataclasses.replace(super().step(action), reward=float("inf"))


class NotJson(Counting):
    def step(self, action: str) -> Step:
        return dataclasses.replace(super().step(action), info={"what": cast("str", object())})


class NoInfo(Counting):
    def step(self, action: str) -> Step:
        return dataclasses.replace(super().step(action), info=cast("dict[str, str]", None))


class Moody(Counting):
    moods = 0

    def step(self, action: str) -> Step:
        self.moods += 1
        return dataclasses.replace(super().step(action), observation=f"Mood {self.moods}.")


class GoesOn(Counting):
    def step(self, action: str) -> Step:
        return super().step(action) if self.count < 3 else Step(observation="More?", reward=0.5)


class WrongExpert(Counting):
    def expert_action(self) -> ExpertAction | None:
        return ExpertAction(action="five")


class NoLimit(Counting):
    max_turns = 0


class ClosesOnce(Counting):
    def close(self) -> None:
        super().close()
        if self.closed > 1:
            raise RuntimeError("closed already")


class Untold(Counting):
    def step(self, action: str) -> Step:
        return dataclasses.replace(super().step(action), success=None)


@pytest.mark.parametrize(
    ("broken", "level", "message"),
    [
        (NoFingerprint, "error", "'fingerprint' is empty"),
        (NotText, "error", "'instructions' is None; it must be a string"),
        (NoTasks, "error", "the split has no tasks"),
        (Twice, "error", "two tasks have the same id"),
        (Shuffled, "error", "two calls give different lists"),
        (AnySplit, "error", "an unknown argument was accepted"),
        (AnyTask, "error", "an unknown argument was accepted"),
        (KeyErrorForTasks, "error", "an unknown argument raised KeyError"),
        (AnotherBeginning, "error", "two resets show different observations"),
        (NoGoal, "error", "the first observation is empty"),
        (PaidForComing, "error", "reset gives a reward of 0.1"),
        (OverAtOnce, "error", "ended with reset already"),
        (RaisesOnRubbish, "error", "raised ValueError"),
        (TakesAnything, "warning", "counts as valid"),
        (Generous, "error", "it must lie in [0, 1]"),
        (NotFinite, "error", "it must be finite"),
        (NotJson, "error", "cannot be written as JSON"),
        (NoInfo, "error", "'info' is None; it must be a mapping"),
        (Moody, "error", "the same actions gave another answer"),
        (GoesOn, "error", "a step after the end pays a reward or goes on"),
        (WrongExpert, "warning", "the expert's action 'five' is not valid"),
        (WrongExpert, "warning", "the expert did not solve it"),
        (NoLimit, "error", "'max_turns' is 0"),
        (ClosesOnce, "error", "it raised RuntimeError: closed already"),
        (Untold, "warning", "'success' is still None"),
    ],
)
def test_broken_rules_are_named(broken: type[Counting], level: str, message: str) -> None:
    report = check_env(broken())
    assert message in " ".join(f.message for f in report.findings if f.level == level), report.describe()
    assert report.ok == (level == "warning")
    assert message in report.describe()


def test_a_split_that_does_not_exist_is_the_askers_mistake() -> None:
    env = Counting()
    with pytest.raises(ConfigError, match="there is no split 'tset'; there is 'train'"):
        check_env(env, split="tset")
    assert env.closed == 2


def test_what_is_no_environment() -> None:
    class Half:
        name = "half"

        def tasks(self, split: str) -> list[Task]:
            return []

    report = check_env(cast("Environment", Half()))
    assert "lacks fingerprint, instructions" in report.describe()
    assert not report.ok
