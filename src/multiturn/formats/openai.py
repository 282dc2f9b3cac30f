"""OpenAI's chat messages: logs of requests, and the JSONL of its fine-tuning.

The arguments of tool calls are JSON text there and objects here, because chat templates write objects. An
assistant message with ``weight`` 0 is context that nobody learns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multiturn.formats.base import BadRecord, Context, Format, Item, new_trajectory
from multiturn.formats.messages import (
    call_objects,
    call_texts,
    count_context_turns,
    message_list,
    read_message,
)
from multiturn.trajectory import Trajectory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiturn.trajectory import Json

__all__ = ["FORMAT"]


def _detects(record: Mapping[str, Any]) -> bool:
    return "messages" in record


def _read(record: Mapping[str, Any], context: Context) -> Item:
    said = message_list(record.get("messages"), "messages")
    messages = [
        call_objects(read_message(message, f"messages[{i}]", context)) for i, message in enumerate(said)
    ]
    marks = [
        message.get("weight", message.get("loss")) for message in said if message.get("role") == "assistant"
    ]
    left = {**record, "tools": record.get("tools") or _wrapped(record.get("functions"))}
    return new_trajectory(
        left, messages, context, read=("messages", "functions"), context_turns=count_context_turns(marks)
    )


def _wrapped(functions: object) -> object:
    """The functions of old as tools."""
    if not isinstance(functions, list):
        return functions
    return [{"type": "function", "function": function} for function in functions]


def _write(item: Item) -> dict[str, Json]:
    if not isinstance(item, Trajectory):
        raise BadRecord("openai holds conversations, not pairs; use --to trl", reason="no_conversation")
    messages: list[dict[str, Any]] = []
    unscored = item.context_turns
    for message in item.messages:
        chat = call_texts(message).to_chat()
        if message.role == "assistant" and unscored:
            chat["weight"] = 0
            unscored -= 1
        messages.append(chat)
    record: dict[str, Json] = {"messages": messages}
    if item.tools:
        record["tools"] = [dict(tool) for tool in item.tools]
    return record


FORMAT = Format(
    name="openai",
    about="OpenAI chat messages (messages with role and content, tools), as in logs and fine-tuning files",
    holds=frozenset({"trajectories"}),
    detects=_detects,
    read=_read,
    write=_write,
)
