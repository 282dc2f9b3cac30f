"""Messages, turns, trajectories and preference pairs: frozen and versioned.

A trajectory is a conversation ``s0, a0, o0, a1, o1, ...``: a prompt, then turns. One turn is one whole
assistant message (the action ``a_t``) with the messages that answer it (the observation ``o_t``).
"""

from __future__ import annotations

import dataclasses
import enum
import reprlib
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from multiturn.errors import DataError
from multiturn.fields import is_finite, json_object, objects, optional, required_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "SCHEMA_VERSION",
    "Json",
    "Message",
    "Outcome",
    "PreferencePair",
    "Role",
    "Trajectory",
    "Turn",
    "objects",
]

SCHEMA_VERSION = 1

Json: TypeAlias = "bool | int | float | str | Sequence[Any] | Mapping[str, Any] | None"
Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)


class Outcome(enum.StrEnum):
    """How an episode ended. Different outcomes are counted apart and never averaged into one another."""

    COMPLETED = "completed"
    """The environment ended the episode by the rules of the task."""
    TRUNCATED = "truncated"
    """The turn limit was reached."""
    CONTEXT_OVERFLOW = "context_overflow"
    """The conversation no longer fitted the model's context."""
    INVALID = "invalid"
    """The agent's output was unusable again and again."""
    ENVIRONMENT_ERROR = "environment_error"
    """The environment crashed or hung; the reward says nothing about the agent."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: Who speaks.
        content: The text. Text that looks like a special token is still text.
        tool_calls: The tool calls of an assistant message, as the chat template expects them.
        tool_call_id: On a tool message, the call it answers.
        name: On a tool message, the tool's name.
        token_ids: The ids the model really produced for this assistant message, with its end-of-turn token
            when it produced one. Training uses these ids instead of encoding `content` again.
        token_logps: A server's log-probability (nats, at most 0) of each token it sampled; as many as
            `token_ids` where there are such. Not read by training; equal messages may have different ones.
    """

    role: Role
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    token_ids: tuple[int, ...] | None = None
    token_logps: tuple[float, ...] | None = dataclasses.field(default=None, compare=False)

    def to_chat(self) -> dict[str, Any]:
        """This message as the plain dictionary that chat templates take."""
        chat: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            chat["tool_calls"] = [dict(call) for call in self.tool_calls]
        if self.tool_call_id is not None:
            chat["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            chat["name"] = self.name
        return chat

    def to_json(self) -> dict[str, Json]:
        """This message as JSON; fields at their defaults are left out."""
        record: dict[str, Json] = dict(self.to_chat())
        if self.token_ids is not None:
            record["token_ids"] = list(self.token_ids)
        if self.token_logps is not None:
            record["token_logps"] = list(self.token_logps)
        return record

    @classmethod
    def from_json(cls, record: object) -> Message:
        """Read a message back.

        Raises:
            DataError: The record is not a message; the message says which field is wrong.
        """
        fields = json_object(record, "a message")
        role = fields.get("role")
        if role not in ROLES:
            raise DataError(f"a message's role is {role!r}; use one of {', '.join(ROLES)}")
        content = fields.get("content")
        tool_calls = objects(fields, "tool_calls")
        if content is None and tool_calls:
            content = ""
        if not isinstance(content, str):
            raise DataError(f"the {role} message's content is {type(content).__name__}; it must be a string")
        token_ids = fields.get("token_ids")
        if token_ids is not None and (
            not isinstance(token_ids, list) or not all(type(i) is int and i >= 0 for i in token_ids)
        ):
            raise DataError(f"the {role} message's token_ids must be a list of non-negative integers")
        token_logps = fields.get("token_logps")
        if token_logps is not None and (
            not isinstance(token_logps, list) or not all(is_finite(n) and n <= 0 for n in token_logps)
        ):
            raise DataError(f"the {role} message's token_logps must be a list of numbers that are at most 0")
        return cls(
            role=role,
            content=content,
            tool_calls=tool_calls,
            tool_call_id=optional(fields, "tool_call_id", str),
            name=optional(fields, "name", str),
            token_ids=None if token_ids is None else tuple(token_ids),
            token_logps=None if token_logps is None else tuple(float(n) for n in token_logps),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One action and what answered it.

    Attributes:
        index: ``t``, counted from 0.
        message: The assistant message ``a_t``.
        observation: The messages that follow it, ``o_t``; empty after the last turn.
    """

    index: int
    message: Message
    observation: tuple[Message, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One episode.

    Attributes:
        id: Unique in its file, for example ``"train/12#3"``.
        task_id: The task it was an attempt at.
        messages: The whole conversation.
        outcome: How it ended.
        reward: The episode's return, in [0, 1] for the environments here; None when unknown.
        success: Whether the task was solved; None when unknown.
        task_type: The kind of task.
        split: The split the task belongs to.
        environment: The environment's fingerprint.
        agent: The agent's fingerprint.
        tools: Tool descriptions, as the chat template expects them.
        context_turns: How many of the first assistant messages belong to the prompt (worked examples, an
            agreed "OK") and are never scored; 0 in what a rollout writes.
        info: Anything else: scores in the benchmark's own terms, numbers of invalid actions, seconds.
    """

    id: str
    task_id: str
    messages: tuple[Message, ...]
    outcome: Outcome = Outcome.COMPLETED
    reward: float | None = None
    success: bool | None = None
    task_type: str = ""
    split: str = ""
    environment: str = ""
    agent: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    context_turns: int = 0
    info: Mapping[str, Json] = dataclasses.field(default_factory=dict)

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages before the first assistant message that is scored: ``s_0``."""
        starts = self._starts()
        return self.messages[: starts[0] if starts else len(self.messages)]

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The scored turns in order."""
        starts = self._starts()
        ends = [*starts[1:], len(self.messages)] if starts else []
        return tuple(
            Turn(index=t, message=self.messages[start], observation=self.messages[start + 1 : end])
            for t, (start, end) in enumerate(zip(starts, ends, strict=True))
        )

    @property
    def num_turns(self) -> int:
        """``T``, the number of scored assistant messages."""
        return len(self._starts())

    def _starts(self) -> list[int]:
        """Where the scored assistant messages are."""
        return [i for i, m in enumerate(self.messages) if m.role == "assistant"][self.context_turns :]

    def to_json(self) -> dict[str, Json]:
        """This trajectory as JSON."""
        record: dict[str, Json] = {
            "schema": SCHEMA_VERSION,
            "id": self.id,
            "task_id": self.task_id,
            "task_type": self.task_type,
            "split": self.split,
            "outcome": self.outcome.value,
            "reward": self.reward,
            "success": self.success,
            "environment": self.environment,
            "agent": self.agent,
            "messages": [message.to_json() for message in self.messages],
            "tools": [dict(tool) for tool in self.tools],
            "info": dict(self.info),
        }
        if self.context_turns:
            record["context_turns"] = self.context_turns
        return record

    @classmethod
    def from_json(cls, record: object) -> Trajectory:
        """Read a trajectory back.

        Raises:
            DataError: The record is not a trajectory; the message says which field is wrong.
        """
        fields = _versioned(record, "a trajectory")
        outcome = fields.get("outcome", Outcome.COMPLETED.value)
        if outcome not in [o.value for o in Outcome]:
            raise DataError(f"outcome is {outcome!r}; use one of {', '.join(Outcome)}")
        reward = fields.get("reward")
        if reward is not None and (isinstance(reward, bool) or not is_finite(reward)):
            raise DataError(f"reward is {reprlib.repr(reward)}; it must be a finite number or null")
        context_turns = fields.get("context_turns") or 0
        if type(context_turns) is not int or context_turns < 0:
            raise DataError(f"context_turns is {context_turns!r}; it must be a whole number, 0 or more")
        return cls(
            id=required_text(fields, "id"),
            task_id=required_text(fields, "task_id"),
            messages=_messages(fields.get("messages"), "messages"),
            outcome=Outcome(outcome),
            reward=None if reward is None else float(reward),
            success=optional(fields, "success", bool),
            task_type=optional(fields, "task_type", str) or "",
            split=optional(fields, "split", str) or "",
            environment=optional(fields, "environment", str) or "",
            agent=optional(fields, "agent", str) or "",
            tools=objects(fields, "tools"),
            context_turns=context_turns,
            info=json_object(fields.get("info") or {}, "info"),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair:
    """Two continuations of one prompt, one preferred over the other.

    In JSON the columns are those of TRL's conversational preference data: ``prompt``, ``chosen``,
    ``rejected`` and optionally ``tools``.

    Attributes:
        id: Unique in its file.
        prompt: The messages both start from. Assistant messages in it are context and are never scored.
        chosen: The rest of the preferred conversation.
        rejected: The rest of the dispreferred one.
        tools: Tool descriptions, as the chat template expects them.
        task_id: The task both attempted; may be empty.
        info: Anything else: rewards, the trajectories' ids, whether the roles were swapped.
    """

    id: str
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    task_id: str = ""
    info: Mapping[str, Json] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a side that has nothing to learn from.

        Raises:
            DataError: A side has no assistant message.
        """
        for side, messages in (("chosen", self.chosen), ("rejected", self.rejected)):
            if not any(message.role == "assistant" for message in messages):
                raise DataError(f"{side} has no assistant turn; drop the pair or check the roles")

    def to_json(self) -> dict[str, Json]:
        """This pair as JSON."""
        record: dict[str, Json] = {
            "schema": SCHEMA_VERSION,
            "id": self.id,
            "task_id": self.task_id,
            "prompt": [message.to_json() for message in self.prompt],
            "chosen": [message.to_json() for message in self.chosen],
            "rejected": [message.to_json() for message in self.rejected],
            "info": dict(self.info),
        }
        if self.tools:
            record["tools"] = [dict(tool) for tool in self.tools]
        return record

    @classmethod
    def from_json(cls, record: object, *, default_id: str = "") -> PreferencePair:
        """Read a pair back; only ``prompt``, ``chosen`` and ``rejected`` are required.

        Args:
            record: The parsed JSON.
            default_id: The pair's id where the record has none.

        Raises:
            DataError: The record is not a pair; the message says which field is wrong.
        """
        fields = _versioned(record, "a preference pair")
        return cls(
            id=str(fields.get("id") or default_id),
            prompt=_messages(fields.get("prompt"), "prompt"),
            chosen=_messages(fields.get("chosen"), "chosen"),
            rejected=_messages(fields.get("rejected"), "rejected"),
            tools=objects(fields, "tools"),
            task_id=str(fields.get("task_id") or ""),
            info=json_object(fields.get("info") or {}, "info"),
        )


def _messages(value: object, key: str) -> tuple[Message, ...]:
    if not isinstance(value, list | tuple):
        raise DataError(f"{key!r} is missing or not a list of messages")
    return tuple(Message.from_json(item) for item in value)


def _versioned(record: object, what: str) -> Mapping[str, Any]:
    fields = json_object(record, what)
    version = fields.get("schema", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise DataError(f"{what} has schema {version!r}; this version of multiturn reads {SCHEMA_VERSION}")
    return fields
