"""The wire format of OpenAI-compatible chat completions: requests out, replies in.

What a server sends is untrusted: it is read as data, checked field by field, and shortened and escaped before
any of it stands in a message.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any, Final

from multiturn.fields import is_finite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from multiturn.trajectory import Json, Message

__all__ = [
    "Completion",
    "GarbageError",
    "encode_request",
    "is_overflow",
    "parse_completion",
    "printable",
    "read_json",
    "server_message",
]

_MESSAGE_LENGTH: Final = 300
"""Characters of a server's message that are shown at most."""
_FAILED: Final = frozenset({"abort", "error"})
"""Finish reasons of replies that the server itself gave up (vLLM and SGLang, when they run out of memory or
are shut down): what was written until then is nothing the model chose to end."""

_ROUNDING: Final = 1e-3
"""By how much a log-probability may be above 0: a server's rounding."""

_OVERFLOW_STATUSES: Final = frozenset({400, 413, 422})
_OVERFLOW: Final = re.compile(
    r"context[ _-]?(length|size|window)|context_length_exceeded|exceed_context|maximum model length"
    r"|max_model_len|(prompt|input|request) (is )?too (long|large)|too many (input |prompt )?tokens"
    r"|longer than the (model|maximum)",
    re.IGNORECASE,
)
"""What servers say when a conversation does not fit, each in its own words."""


