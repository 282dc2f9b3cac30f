"""TRL's conversational preference data: ``prompt``, ``chosen`` and ``rejected``, or the latter two alone.

Without a ``prompt`` column both sides are whole conversations, and the messages that they share before the
first assistant message are the prompt. (TRL itself takes the longest shared beginning, assistant messages
among it; here turns that both sides share are scored; docs/method.md says why.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multiturn.formats.base import BadRecord, Context, Format, Item, new_pair, shared_prompt
from multiturn.formats.messages import count_unread_marks, message_list, read_message
from multiturn.trajectory import PreferencePair

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiturn.trajectory import Json, Message

__all__ = ["FORMAT"]


def _detects(record: Mapping[str, Any]) -> bool:
    return {"chosen", "rejected"} <= record.keys() and "conversations" not in record


def _read(record: Mapping[str, Any], context: Context) -> Item:
    for column in ("chosen", "rejected"):
        count_unread_marks(message_list(record.get(column), column), context)
    chosen, rejected = _side(record, "chosen", context), _side(record, "rejected", context)
    if record.get("prompt"):
        prompt = _side(record, "prompt", context)
    else:
        shared = shared_prompt(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    return new_pair(record, (prompt, chosen, rejected), context, read=("prompt", "chosen", "rejected"))


def _write(item: Item) -> dict[str, Json]:
    if not isinstance(item, PreferencePair):
        raise BadRecord("trl holds pairs; make some with `multiturn pairs`", reason="no_pair")
    record: dict[str, Json] = {
        "id": item.id,
        "prompt": [message.to_chat() for message in item.prompt],
        "chosen": [message.to_chat() for message in item.chosen],
        "rejected": [message.to_chat() for message in item.rejected],
    }
    if item.tools:
        record["tools"] = [dict(tool) for tool in item.tools]
    return record


def _side(record: Mapping[str, Any], column: str, context: Context) -> list[Message]:
    messages = message_list(record.get(column), column)
    return [read_message(message, f"{column}[{i}]", context) for i, message in enumerate(messages)]


FORMAT = Format(
    name="trl",
    about="TRL's conversational preference data (prompt, chosen, rejected; prompt may be missing)",
    holds=frozenset({"pairs"}),
    detects=_detects,
    read=_read,
    write=_write,
)
