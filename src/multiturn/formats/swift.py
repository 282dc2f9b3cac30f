"""ms-swift's data: ``messages``, and for pairs ``rejected_messages`` or ``rejected_response``.

Tool calls are messages of their own there (role ``tool_call``, JSON text); here they belong to the assistant
message before them, or to one without text. ``rejected_response`` stands for the last message alone, so what
comes before it is the prompt; ``rejected_messages`` is a whole conversation, and the prompt is what both
share before the first assistant message that is learned. ``loss: false`` on the first assistant messages
makes them context.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from multiturn.formats.base import (
    BadRecord,
    Context,
    Format,
    Item,
    new_pair,
    new_trajectory,
    shared_prompt,
)
from multiturn.formats.calls import read_calls, write_call
from multiturn.formats.messages import call_objects, count_context_turns, message_list, read_message
from multiturn.trajectory import Message, Trajectory

if TYPE_CHECKING:
    from multiturn.trajectory import Json

__all__ = ["FORMAT"]

_COLUMNS = ("messages", "rejected_messages", "rejected_response", "rejected_tools")


def _detects(record: Mapping[str, Any]) -> bool:
    messages = record.get("messages")
    if not {"rejected_messages", "rejected_response"}.isdisjoint(record):
        return "messages" in record
    return isinstance(messages, list) and any(
        isinstance(message, Mapping) and message.get("role") in ("tool_call", "tool_response")
        for message in messages
    )


def _read(record: Mapping[str, Any], context: Context) -> Item:
    messages, unscored = _conversation(record, "messages", context)
    if record.get("rejected_messages") is not None:
        rejected, unscored_rejected = _conversation(record, "rejected_messages", context)
        tools = record.get("rejected_tools")
        if tools is not None and tools != record.get("tools"):
            raise BadRecord(
                "'rejected_tools' differ from 'tools'; both sides of a pair have the same tools",
                reason="bad_tools",
            )
        shared = shared_prompt(messages, rejected, min(unscored, unscored_rejected))
        sides = (messages[:shared], messages[shared:], rejected[shared:])
        return new_pair(record, sides, context, read=_COLUMNS)
    if record.get("rejected_response") is not None:
        answer = record["rejected_response"]
        if not isinstance(answer, str) or not messages or messages[-1].role != "assistant":
            raise BadRecord(
                "'rejected_response' must be a text that stands for the last message, an assistant's",
                reason="bad_message",
            )
        replaced = [Message(role="assistant", content=answer)]
        return new_pair(record, (messages[:-1], messages[-1:], replaced), context, read=_COLUMNS)
    return new_trajectory(record, messages, context, read=_COLUMNS, context_turns=unscored)


def _conversation(record: Mapping[str, Any], column: str, context: Context) -> tuple[list[Message], int]:
    """The messages of a column and how many of its assistant messages are not learned."""
    messages: list[Message] = []
    marks: list[object] = []
    open_turn = False
    for position, said in enumerate(message_list(record.get(column), column)):
        place, role = f"{column}[{position}]", said.get("role")
        if role == "tool_call":
            calls = read_calls(said.get("content"), place)
            if open_turn:
                last = messages[-1]
                calls = (*last.tool_calls, *calls)
                messages[-1] = Message(role="assistant", content=last.content, tool_calls=calls)
            else:
                messages.append(Message(role="assistant", content="", tool_calls=calls))
                marks.append(said.get("loss"))
        else:
            role = "tool" if role == "tool_response" else role
            messages.append(call_objects(read_message({**said, "role": role}, place, context)))
            if role == "assistant":
                marks.append(said.get("loss"))
        open_turn = messages[-1].role == "assistant"
    return messages, count_context_turns(marks)


def _write(item: Item) -> dict[str, Json]:
    tools = json.dumps([dict(tool) for tool in item.tools], ensure_ascii=False)
    if isinstance(item, Trajectory):
        record: dict[str, Json] = {"messages": _said(item.messages, item.context_turns)}
        return record | ({"tools": tools} if item.tools else {})
    unscored = sum(message.role == "assistant" for message in item.prompt)
    record = {
        "messages": _said(item.prompt + item.chosen, unscored),
        "rejected_messages": _said(item.prompt + item.rejected, unscored),
    }
    return record | ({"tools": tools, "rejected_tools": tools} if item.tools else {})


def _said(messages: Sequence[Message], unscored: int) -> list[dict[str, Json]]:
    said: list[dict[str, Json]] = []
    for message in messages:
        role = "tool_response" if message.role == "tool" else message.role
        mark: dict[str, Json] = {}
        if message.role == "assistant" and unscored:
            mark = {"loss": False}
            unscored -= 1
        if message.content or not message.tool_calls:
            said.append({"role": role, "content": message.content, **mark})
        said += [{"role": "tool_call", "content": write_call(call), **mark} for call in message.tool_calls]
    return said


FORMAT = Format(
    name="ms-swift",
    about="ms-swift's messages, with rejected_messages or rejected_response for pairs",
    holds=frozenset({"trajectories", "pairs"}),
    detects=_detects,
    read=_read,
    write=_write,
)