class GarbageError(Exception):
    """An answer that is none. Its message is fit to be shown."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A server's reply.

    Attributes:
        content: The text; empty where the server says null.
        truncated: Whether it was cut off by the limit of new tokens.
        filtered: Whether it was cut off by the server's content filter.
        tool_calls: Calls that the server found in the reply, with their arguments as objects where they are
            such.
        reasoning: What the server cut out of the reply as reasoning.
        token_ids: The ids that the server says the model produced; None where it does not say.
        logps: The log-probabilities (nats, at most 0) token by token; None where it gives none.
        spelled: The text of the tokens that have log-probabilities; a last one that only ends the turn may be
            among them.
        prompt_tokens: The conversation's tokens, as the server counts them; 0 where it does not say.
        completion_tokens: The reply's, likewise.
        backend: What the server says it is (``system_fingerprint``); may be empty.
    """

    content: str
    truncated: bool = False
    filtered: bool = False
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    reasoning: str = ""
    token_ids: tuple[int, ...] | None = None
    logps: tuple[float, ...] | None = None
    spelled: tuple[bytes, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    backend: str = ""

    def logps_of(self, content: str, token_ids: Sequence[int] | None) -> tuple[float, ...] | None:
        """The log-probabilities, if they are those of the message that is kept; None otherwise.

        Args:
            content: The text that is kept.
            token_ids: The ids that are kept. Without them the tokens that have log-probabilities must spell
                the text; the last one may be an end-of-turn token, which the text does not show.
        """
        if self.logps is None or self.tool_calls:
            return None
        if token_ids is not None:
            return self.logps if len(self.logps) == len(token_ids) else None
        spells = content.encode() in (b"".join(self.spelled), b"".join(self.spelled[:-1]))
        return self.logps if spells else None


def encode_request(messages: Sequence[Message], fields: Mapping[str, Json]) -> bytes:
    """The body of a request.

    Args:
        messages: The conversation.
        fields: Everything else.

    Returns:
        JSON in UTF-8. Half surrogate pairs, which servers refuse, become question marks.
    """
    body = {**fields, "messages": [_wire_message(message) for message in messages]}
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def parse_completion(body: bytes) -> Completion:
    """Read a reply.

    Raises:
        GarbageError: It is not a chat completion, or one that the server gave up.
    """
    answer = read_json(body)
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        said = "" if answer.get("error") is None else f": {server_message(body)}"
        raise GarbageError(f"the answer has no 'choices'{said}")
    choice = _object(choices[0], "choices[0]")
    message = _object(choice.get("message"), "choices[0].message")
    reason = choice.get("finish_reason")
    if reason is not None and not isinstance(reason, str):
        raise GarbageError(f"the reply's finish_reason is {_kind(reason)}, not text")
    if reason in _FAILED:
        raise GarbageError(f"the server gave the reply up (finish_reason {reason!r})")
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    backend = answer.get("system_fingerprint")
    return Completion(
        content=_content(message.get("content"), ended=isinstance(reason, str)),
        truncated=reason == "length",
        filtered=reason == "content_filter",
        tool_calls=_tool_calls(message.get("tool_calls")),
        reasoning=_text(message.get("reasoning_content")) or _text(message.get("reasoning")),
        token_ids=_token_ids(choice),
        logps=_logps(choice),
        spelled=tuple(_spelled(entry) for entry in _entries(choice)),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        backend=printable(backend, 80) if isinstance(backend, str) else "",
    )


def read_json(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        GarbageError: It is something else.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        shown = printable(body[:80].decode("utf-8", "replace"), 80)
        raise GarbageError(f"the answer is not JSON; it begins {shown!r}") from None
    return _object(answer, "the answer")


def server_message(body: bytes) -> str:
    """What a server says about an error, shortened, on one line, without control characters."""
    return printable(_said(body), _MESSAGE_LENGTH)


def is_overflow(status: int, body: bytes) -> bool:
    """Whether a refusal means that the conversation does not fit the model's context."""
    return status in _OVERFLOW_STATUSES and _OVERFLOW.search(_said(body)) is not None


def printable(text: str, length: int) -> str:
    """Untrusted text for a message: one line, nothing that moves a cursor, at most so many characters."""
    line = " ".join(text[: 4 * length].split())
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in line)
    return shown if len(shown) <= length else f"{shown[: length - 3]}..."


def _said(body: bytes) -> str:
    """The message of an error body in whichever form it comes; the body itself where there is none."""
    text = body.decode("utf-8", "replace")
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for key in ("error", "detail", "message"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
            if isinstance(found, list) and all(isinstance(entry, dict) for entry in found):
                # FastAPI's: beside what is wrong stands the input itself, which is no message of the server.
                found = [{name: entry[name] for name in ("loc", "msg") if name in entry} for entry in found]
            if isinstance(found, dict) and isinstance(found.get("message"), str):
                # llama.cpp and hosted servers say in `code` or `type` what kind of error it is.
                kinds = [str(found[kind]) for kind in ("type", "code") if isinstance(found.get(kind), str)]
                return f"{found['message']} ({', '.join(kinds)})" if kinds else str(found["message"])
            break
    return found if isinstance(found, str) else json.dumps(found)


def _wire_message(message: Message) -> dict[str, Any]:
    """A message as servers take it: the arguments of its tool calls are text there."""
    record = message.to_chat()
    if message.tool_calls:
        record["tool_calls"] = [_wire_call(call) for call in message.tool_calls]
    return record


def _wire_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or isinstance(function.get("arguments"), str):
        return dict(call)
    arguments = json.dumps(function.get("arguments"), ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise GarbageError(f"{what} is {_kind(value)}, not a JSON object")
    return value


def _content(value: object, *, ended: bool) -> str:
    """The text of a reply.

    Args:
        value: As the server sent it: text, a list of parts, or null for nothing.
        ended: Whether the server says how the reply ended; only then null is an empty reply.
    """
    if value is None and ended:
        return ""
    if isinstance(value, list):
        parts = [part.get("text") for part in value if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(_text(part) for part in parts)
    if not isinstance(value, str):
        raise GarbageError(f"the reply's content is {_kind(value)}, not text")
    return _text(value)


def _text(value: object) -> str:
    """Text without half surrogate pairs, which no file takes; empty for anything else."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _tool_calls(value: object) -> tuple[Mapping[str, Any], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise GarbageError(f"the reply's tool_calls are {_kind(value)}, not a list")
    return tuple(_tool_call(_object(call, "a tool call")) for call in value)


def _tool_call(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call as chat templates expect it: they write the arguments themselves."""
    function = _object(call.get("function"), "a tool call's function")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str):
        raise GarbageError(f"a tool call's name is {_kind(name)}, not text")
    try:
        parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        parsed = None
    kept = parsed if isinstance(parsed, dict) else _text(arguments)
    identified = {"id": _text(call["id"])} if isinstance(call.get("id"), str) else {}
    return {**identified, "type": "function", "function": {"name": _text(name), "arguments": kept}}


def _token_ids(choice: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The reply's ids: ``token_ids`` (vLLM, SGLang), or those beside the log-probabilities (llama.cpp)."""
    ids = choice.get("token_ids")
    if ids is None:
        ids = [entry.get("id") for entry in _entries(choice)] or None
    if not isinstance(ids, list) or not all(type(i) is int and i >= 0 for i in ids):
        return None
    return tuple(ids)


def _entries(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What stands beside each token of the reply; empty where something else stands there."""
    logprobs = choice.get("logprobs")
    entries = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return []
    return entries


def _logps(choice: Mapping[str, Any]) -> tuple[float, ...] | None:
    entries = _entries(choice)
    logps = [
        min(float(n), 0.0) for n in (e.get("logprob") for e in entries) if is_finite(n) and n < _ROUNDING
    ]
    return tuple(logps) if logps and len(logps) == len(entries) else None


def _spelled(entry: Mapping[str, Any]) -> bytes:
    """A token's text. Servers spell a piece of a letter as bytes, if at all."""
    spelled = entry.get("bytes")
    if isinstance(spelled, list) and all(type(byte) is int and 0 <= byte < 256 for byte in spelled):
        return bytes(spelled)
    return _text(entry.get("token")).encode()


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value < 2**53 else 0


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
