"""What travels between a slot and its environment's process: a JSON object a line, checked at both ends.

JSON and nothing else: an environment that misbehaves can at worst send a line that is refused.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, cast, get_args

from multiturn.envs.base import Environment, ExpertAction, Step, Task
from multiturn.errors import (
    ConfigError,
    DataError,
    EnvironmentFaultError,
    FaultKind,
    MissingExtraError,
    MultiturnError,
)

__all__ = [
    "MAX_LINE_BYTES",
    "MAX_OBSERVATION_CHARS",
    "EnvironmentFacts",
    "SlotAnswer",
    "answer_call",
    "checked_expert",
    "checked_step",
    "decode_answer",
    "decode_error",
    "decode_tasks",
    "describe_call",
    "dump",
    "encode_answer",
    "encode_error",
    "encode_tasks",
    "facts_of",
    "load",
]

MAX_OBSERVATION_CHARS = 1 << 20
"""Longer observations are faults: no model reads a mebibyte of text in one turn."""
MAX_LINE_BYTES = 16 << 20
"""A whole answer at most: an observation of `MAX_OBSERVATION_CHARS` escaped as ASCII, and its `info`."""

# Mistakes of whoever configured the run. They pass through as they are instead of counting as faults.
_PASSED_THROUGH: dict[str, type[MultiturnError]] = {
    kind.__name__: kind for kind in (ConfigError, DataError, MissingExtraError)
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentFacts:
    """What a rollout must know of an environment before its first episode.

    Attributes:
        name: The environment's name.
        fingerprint: See `multiturn.envs.base.Environment`.
        instructions: What an agent is told before its first observation.
        invalid_observation: What an agent sees when no action can be read out of its reply.
    """

    name: str
    fingerprint: str
    instructions: str
    invalid_observation: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SlotAnswer:
    """The answer to one call.

    Attributes:
        step: What ``reset`` or ``step`` gave; None after an ``expert`` call.
        expert: What the expert would do; None after ``reset`` and ``step``, and where it gives up.
        max_turns: The turn limit of the current task.
    """

    step: Step | None
    expert: ExpertAction | None
    max_turns: int


def facts_of(env: Environment) -> EnvironmentFacts:
    """The facts of an environment.

    Raises:
        EnvironmentFaultError: An attribute of the protocol is missing or not a string (kind ``garbage``).
    """
    values = {}
    for field in dataclasses.fields(EnvironmentFacts):
        value = getattr(env, field.name, None)
        if not isinstance(value, str):
            raise _garbage(f"the environment's {field.name!r} is {_short(value)}; it must be a string")
        values[field.name] = value
    return EnvironmentFacts(**values)


def checked_step(step: object) -> Step:
    """A step, after making sure that it is one.

    Raises:
        EnvironmentFaultError: It is not (kind ``garbage``), or its text is too long (``oversized``).
    """
    if not isinstance(step, Step):
        raise _garbage(f"the environment answered {_short(step)}; it must answer a multiturn.envs.Step")
    if not isinstance(step.observation, str):
        raise _garbage(f"the observation is {_short(step.observation)}; it must be a string")
    if len(step.observation) > MAX_OBSERVATION_CHARS:
        raise EnvironmentFaultError(
            f"an observation of {len(step.observation):,} characters; the limit is {MAX_OBSERVATION_CHARS:,}",
            kind="oversized",
        )
    if isinstance(step.reward, bool) or not isinstance(step.reward, int | float):
        raise _garbage(f"the reward is {_short(step.reward)}; it must be a number")
    if not math.isfinite(step.reward):
        raise _garbage(f"the reward is {step.reward}; it must be finite")
    for name in ("terminated", "truncated", "valid"):
        if not isinstance(getattr(step, name), bool):
            raise _garbage(f"{name!r} is {_short(getattr(step, name))}; it must be True or False")
    if step.success is not None and not isinstance(step.success, bool):
        raise _garbage(f"'success' is {_short(step.success)}; it must be True, False or None")
    if not isinstance(step.info, Mapping):
        raise _garbage(f"'info' is {_short(step.info)}; it must be a mapping")
    return step


def checked_expert(expert: object) -> ExpertAction | None:
    """An expert's answer, after making sure that it is one.

    Raises:
        EnvironmentFaultError: It is not (kind ``garbage``).
    """
    if expert is None:
        return None
    if not (
        isinstance(expert, ExpertAction)
        and isinstance(expert.action, str)
        and isinstance(expert.thought, str)
    ):
        raise _garbage(f"the expert answered {_short(expert)}; it must answer an ExpertAction or None")
    return expert


def answer_call(env: Environment, call: str, argument: str) -> SlotAnswer:
    """Make one call and check what comes back.

    Args:
        env: The environment.
        call: ``"reset"``, ``"step"`` or ``"expert"``.
        argument: The task's id, the action, or nothing.

    Raises:
        EnvironmentFaultError: The answer is unusable, or the environment raised something unexpected, which
            is anything after an action.
        ConfigError: The environment says that the task is a mistake, an unknown one for example.
    """
    try:
        if call == "expert":
            return SlotAnswer(
                step=None, expert=checked_expert(env.expert_action()), max_turns=_checked_limit(env.max_turns)
            )
        step = env.reset(argument) if call == "reset" else env.step(argument)
        return SlotAnswer(step=checked_step(step), expert=None, max_turns=_checked_limit(env.max_turns))
    except EnvironmentFaultError:
        raise
    except Exception as error:
        if call != "step" and isinstance(error, MultiturnError):
            raise
        raise EnvironmentFaultError(f"it raised {type(error).__name__}: {error}", kind="raised") from error


def describe_call(call: str, argument: str) -> str:
    """A call as a message shows it."""
    return f"{call}({_short(argument)})" if argument else f"{call}()"


def encode_answer(answer: SlotAnswer) -> dict[str, Any]:
    """An answer as the object that travels."""
    step = None
    if answer.step is not None:
        # Not dataclasses.asdict: it copies deeply, and fails on mappings it cannot rebuild.
        step = {field.name: getattr(answer.step, field.name) for field in dataclasses.fields(Step)}
        step["info"] = dict(answer.step.info)
    expert = None if answer.expert is None else dataclasses.asdict(answer.expert)
    return {"step": step, "expert": expert, "max_turns": answer.max_turns}


def decode_answer(record: Mapping[str, Any]) -> SlotAnswer:
    """An answer out of the object that travelled.

    Raises:
        EnvironmentFaultError: The object is no answer (kind ``garbage``).
    """
    try:
        step, expert = record["step"], record["expert"]
        return SlotAnswer(
            step=None if step is None else checked_step(Step(**step)),
            expert=None if expert is None else checked_expert(ExpertAction(**expert)),
            max_turns=_checked_limit(record["max_turns"]),
        )
    except (KeyError, TypeError) as error:
        raise _garbage(f"the environment's process sent an answer that is none: {error}") from error


def encode_error(error: Exception) -> dict[str, Any]:
    """An error as the object that travels."""
    passed = (name for name, kind in _PASSED_THROUGH.items() if isinstance(error, kind))
    fault = error.kind if isinstance(error, EnvironmentFaultError) else "raised"
    message = str(error) if isinstance(error, MultiturnError) else f"{type(error).__name__}: {error}"
    return {"error": next(passed, "EnvironmentFaultError"), "kind": fault, "message": message[:4000]}


def decode_error(record: Mapping[str, Any]) -> MultiturnError:
    """An error out of the object that travelled; to be raised."""
    message = str(record.get("message", ""))
    passed = _PASSED_THROUGH.get(str(record.get("error")))
    if passed is not None:
        # The constructors differ and have already done their work: only the message is carried over.
        error = passed.__new__(passed)
        error.args = (message,)
        return error
    kind = record.get("kind")
    return EnvironmentFaultError(
        message, kind=cast("FaultKind", kind) if kind in get_args(FaultKind) else "raised"
    )


def encode_tasks(tasks: object) -> list[list[str]]:
    """A list of tasks as the object that travels.

    Raises:
        EnvironmentFaultError: It is no list of tasks (kind ``garbage``).
    """
    if not isinstance(tasks, list | tuple) or not all(isinstance(task, Task) for task in tasks):
        raise _garbage(f"tasks() gave {_short(tasks)}; it must give a list of multiturn.envs.Task")
    rows = [[task.id, task.split, task.type] for task in tasks]
    for row in rows:
        if not all(isinstance(text, str) for text in row):
            raise _garbage(f"tasks() gave a task with id, split and type {_short(row)}; they must be strings")
    return rows


def decode_tasks(rows: object) -> list[Task]:
    """A list of tasks out of the object that travelled.

    Raises:
        EnvironmentFaultError: It is no list of tasks (kind ``garbage``).
    """
    try:
        return [Task(id=task, split=split, type=kind) for task, split, kind in cast("list[list[str]]", rows)]
    except (TypeError, ValueError) as error:
        raise _garbage(f"tasks() gave {_short(rows)}") from error


def dump(record: Mapping[str, Any]) -> bytes:
    """One line of ASCII JSON.

    Raises:
        EnvironmentFaultError: It holds something that JSON does not (kind ``garbage``), or too much of it.
    """
    try:
        line = json.dumps(record, allow_nan=False).encode("ascii") + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise _garbage(f"the answer's info cannot be written as JSON: {error}") from error
    if len(line) > MAX_LINE_BYTES:
        raise EnvironmentFaultError(
            f"the answer has {len(line):,} bytes; {MAX_LINE_BYTES:,} are allowed", kind="oversized"
        )
    return line


def load(line: bytes) -> dict[str, Any]:
    """The object in a line.

    Raises:
        EnvironmentFaultError: The line holds none (kind ``garbage``), or is too long (``oversized``).
    """
    if len(line) > MAX_LINE_BYTES:
        raise EnvironmentFaultError(
            f"the environment's process sent more than {MAX_LINE_BYTES:,} bytes", kind="oversized"
        )
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _garbage(f"the environment's process sent something that is not JSON: {line[:80]!r}") from error
    if not isinstance(record, dict):
        raise _garbage(f"the environment's process sent {_short(record)} instead of an answer")
    return record


def _checked_limit(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _garbage(f"'max_turns' is {_short(value)}; it must be a positive integer")
    return value


def _garbage(message: str) -> EnvironmentFaultError:
    return EnvironmentFaultError(message, kind="garbage")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
