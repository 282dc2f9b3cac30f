"""ShareGPT's messages with ``from`` and ``value``, which FastChat, LLaMA-Factory and ETO read and write.

A conversation is a column ``conversations``. A pair is ``prompt``, ``chosen`` and ``rejected`` (ETO), or
``conversations`` with one message for each of ``chosen`` and ``rejected`` (LLaMA-Factory). What the prompt of
a pair holds is context, ETO's "OK" of the assistant among it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from multiturn.formats.base import BadRecord, Context, Format, Item, new_pair, new_trajectory
from multiturn.formats.calls import read_calls, write_calls
from multiturn.formats.messages import count_unread_marks, message_list
from multiturn.trajectory import Message, Trajectory

if TYPE_CHECKING:
    from multiturn.trajectory import Json, Role

__all__ = ["FORMAT", "read_said", "write_said"]

ROLES: Final[dict[str, Role]] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""Who speaks, by what ``from`` says."""
_SPEAKERS: Final = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
_COLUMNS = ("conversations", "prompt", "chosen", "rejected", "system")


def _detects(record: Mapping[str, Any]) -> bool:
    return any(_has_speakers(record.get(column)) for column in ("conversations", "chosen"))


def _has_speakers(value: object) -> bool:
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, Mapping) and "from" in first


def _read(record: Mapping[str, Any], context: Context) -> Item:
    column = "conversations" if record.get("conversations") is not None else "prompt"
    messages = _system(record) + _side(record, column, context)
    if column == "conversations" and record.get("chosen") is None:
        count_unread_marks(_said_of(record, column), context, ("loss",))
        return new_trajectory(record, messages, context, read=_COLUMNS)
    sides = (messages, _side(record, "chosen", context), _side(record, "rejected", context))
    for side in ("chosen", "rejected"):
        count_unread_marks(_said_of(record, side), context, ("loss",))
    return new_pair(record, sides, context, read=_COLUMNS)


def _system(record: Mapping[str, Any]) -> list[Message]:
    text = record.get("system")
    if text is None or text == "":
        return []
    if not isinstance(text, str):
        raise BadRecord(f"'system' is {type(text).__name__}; it must be a string", reason="bad_message")
    return [Message(role="system", content=text)]


def _side(record: Mapping[str, Any], column: str, context: Context) -> list[Message]:
    said = _said_of(record, column)
    return [read_said(message, f"{column}[{i}]", context) for i, message in enumerate(said)]


def _said_of(record: Mapping[str, Any], column: str) -> list[Mapping[str, Any]]:
    value = record.get(column)
    return message_list([value] if isinstance(value, Mapping) else value, column)


def read_said(message: Mapping[str, Any], place: str, context: Context) -> Message:
    """One message with ``from`` and ``value``.

    Raises:
        BadRecord: It is none.
    """
    speaker, text = message.get("from"), message.get("value")
    role = ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise BadRecord(
            f"a message is from {speaker!r}; use one of {', '.join(ROLES)} ({place})", reason="bad_role"
        )
    for field, value in message.items():
        if field not in {"from", "value", "loss"} and value not in (None, "", [], {}):
            context.unread[f"message field {field!r}"] += 1
    if speaker == "function_call":
        return Message(role="assistant", content="", tool_calls=read_calls(text, place))
    if not isinstance(text, str):
        raise BadRecord(
            f"the {speaker} message's value is {type(text).__name__}; it must be a string ({place})",
            reason="bad_message",
        )
    return Message(role=role, content=text)


def write_said(messages: Sequence[Message]) -> list[dict[str, Json]]:
    """Messages with ``from`` and ``value``.

    Raises:
        BadRecord: A message has both text and tool calls, for which there is no place.
    """
    said: list[dict[str, Json]] = []
    for message in messages:
        if message.tool_calls and message.content:
            raise BadRecord(
                "an assistant message has text and tool calls, and the format holds one of them; use "
                "--to openai or --to ms-swift",
                reason="cannot_hold",
            )
        if message.tool_calls:
            said.append({"from": "function_call", "value": write_calls(message.tool_calls)})
        else:
            said.append({"from": _SPEAKERS[message.role], "value": message.content})
    return said


def _write(item: Item) -> dict[str, Json]:
    record: dict[str, Json] = {"id": item.id}
    if isinstance(item, Trajectory):
        record["conversations"] = write_said(item.messages)
    else:
        record |= {side: write_said(getattr(item, side)) for side in ("prompt", "chosen", "rejected")}
    if item.tools:
        record["tools"] = json.dumps([dict(tool) for tool in item.tools], ensure_ascii=False)
    return record


FORMAT = Format(
    name="sharegpt",
    about="ShareGPT, LLaMA-Factory and ETO (conversations, or prompt, chosen, rejected, with from and value)",
    holds=frozenset({"trajectories", "pairs"}),
    detects=_detects,
    read=_read,
    write=_write,
)
