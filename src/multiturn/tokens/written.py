"""Whether a template wrote what it was given.

Templates leave things out without a word: roles that they do not know, what is said beside a tool call,
thinking. A model trained on what is left would learn to act without having seen, or said, the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["first_unwritten", "first_unwritten_tool"]


def first_unwritten(chat: Sequence[Mapping[str, Any]], text: str) -> tuple[str, str] | None:
    """The first content or called function that a template left out.

    Blanks do not count: many templates trim contents or set off thinking by line breaks.

    Args:
        chat: Messages as the template got them.
        text: What it wrote for them.

    Returns:
        The role of the message and what is missing, or None.
    """
    squeezed = _squeezed(text)
    end = 0
    for message in chat:
        called = [_function_name(call) for call in message.get("tool_calls", ())]
        # Some templates write calls before what is said beside them, so only messages have an order.
        ends = [(part, _end_of(squeezed, part, end)) for part in (message["content"], *called)]
        for part, found in ends:
            if found is None:
                return str(message["role"]), part
        end = max(found for _, found in ends if found is not None)
    return None


def first_unwritten_tool(tools: Sequence[Mapping[str, Any]], text: str) -> str | None:
    """The name of the first tool whose description a template left out.

    Args:
        tools: Tool descriptions as the template got them.
        text: What it wrote.
    """
    squeezed = _squeezed(text)
    names = map(_function_name, tools)
    return next((name for name in names if _end_of(squeezed, name, 0) is None), None)


def _function_name(described: Mapping[str, Any]) -> str:
    """The name in a tool description or call; empty where it has none."""
    function = described.get("function", described)
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else ""


def _end_of(squeezed: str, part: str, start: int) -> int | None:
    """Where `part` ends that begins behind `start`, as it is or as a JSON string (results of tools)."""
    for written in (_squeezed(part), _squeezed(json.dumps(part.strip(), ensure_ascii=False)[1:-1])):
        at = squeezed.find(written, start)
        if at >= 0:
            return at + len(written)
    return None


def _squeezed(text: str) -> str:
    return "".join(text.split())
