"""What a format cannot hold of an item: found by reading back what was written."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from multiturn.formats.base import BadRecord
from multiturn.trajectory import Trajectory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from multiturn.formats.base import Item
    from multiturn.trajectory import Message

__all__ = ["lost_fields"]

_CALL_FIELDS: Final = frozenset({"id", "type", "index"})
"""What of a tool call only ties it to its answer."""


def lost_fields(item: Item, reread: Item) -> list[str]:
    """The names of the fields that did not come back.

    Args:
        item: What was written.
        reread: What was read back.

    Returns:
        Names such as ``"reward"`` and ``"token_ids"``, each once.

    Raises:
        BadRecord: More than that is different: who says what, a tool call, or where the prompt ends.
    """
    if isinstance(item, Trajectory) and isinstance(reread, Trajectory):
        lost, names = _lost_of_messages(item.messages, reread.messages), {"messages"}
    elif not isinstance(item, Trajectory) and not isinstance(reread, Trajectory):
        names = {"prompt", "chosen", "rejected"}
        lost = []
        for side in ("prompt", "chosen", "rejected"):
            lost += _lost_of_messages(getattr(item, side), getattr(reread, side))
    else:
        raise _changed("it comes back as something else")
    fields = [field.name for field in dataclasses.fields(item) if field.name not in names]
    lost += [name for name in fields if getattr(item, name) != getattr(reread, name)]
    return list(dict.fromkeys(lost))


def _lost_of_messages(messages: Sequence[Message], reread: Sequence[Message]) -> list[str]:
    if len(messages) != len(reread):
        raise _changed(f"{len(messages)} messages would become {len(reread)}")
    lost = []
    for before, after in zip(messages, reread, strict=True):
        if (before.role, before.content) != (after.role, after.content):
            raise _changed("a message would be another")
        if before.tool_calls != after.tool_calls:
            if _functions(before.tool_calls) != _functions(after.tool_calls):
                raise _changed("a tool call would be another")
            lost.append("tool call ids")
        lost += [
            name
            for name in ("token_ids", "token_logps", "name", "tool_call_id")
            if getattr(before, name) != getattr(after, name)
        ]
    return lost


def _functions(calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in call.items() if key not in _CALL_FIELDS} for call in calls]


def _changed(what: str) -> BadRecord:
    return BadRecord(
        f"the format cannot hold it: {what} when it is read again; write another format", reason="cannot_hold"
    )
