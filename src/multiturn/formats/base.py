"""What every format has in common: its interface, and how a record's other columns are read."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from multiturn.errors import DataError
from multiturn.fields import is_finite
from multiturn.trajectory import Json, Message, Outcome, PreferencePair, Trajectory

__all__ = [
    "REWARD_FIELDS",
    "BadRecord",
    "Context",
    "Format",
    "Item",
    "Kind",
    "kind_of",
    "new_pair",
    "new_trajectory",
    "reward_of",
    "shared_prompt",
    "tool_list",
]

Item: TypeAlias = "Trajectory | PreferencePair"
Kind: TypeAlias = Literal["trajectories", "pairs"]

REWARD_FIELDS: Final = ("reward", "score", "return")
"""Where a trajectory's return is looked for; the first of them that is there counts."""

_TEXT_FIELDS: Final = ("task_type", "split", "environment", "agent")


class BadRecord(DataError):  # noqa: N818 - a row that is counted, and an error only where nobody counts
    """A record that a format cannot read, or that it cannot hold.

    Args:
        message: What is wrong and what to do.
        reason: What such records are counted under, in a word.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What reading a record takes besides the record.

    Attributes:
        default_id: The id of a record that has none.
        reward_fields: Where a trajectory's return is looked for; a dot goes into an object.
        unread: Counts, by name, fields that hold something and are not read. Added to while reading.
    """

    default_id: str = ""
    reward_fields: tuple[str, ...] = REWARD_FIELDS
    unread: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format.

    Attributes:
        name: What it is called on the command line.
        about: What a record looks like, in a line.
        holds: What a file of it can hold.
        detects: Whether a record looks like one of its own. Never raises.
        read: A record as a trajectory or a pair; raises `DataError`, mostly `BadRecord`, where it is none.
        write: A trajectory or pair as a record; raises `BadRecord` where the format cannot hold it.
    """

    name: str
    about: str
    holds: frozenset[Kind]
    detects: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any], Context], Item]
    write: Callable[[Item], dict[str, Json]]


def kind_of(item: Item) -> Kind:
    """What an item is, in the word for a file of them."""
    return "pairs" if isinstance(item, PreferencePair) else "trajectories"


def new_trajectory(
    fields: Mapping[str, Any],
    messages: Sequence[Message],
    context: Context,
    *,
    read: Sequence[str],
    task_field: str = "task_id",
    context_turns: int = 0,
) -> Trajectory:
    """A trajectory of messages that a format has read, with what the record's other columns say.

    Columns that nobody reads end up in ``info``. A record without a task is an attempt at the task that its
    prompt states: the task's id is ``prompt-`` and a hash of the prompt. Where there is no prompt either,
    nobody knows what was attempted; the id is ``conversation-`` and a hash of all messages then.

    Args:
        fields: The record.
        messages: The conversation.
        context: The default id and the fields of rewards.
        read: The columns that hold the conversation.
        task_field: The column that names the task.
        context_turns: How many of the first assistant messages are not scored.

    Raises:
        BadRecord: There is no scored assistant message, or a column's value is unusable.
    """
    if sum(message.role == "assistant" for message in messages) <= context_turns:
        raise BadRecord(
            "has no assistant turn to learn from; drop the record or check its roles", reason="no_turns"
        )
    left = {key: value for key, value in fields.items() if key not in read}
    item = Trajectory(id="new", task_id="new", messages=tuple(messages), context_turns=context_turns)
    reward, reward_field = reward_of(left, context.reward_fields)
    left.pop(reward_field, None)
    outcome = left.get("outcome")
    known = outcome in [o.value for o in Outcome]
    success = left.pop("success") if isinstance(left.get("success"), bool) else None
    texts = {key: left.pop(key) for key in _TEXT_FIELDS if isinstance(left.get(key), str)}
    return dataclasses.replace(
        item,
        id=_name(left.pop("id", None), "id") or context.default_id,
        task_id=_name(left.pop(task_field, None), task_field) or _task_of(item),
        outcome=Outcome(left.pop("outcome")) if known else Outcome.COMPLETED,
        reward=reward,
        success=success,
        tools=tool_list(left.pop("tools", None)),
        info=_info(left),
        **texts,
    )


def new_pair(
    fields: Mapping[str, Any],
    sides: tuple[Sequence[Message], Sequence[Message], Sequence[Message]],
    context: Context,
    *,
    read: Sequence[str],
) -> PreferencePair:
    """A pair of messages that a format has read, with what the record's other columns say.

    Args:
        fields: The record.
        sides: The prompt, the chosen side and the rejected one.
        context: The default id.
        read: The columns that hold the conversations.

    Raises:
        BadRecord: The prompt is empty, a side has no assistant turn, or a column's value is unusable.
    """
    prompt, chosen, rejected = sides
    for side, messages in (("chosen", chosen), ("rejected", rejected)):
        if not any(message.role == "assistant" for message in messages):
            raise BadRecord(
                f"{side} has no assistant turn; drop the pair or check the roles", reason="no_turns"
            )
    if not prompt:
        raise BadRecord(
            "chosen and rejected share no message before the first assistant message; they must start from "
            "the same prompt",
            reason="no_shared_prompt",
        )
    left = {key: value for key, value in fields.items() if key not in read}
    return PreferencePair(
        id=_name(left.pop("id", None), "id") or context.default_id,
        task_id=_name(left.pop("task_id", None), "task_id"),
        prompt=tuple(prompt),
        chosen=tuple(chosen),
        rejected=tuple(rejected),
        tools=tool_list(left.pop("tools", None)),
        info=_info(left),
    )


def shared_prompt(chosen: Sequence[Message], rejected: Sequence[Message], context_turns: int = 0) -> int:
    """How many messages two whole conversations share before the first assistant message that is scored."""
    shared = assistants = 0
    for left, right in zip(chosen, rejected, strict=False):
        assistants += left.role == "assistant"
        if left != right or assistants > context_turns:
            break
        shared += 1
    return shared


def reward_of(fields: Mapping[str, Any], names: Sequence[str]) -> tuple[float | None, str]:
    """A record's return and the column it stands in.

    Args:
        fields: The record.
        names: Where to look; the first that holds anything counts. ``"info.score"`` goes into an object.

    Returns:
        The return, with true as 1 and false as 0, or None; and the top-level column to leave out of
        ``info``, ``""`` where there is none.

    Raises:
        BadRecord: The field holds something that is no finite number.
    """
    for name in names:
        value: Any = fields
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None:
            continue
        if not is_finite(value):
            raise BadRecord(
                f"{name} is {reprlib.repr(value)}; it must be a finite number or null", reason="bad_reward"
            )
        return float(value), name if "." not in name else ""
    return None, ""


def tool_list(value: object) -> tuple[Mapping[str, Any], ...]:
    """The tools of a record: a list of objects, or the same as JSON text.

    Raises:
        BadRecord: It is something else.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError):
            raise BadRecord(
                "'tools' is text and no JSON; give a list of objects", reason="bad_tools"
            ) from None
    value = value or ()
    if not isinstance(value, list | tuple) or not all(isinstance(tool, Mapping) for tool in value):
        raise BadRecord(
            "'tools' must be a list of JSON objects, as the chat template expects them", reason="bad_tools"
        )
    return tuple(value)


def _name(value: object, key: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRecord(f"{key!r} is {value!r}; use a string or a number", reason="bad_id")
    return str(value)


def _info(left: Mapping[str, Any]) -> dict[str, Any]:
    own = left.get("info")
    known = own if isinstance(own, Mapping) else {}
    # A column that is null in this row says nothing; other rows have it.
    said = {key: value for key, value in left.items() if value is not None and value is not known}
    return {**known, **said}


def _task_of(item: Trajectory) -> str:
    kind, messages = ("prompt", item.prompt) if item.prompt else ("conversation", item.messages)
    said = json.dumps([[message.role, message.content] for message in messages])
    return f"{kind}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"
