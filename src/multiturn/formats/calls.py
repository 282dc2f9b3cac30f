"""Tool calls as text, ``{"name": ..., "arguments": {...}}``, as ms-swift and ShareGPT have them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from multiturn.formats.base import BadRecord

if TYPE_CHECKING:
    from multiturn.trajectory import Json

__all__ = ["read_calls", "write_call", "write_calls"]


def read_calls(text: object, place: str) -> tuple[Mapping[str, Any], ...]:
    """The calls of a text: one object, or a list of them.

    Raises:
        BadRecord: The text is something else.
    """
    try:
        value: Any = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        value = None
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(
        isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls
    ):
        raise BadRecord(
            f'a tool call must be JSON such as {{"name": "look", "arguments": {{}}}} ({place})',
            reason="bad_tool_call",
        )
    return tuple({"type": "function", "function": dict(call)} for call in calls)


def write_call(call: Mapping[str, Any]) -> str:
    """A call as text. Its id and type have no place there.

    Raises:
        BadRecord: The call has no function with a name.
    """
    return json.dumps(_function(call), ensure_ascii=False)


def write_calls(calls: tuple[Mapping[str, Any], ...]) -> str:
    """The calls of one message as text: an object, or a list where there are several.

    Raises:
        BadRecord: A call has no function with a name.
    """
    functions = [_function(call) for call in calls]
    return json.dumps(functions if len(functions) > 1 else functions[0], ensure_ascii=False)


def _function(call: Mapping[str, Any]) -> dict[str, Json]:
    function: object = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadRecord(
            "a tool call has no function with a name, so the format cannot hold it; use --to openai",
            reason="cannot_hold",
        )
    return {str(key): value for key, value in function.items()}
