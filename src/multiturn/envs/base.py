"""What an environment is: tasks by split, ``reset``, ``step``, and an expert where there is one.

An environment is a class with the methods of `Environment`; nothing has to be inherited. Text goes in, text
comes out, and everything a rollout needs to know of a step is in `Step`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from multiturn.trajectory import Json

__all__ = ["Environment", "ExpertAction", "Step", "Task"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task of an environment.

    Attributes:
        id: Unique in the environment, stable across runs and machines.
        split: ``"train"``, ``"test"`` or whatever the benchmark calls its parts.
        type: The kind of task, for example ``"pick_and_place"``. Intervals and tables group by it.
    """

    id: str
    split: str
    type: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What the environment answers to ``reset`` or to one action.

    Attributes:
        observation: The text the agent sees next.
        reward: The reward of this step. The sum over an episode is its return, in [0, 1] for every
            environment that ships with multiturn. It is 0 after ``reset``.
        terminated: The episode ended by the rules of the task (won, failed for good).
        truncated: The episode ended by a limit of the environment itself.
        success: Whether the task is solved; None while that is not known.
        valid: Whether the action was one the environment understood.
        info: Anything else, as JSON: scores in the benchmark's own terms, for example.
    """

    observation: str
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    success: bool | None = None
    valid: bool = True
    info: Mapping[str, Json] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExpertAction:
    """What the expert would do now.

    Attributes:
        action: The action as ``Environment.step`` takes it.
        thought: One sentence on why, for ReAct-style demonstrations; may be empty.
    """

    action: str
    thought: str = ""


@runtime_checkable
class Environment(Protocol):
    """A text environment.

    Attributes:
        name: The name it is registered by.
        fingerprint: Changes whenever the same actions may get other answers: engine version, data hash,
            generator settings. Stored with every rollout; rollouts of different fingerprints are never mixed.
        instructions: What an agent is told before its first observation; may be empty.
        invalid_observation: What the agent sees when no action can be read out of its reply.
        max_turns: The number of turns after which a benchmark's protocol ends an episode, or a sensible
            default. It may depend on the current task, and is read after ``reset``.
    """

    name: str
    fingerprint: str
    instructions: str
    invalid_observation: str

    @property
    def max_turns(self) -> int:
        """The turn limit of the current task."""
        ...

    def tasks(self, split: str) -> Sequence[Task]:
        """The tasks of a split, always in the same order.

        Raises:
            ConfigError: There is no such split; the message lists those there are.
        """
        ...

    def reset(self, task_id: str) -> Step:
        """Start an episode; the observation holds the task's goal.

        Raises:
            ConfigError: There is no such task.
        """
        ...

    def step(self, action: str) -> Step:
        """Take one action. An action that is not understood gives ``valid=False``, never an exception."""
        ...

    def expert_action(self) -> ExpertAction | None:
        """The expert's next action in the present state; None where there is no expert or it gives up.

        Called at most once between two steps. It may keep a plan, but only from what the agent could have
        seen, unless the environment documents otherwise.
        """
        ...

    def close(self) -> None:
        """Free what the environment holds. May be called twice."""
        ...
