"""AgentGym's trajectories (AgentTraj), and AgentInstruct's: ShareGPT's messages with ``loss`` on each.

An assistant message whose ``loss`` is false is context. ``item_id`` names the task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from multiturn.formats.base import BadRecord, Context, Format, Item, new_trajectory
from multiturn.formats.messages import count_context_turns, message_list
from multiturn.formats.sharegpt import read_said, write_said
from multiturn.trajectory import Trajectory

if TYPE_CHECKING:
    from multiturn.trajectory import Json

__all__ = ["FORMAT"]


def _detects(record: Mapping[str, Any]) -> bool:
    said = record.get("conversations")
    return (
        isinstance(said, list)
        and "chosen" not in record
        and any(isinstance(message, Mapping) and {"from", "loss"} <= message.keys() for message in said)
    )


def _read(record: Mapping[str, Any], context: Context) -> Item:
    said = message_list(record.get("conversations"), "conversations")
    messages = [read_said(message, f"conversations[{i}]", context) for i, message in enumerate(said)]
    marks = [
        theirs.get("loss") for theirs, ours in zip(said, messages, strict=True) if ours.role == "assistant"
    ]
    return new_trajectory(
        record,
        messages,
        context,
        read=("conversations",),
        task_field="item_id" if record.get("item_id") is not None else "task_id",
        context_turns=count_context_turns(marks),
    )


def _write(item: Item) -> dict[str, Json]:
    if not isinstance(item, Trajectory):
        raise BadRecord("agentgym holds conversations, not pairs; use --to trl", reason="no_conversation")
    if item.tools or any(message.tool_calls or message.role == "tool" for message in item.messages):
        raise BadRecord("agentgym has no place for tools; use --to openai", reason="cannot_hold")
    unscored = item.context_turns
    said = write_said(item.messages)
    for message in said:
        message["loss"] = None
        if message["from"] == "gpt":
            message["loss"] = unscored <= 0
            unscored -= 1
    return {"item_id": item.task_id, "conversations": said}


FORMAT = Format(
    name="agentgym",
    about="AgentGym and AgentInstruct (conversations with from, value and loss; item_id)",
    holds=frozenset({"trajectories"}),
    detects=_detects,
    read=_read,
    write=_write,
)
