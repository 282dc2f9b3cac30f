"""Messages with ``role`` and ``content``, as OpenAI, TRL and ms-swift write them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from multiturn.errors import DataError
from multiturn.formats.base import BadRecord
from multiturn.trajectory import ROLES, Json, Message

if TYPE_CHECKING:
    from multiturn.formats.base import Context

__all__ = [
    "call_objects",
    "call_texts",
    "count_context_turns",
    "count_unread_marks",
    "message_list",
    "read_message",
]

_ROLES: Final = {"developer": "system", "function": "tool"}
"""Other words for our roles."""
_FIELDS: Final = frozenset(
    {
        "role",
        "content",
        "tool_calls",
        "function_call",
        "tool_call_id",
        "name",
        "token_ids",
        "token_logps",
        "weight",
        "loss",
    }
)
_TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text"})


def message_list(value: object, column: str) -> list[Mapping[str, Any]]:
    """A column's messages, not yet read.

    Raises:
        BadRecord: The column holds no list of objects.
    """
    if isinstance(value, str):
        raise BadRecord(
            f"{column!r} is a string; give a list of messages such as "
            '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]',
            reason="no_messages",
        )
    if not isinstance(value, list | tuple):
        raise BadRecord(f"{column!r} is missing or not a list of messages", reason="no_messages")
    for position, message in enumerate(value):
        if not isinstance(message, Mapping):
            raise BadRecord(
                f"a message must be a JSON object, not {type(message).__name__} ({column}[{position}])",
                reason="bad_message",
            )
    return list(value)


def read_message(message: Mapping[str, Any], place: str, context: Context) -> Message:
    """One message.

    ``developer`` is a system message and ``function`` a tool's; a content that is a list of text parts is
    their texts, one after the other; the ``function_call`` of old is a tool call.

    Args:
        message: The message.
        place: Where it stands, for errors.
        context: Counts the fields that are not read.

    Raises:
        BadRecord: It is none, or holds something other than text.
    """
    role = message.get("role")
    role = _ROLES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise BadRecord(
            f"a message's role is {role!r}; use one of {', '.join(ROLES)} ({place})", reason="bad_role"
        )
    for field, value in message.items():
        if field not in _FIELDS and value not in (None, "", [], {}):
            context.unread[f"message field {field!r}"] += 1
    own = ("tool_calls", "tool_call_id", "name", "token_ids", "token_logps")
    fields = {key: message.get(key) for key in own}
    if isinstance(message.get("function_call"), Mapping):
        fields["tool_calls"] = [{"type": "function", "function": message["function_call"]}]
    try:
        return Message.from_json({**fields, "role": role, "content": _text(message.get("content"), place)})
    except BadRecord:
        raise
    except DataError as error:
        raise BadRecord(f"{error} ({place})", reason="bad_message") from None


def count_context_turns(scored: Sequence[object]) -> int:
    """How many of the first assistant messages are marked as not to be learned.

    Args:
        scored: For each assistant message its mark: false or 0 where it is not learned; anything else, None
            among them, where it is.

    Raises:
        BadRecord: One is marked after others that are learned. Turns are weighted by their place (M5), so
            none can be left out in between.
    """
    learned = [mark is None or bool(mark) for mark in scored]
    turns = next((turn for turn, learn in enumerate(learned) if learn), len(learned))
    if not all(learned[turns:]):
        raise BadRecord(
            f"assistant turn {turns + learned[turns:].index(False)} is marked as not to be learned, but turn "
            f"{turns} before it is to be; multiturn scores every turn from the first scored one on, so "
            "end the conversation earlier, or remove the marks",
            reason="unscored_turn",
        )
    return turns


def count_unread_marks(
    said: Sequence[Mapping[str, Any]], context: Context, fields: Sequence[str] = ("weight", "loss")
) -> None:
    """Count the marks of messages that are not to be learned, in a place where nobody reads them.

    Args:
        said: Messages, not yet read.
        context: Counts the fields that are not read.
        fields: Where marks stand.
    """
    for message in said:
        for field in fields:
            if message.get(field) is not None and not message[field]:
                context.unread[f"message field {field!r}"] += 1


def call_objects(message: Message) -> Message:
    """The message with its tool calls' arguments as objects, as chat templates expect them.

    Arguments that are no JSON object, or name a key twice, stay the text they are.
    """
    return _with_calls(message, _parsed)


def call_texts(message: Message) -> Message:
    """The message with its tool calls' arguments as JSON text, as OpenAI writes them."""
    return _with_calls(
        message, lambda value: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    )


def _with_calls(message: Message, change: Any) -> Message:
    if not message.tool_calls:
        return message
    calls: list[Mapping[str, Any]] = []
    for call in message.tool_calls:
        function = call.get("function")
        if isinstance(function, Mapping) and "arguments" in function:
            changed = {**function, "arguments": change(function["arguments"])}
            calls.append({**call, "function": changed})
        else:
            calls.append(call)
    return dataclasses.replace(message, tool_calls=tuple(calls))


def _parsed(arguments: Json) -> Json:
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json.loads(arguments, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key comes twice")
    return value


def _text(content: object, place: str) -> object:
    """The text of a content that may be a list of parts; other values are left to `Message.from_json`."""
    if not isinstance(content, list | tuple):
        return content
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str) or (isinstance(part, Mapping) and part.get("type") not in _TEXT_PARTS):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise BadRecord(
                f"the content has a part of type {kind!r}; multiturn reads text only, so leave the record "
                f"out ({place})",
                reason="not_text",
            )
        texts.append(text)
    return "".join(texts)
