"""Environments and slots in memory, for rollout tests."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from multiturn.envs.base import ExpertAction, Step, Task
from multiturn.envs.slots import EnvironmentFacts, LocalSlot, SlotAnswer
from multiturn.errors import ConfigError, EnvironmentFaultError
from multiturn.rollouts.jobs import Job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.envs.slots import Call

FACTS = EnvironmentFacts(
    name="ladder", fingerprint="ladder-1", instructions="Climb the ladder.", invalid_observation="Pardon?"
)


class Ladder:
    """A ladder with as many rungs as the task's number says: `up` climbs one, at the top is a reward of 1.

    Half of the reward is given half-way. The task ``expertless-...`` has an expert that gives up;
    ``steep-...`` truncates the episode itself after two steps; ``closed-...`` is over as soon as it begins.
    """

    name = FACTS.name
    fingerprint = FACTS.fingerprint
    instructions = FACTS.instructions
    invalid_observation = FACTS.invalid_observation
    max_turns = 6

    def __init__(self) -> None:
        self._kind, self._rungs, self._at, self._steps = "", 0, 0, 0

    def tasks(self, split: str) -> Sequence[Task]:
        return [Task(id=f"{split}-{n}", split=split, type="climb") for n in range(1, 6)]

    def reset(self, task_id: str) -> Step:
        self._kind, _, rungs = task_id.partition("-")
        if not rungs.isdigit():
            raise ConfigError(f"there is no task {task_id!r}")
        self._rungs, self._at, self._steps = int(rungs), 0, 0
        return Step(observation=f"A ladder of {rungs} rungs.", terminated=self._kind == "closed")

    def step(self, action: str) -> Step:
        self._steps += 1
        valid = action in ("up", "down")
        before = self._at
        self._at = max(0, self._at + {"up": 1, "down": -1}.get(action, 0))
        done = self._at == self._rungs
        half = 2 * before < self._rungs <= 2 * self._at
        return Step(
            observation=f"You are on rung {self._at}." if valid else "Nothing happens.",
            reward=0.5 * half + 0.5 * done,
            terminated=done,
            truncated=self._kind == "steep" and self._steps == 2,
            success=done,
            valid=valid,
            info={"rung": self._at},
        )

    def expert_action(self) -> ExpertAction | None:
        if self._kind == "expertless" and self._at == 1:
            return None
        return ExpertAction(action="up", thought="The top is up.")

    def close(self) -> None:
        pass


def ladders(count: int) -> list[LocalSlot]:
    return [LocalSlot(Ladder) for _ in range(count)]


def jobs(*task_ids: str, samples: int = 1) -> list[Job]:
    return [
        Job(task_id=task_id, task_type="climb", split=task_id.partition("-")[0], sample=sample)
        for sample in range(samples)
        for task_id in task_ids
    ]


@dataclasses.dataclass
class TroubledSlot:
    """A ladder whose answers take their time, or are faults.

    Attributes:
        delay: Seconds until an answer is ready.
        faults: For each task how many of its episodes fail, at their second step.
        calls: What was called, in order.
    """

    delay: float = 0.0
    faults: dict[str, int] = dataclasses.field(default_factory=dict)
    calls: list[str] = dataclasses.field(default_factory=list)
    facts: EnvironmentFacts = FACTS

    def __post_init__(self) -> None:
        self._inner = LocalSlot(Ladder)
        self._ready = 0.0
        self._task = ""
        self._steps = 0

    def tasks(self, split: str) -> list[Task]:
        return self._inner.tasks(split)

    def start(self, call: Call, argument: str = "") -> None:
        self._inner.start(call, argument)
        self._ready = time.monotonic() + self.delay
        self.calls.append(f"{call} {argument}".strip())
        if call == "reset":
            self._task, self._steps = argument, 0
        if call == "step":
            self._steps += 1

    def poll(self, timeout: float = 0.0) -> SlotAnswer | None:
        if time.monotonic() < self._ready:
            return None
        answer = self._inner.poll()
        if self._steps == 2 and self.faults.get(self._task, 0) > 0:
            self.faults[self._task] -= 1
            self._steps = 0
            raise EnvironmentFaultError("the ladder broke", kind="crashed")
        return answer

    def close(self) -> None:
        self._inner.close()
