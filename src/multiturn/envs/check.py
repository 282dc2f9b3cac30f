"""The public checker of environments: does one keep the protocol of `multiturn.envs.base.Environment`?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from multiturn.envs import _wire
from multiturn.envs.base import Environment, Step, Task
from multiturn.envs.check_report import CheckReport, Finding
from multiturn.errors import ConfigError, EnvironmentFaultError, MultiturnError
from multiturn.memory import MemoryMeter

if TYPE_CHECKING:
    from collections.abc import Callable

    from multiturn.envs._wire import SlotAnswer

__all__ = ["CheckReport", "Finding", "check_env"]

RUBBISH = ("", "xyzzy plugh 31337", "go to \u2603\x00 [[<|im_end|>]]", "look " * 2000)
"""Actions that nearly every environment should refuse."""

_TOLERANCE = 1e-6
_LOOK_SECONDS = 0.2


def check_env(
    env: Environment,
    *,
    split: str = "train",
    episodes: int = 3,
    seed: int = 0,
    meter: MemoryMeter | None = None,
) -> CheckReport:
    """Check that an environment keeps the protocol, and measure its speed. It is closed afterwards.

    It is asked for its tasks, reset to some of them, told rubbish, played by its expert, played again by the
    same actions, played at random where ``Step.info`` has ``admissible_commands``, asked to go on after the
    end, and closed twice.

    Args:
        env: The environment.
        split: The split whose tasks are played.
        episodes: How many tasks, spread over the split.
        seed: Seeds the random agent.
        meter: Measures the memory; one that was made before the environment counts what making it took.

    Returns:
        The report; its ``ok`` says whether no rule is broken.

    Raises:
        ConfigError: The environment refuses the split.
    """
    return _Checker(env, split, seed, meter or MemoryMeter()).run(episodes)


class _Checker:
    def __init__(self, env: Environment, split: str, seed: int, meter: MemoryMeter) -> None:
        self._env = env
        self._split = split
        self._meter = meter
        self._rng = np.random.default_rng(seed)
        self._findings: dict[tuple[str, str], Finding] = {}
        self._seconds = {"reset": 0.0, "step": 0.0, "expert": 0.0}
        self._calls = {"reset": 0, "step": 0, "expert": 0}

    def run(self, episodes: int) -> CheckReport:
        """Everything, in order."""
        self._facts()
        tasks = self._tasks()
        expert, random = [], []
        for index in range(min(episodes, len(tasks))):
            task = tasks[index * len(tasks) // min(episodes, len(tasks))]
            where = f"task {task.id}"
            try:
                self._reset(task, where)
                self._rubbish(task, where)
                expert += self._expert(task, where)
                random += self._random(task, where)
            except EnvironmentFaultError as fault:
                self._error(where, str(fault))
            except MultiturnError as error:
                self._error(where, f"a task of the split was refused: {error}")
        self._unknown_task()
        self._meter.look()
        self._close()
        rates = {call: self._calls[call] / s if s > 0.0 else 0.0 for call, s in self._seconds.items()}
        return CheckReport(
            name=str(getattr(self._env, "name", "")),
            fingerprint=str(getattr(self._env, "fingerprint", "")),
            findings=tuple(sorted(self._findings.values(), key=lambda finding: finding.level)),
            tasks=len(tasks),
            steps=self._calls["step"],
            steps_per_second=rates["step"],
            resets_per_second=rates["reset"],
            memory_growth=self._meter.growth,
            process_memory=self._meter.descendants,
            expert_returns=tuple(expert),
            random_returns=tuple(random),
        )

    def _error(self, where: str, message: str) -> None:
        self._findings.setdefault(("error", message), Finding(level="error", where=where, message=message))

    def _warn(self, where: str, message: str) -> None:
        self._findings.setdefault(
            ("warning", message), Finding(level="warning", where=where, message=message)
        )

    def _call(self, call: str, argument: str = "") -> SlotAnswer:
        started = time.perf_counter()
        try:
            answer = _wire.answer_call(self._env, call, argument)
        except EnvironmentFaultError as fault:
            raise EnvironmentFaultError(
                f"{_wire.describe_call(call, argument)}: {fault}", kind=fault.kind
            ) from fault
        self._seconds[call] += time.perf_counter() - started
        self._calls[call] += 1
        self._meter.look(every=_LOOK_SECONDS)
        # What cannot be sent cannot be isolated, nor stored.
        _wire.dump(_wire.encode_answer(answer))
        return answer

    def _step(self, action: str) -> Step:
        step = self._call("step", action).step
        assert step is not None  # noqa: S101 - a step call answers a step
        return step

    def _reset_to(self, task: Task) -> tuple[Step, int]:
        answer = self._call("reset", task.id)
        assert answer.step is not None  # noqa: S101 - a reset call answers a step
        return answer.step, answer.max_turns

    def _facts(self) -> None:
        where = "attributes"
        if not isinstance(self._env, Environment):
            names = [n for n in _PROTOCOL if not hasattr(self._env, n)]
            self._error(where, f"the environment lacks {', '.join(names)}")
        try:
            facts = _wire.facts_of(self._env)
        except EnvironmentFaultError as fault:
            self._error(where, str(fault))
            return
        for name in ("name", "fingerprint"):
            if not getattr(facts, name):
                self._error(where, f"{name!r} is empty; results could not be told apart")
        if not facts.invalid_observation.strip():
            self._warn(where, "'invalid_observation' is empty; an agent would not learn of its mistake")

    def _tasks(self) -> list[Task]:
        where = f"tasks({self._split!r})"
        try:
            tasks = _wire.decode_tasks(_wire.encode_tasks(self._env.tasks(self._split)))
            again = _wire.decode_tasks(_wire.encode_tasks(self._env.tasks(self._split)))
        except ConfigError:  # there is no such split: that is no fault of the environment's
            self._close()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            self._error(where, f"it raised {type(error).__name__}: {error}")
            return []
        if not tasks:
            self._error(where, "the split has no tasks")
        if tasks != again:
            self._error(where, "two calls give different lists; ids and their order must be stable")
        if len({task.id for task in tasks}) < len(tasks):
            self._error(where, "two tasks have the same id")
        if any(task.split != self._split for task in tasks):
            self._error(where, "some tasks say that they belong to another split")
        if not all(task.id for task in tasks):
            self._error(where, "a task has no id")
        if not all(task.type for task in tasks):
            self._warn(where, "some tasks have no type; results cannot be grouped by it")
        self._refuses("tasks", lambda: self._env.tasks("no such split"))
        return tasks

    def _unknown_task(self) -> None:
        self._refuses("reset", lambda: self._env.reset("no such task"))

    def _refuses(self, where: str, call: Callable[[], object]) -> None:
        try:
            call()
        except ConfigError:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            self._error(
                where, f"an unknown argument raised {type(error).__name__}; raise ConfigError instead"
            )
            return
        self._error(where, "an unknown argument was accepted; raise ConfigError instead")

    def _reset(self, task: Task, where: str) -> None:
        first, _ = self._reset_to(task)
        second, _ = self._reset_to(task)
        if first.observation != second.observation:
            self._error(where, "two resets show different observations; a task must always begin the same")
        if not first.observation.strip():
            self._error(where, "the first observation is empty; it holds the task's goal")
        if first.reward != 0:
            self._error(where, f"reset gives a reward of {first.reward}; it must be 0")
        if first.terminated or first.truncated:
            self._error(where, "the episode has ended with reset already")

    def _rubbish(self, task: Task, where: str) -> None:
        for action in RUBBISH:
            self._reset_to(task)
            step = self._step(action)
            if step.valid:
                self._warn(
                    where,
                    f"the action {action[:30]!r} counts as valid; "
                    "unless any text is an action here, answer it with valid=False",
                )

    def _expert(self, task: Task, where: str) -> list[float]:
        _, max_turns = self._reset_to(task)
        steps: list[Step] = []
        actions: list[str] = []
        while len(steps) < max_turns and not (steps and (steps[-1].terminated or steps[-1].truncated)):
            expert = self._call("expert").expert
            if expert is None:
                break
            actions.append(expert.action)
            steps.append(self._step(expert.action))
            if not steps[-1].valid:
                self._warn(where, f"the expert's action {expert.action!r} is not valid")
        if not steps:
            return []
        total = self._finished(steps, where)
        if not steps[-1].success:
            self._warn(where, f"the expert did not solve it (return {total:.3f}, {len(steps)} steps)")
        self._reset_to(task)
        for turn, (action, step) in enumerate(zip(actions, steps, strict=True)):
            if self._step(action) != step:
                self._error(
                    where, f"the same actions gave another answer at step {turn}; it must not be random"
                )
                break
        return [total]

    def _random(self, task: Task, where: str) -> list[float]:
        step, max_turns = self._reset_to(task)
        steps: list[Step] = []
        while len(steps) < max_turns and not (step.terminated or step.truncated):
            commands = step.info.get("admissible_commands")
            if not isinstance(commands, Sequence) or isinstance(commands, str) or not commands:
                break
            action = str(commands[int(self._rng.integers(len(commands)))])
            step = self._step(action)
            steps.append(step)
            if not step.valid:
                self._warn(where, f"the admissible command {action!r} is not valid")
        return [self._finished(steps, where)] if steps else []

    def _finished(self, steps: list[Step], where: str) -> float:
        """The return of an episode, after looking at its rewards and its end."""
        total = float(sum(step.reward for step in steps))
        if not -_TOLERANCE <= total <= 1.0 + _TOLERANCE:
            self._error(where, f"the return of an episode is {total}; it must lie in [0, 1]")
        last = steps[-1]
        if last.terminated and last.success is None:
            self._warn(where, "the episode terminated, but 'success' is still None")
        if last.terminated or last.truncated:
            after = self._step("look")
            if after.reward != 0 or not (after.terminated or after.truncated):
                self._error(
                    where, "a step after the end pays a reward or goes on; it must stay ended, without one"
                )
        return total

    def _close(self) -> None:
        for occasion in ("close", "second close"):
            try:
                self._env.close()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
                self._error(occasion, f"it raised {type(error).__name__}: {error}")


_PROTOCOL = (
    *("name", "fingerprint", "instructions", "invalid_observation", "max_turns"),
    *("tasks", "reset", "step", "expert_action", "close"),
)
