"""Reading one row of a dataset: which messages it holds and which of them are scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from multiturn.errors import DataError
from multiturn.fields import objects
from multiturn.trajectory import Message, PreferencePair, Trajectory

__all__ = ["Conversation", "Row", "Rows", "chosen_row", "read_pair", "read_trajectory"]

Rows: TypeAlias = "Sequence[Mapping[str, Any]] | Sequence[Trajectory] | Sequence[PreferencePair]"
"""A list of rows, or a `datasets.Dataset` of them."""

_Messages: TypeAlias = "tuple[Message, ...]"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages that are to be rendered.

    Attributes:
        messages: The whole conversation.
        tools: Tool descriptions, as the chat template expects them.
        unscored: How many of the first assistant messages belong to the prompt and are not scored.
        where: Names the conversation in messages.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]
    unscored: int
    where: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row that was read.

    Attributes:
        id: The row's own id, or ``row-<index>``.
        conversations: One conversation, or chosen and rejected.
    """

    id: str
    conversations: tuple[Conversation, ...]


def read_pair(row: object, index: int) -> Row:
    """Read a preference pair.

    Without a ``prompt`` column both sides are whole conversations; what they share before the first
    assistant message is the prompt.

    Args:
        row: A `PreferencePair` or a mapping.
        index: The row's place in the dataset, from 0.

    Raises:
        DataError: The row is not a pair; the message names it and says what is wrong.
    """
    row_id = _row_id(row, index)
    where = _where("pairs", row_id, index)
    try:
        pair = row if isinstance(row, PreferencePair) else _parse_pair(_mapping(row))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    unscored = _assistants(pair.prompt)
    return Row(
        id=row_id,
        conversations=tuple(
            Conversation(
                messages=pair.prompt + side, tools=pair.tools, unscored=unscored, where=f"{where}, {name}"
            )
            for name, side in (("chosen", pair.chosen), ("rejected", pair.rejected))
        ),
    )


def chosen_row(pair: PreferencePair) -> dict[str, Any]:
    """A row for SFT that scores what pairwise training scores of a pair's chosen side."""
    return {"id": pair.id, "prompt": pair.prompt, "completion": pair.chosen, "tools": pair.tools}


def read_trajectory(row: object, index: int) -> Row:
    """Read a trajectory for supervised fine-tuning.

    Args:
        row: A `Trajectory`, or a mapping with ``messages``, or with ``prompt`` and ``completion``.
        index: The row's place in the dataset, from 0.

    Raises:
        DataError: The row is not a trajectory; the message names it and says what is wrong.
    """
    row_id = _row_id(row, index)
    where = _where("trajectories", row_id, index)
    try:
        prompt, messages, tools = _parse_trajectory(row)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    if not _assistants(messages):
        raise DataError(f"{where}: has no assistant turn to learn from; drop the row or check the roles")
    conversation = Conversation(
        messages=prompt + messages, tools=tools, unscored=_assistants(prompt), where=where
    )
    return Row(id=row_id, conversations=(conversation,))


def _parse_pair(fields: Mapping[str, Any]) -> PreferencePair:
    chosen, rejected = _messages(fields, "chosen"), _messages(fields, "rejected")
    if fields.get("prompt") is None:
        shared = _shared_prompt(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    else:
        prompt = _messages(fields, "prompt")
    if not prompt:
        raise DataError(
            "chosen and rejected share no message before the first assistant message; they must start from "
            "the same prompt (or give it in a 'prompt' column)"
        )
    tools = objects(fields, "tools")
    return PreferencePair(id="", prompt=prompt, chosen=chosen, rejected=rejected, tools=tools)


def _parse_trajectory(row: object) -> tuple[_Messages, _Messages, tuple[Mapping[str, Any], ...]]:
    """The prompt (not scored), the other messages and the tools."""
    if isinstance(row, Trajectory):
        return row.prompt, row.messages[len(row.prompt) :], row.tools
    fields = _mapping(row)
    tools = objects(fields, "tools")
    if fields.get("messages") is not None:
        return (), _messages(fields, "messages"), tools
    if fields.get("completion") is not None:
        return _messages(fields, "prompt"), _messages(fields, "completion"), tools
    raise DataError(f"has no 'messages' column (it has {', '.join(map(str, fields)) or 'none'})")


def _shared_prompt(chosen: Sequence[Message], rejected: Sequence[Message]) -> int:
    """The number of messages that both sides share before the first assistant message."""
    shared = 0
    for left, right in zip(chosen, rejected, strict=False):
        if left != right or left.role == "assistant":
            break
        shared += 1
    return shared


def _messages(fields: Mapping[str, Any], column: str) -> tuple[Message, ...]:
    value = fields.get(column)
    if value is None:
        raise DataError(f"has no {column!r} column (it has {', '.join(map(str, fields)) or 'none'})")
    if isinstance(value, str):
        raise DataError(
            f"{column!r} is a string; give a list of messages such as "
            '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
        )
    if not isinstance(value, list | tuple):
        raise DataError(f"{column!r} is a {type(value).__name__}; it must be a list of messages")
    messages = []
    for position, item in enumerate(value):
        try:
            messages.append(item if isinstance(item, Message) else Message.from_json(item))
        except DataError as error:
            raise DataError(f"{column}[{position}]: {error}") from None
    return tuple(messages)


def _mapping(row: object) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise DataError(f"is a {type(row).__name__}; a row must be a mapping of columns")
    return row


def _assistants(messages: Sequence[Message]) -> int:
    return sum(message.role == "assistant" for message in messages)


def _row_id(row: object, index: int) -> str:
    own = row.get("id") if isinstance(row, Mapping) else getattr(row, "id", None)
    return f"row-{index}" if own is None or own == "" else str(own)


def _where(label: str, row_id: str, index: int) -> str:
    return f"{label} row {index}" if row_id == f"row-{index}" else f"{label} row {index} (id {row_id})"
