"""An agent that is a server elsewhere: vLLM, SGLang, llama.cpp, ``transformers serve``, a hosted one.

Anything will do that speaks OpenAI's chat completions. The server keeps no conversation for us: every request
holds the whole of it, and a server with a prefix cache recomputes nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import math
import os
import re
import threading
from typing import TYPE_CHECKING, Any, Final, Literal

from multiturn.agents.background import BackgroundLoop
from multiturn.agents.base import Reply, Request
from multiturn.agents.completions import Completion, encode_request, is_overflow, parse_completion
from multiturn.agents.server_client import ExhaustedError, RefusedError, ServerClient, base_address
from multiturn.agents.server_identity import identify
from multiturn.errors import AgentFaultError, ConfigError
from multiturn.trajectory import Message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from concurrent.futures import Future

    from multiturn.agents.reply_ids import ReplyIds
    from multiturn.trajectory import Json

__all__ = ["Reasoning", "ServerAgent", "ServerUsage"]

Reasoning = Literal["drop", "think"]

_NAP_SECONDS: Final = 0.02
"""So long `ServerAgent.poll` waits for a reply: environments may have something to say meanwhile."""
_SEEDS: Final = 2**31
"""llama.cpp takes seeds of 32 bits only."""
_OURS: Final = ("messages", "model", "n", "stream")
"""More than one reply, or one in pieces, is not read."""
_NEXT: Final = {
    400: "the message says what it does not accept; a field is left out with `--server-option FIELD=null`",
    401: "name the environment variable that holds a valid API key",
    403: "name the environment variable that holds a valid API key",
    404: "check the model's name, and the address: for most servers it ends in /v1",
    422: "the message says what it does not accept; a field is left out with `--server-option FIELD=null`",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServerUsage:
    """What an agent has asked of its server.

    Attributes:
        requests: Requests sent, repeated ones included.
        retries: Those that were repetitions.
        replies: Usable answers.
        overflows: Conversations that did not fit the model's context.
        given_up: Requests that were given up: all repetitions failed, or a filter cut the reply off.
        prompt_tokens: Tokens of all conversations, as the server counts them.
        completion_tokens: Tokens of all replies, likewise.
        reasoning_dropped: Replies whose reasoning was left out.
        ids_kept: Replies with the ids that the model produced.
        ids_refused: Replies whose ids were missing or did not fit the text.
        logps_kept: Replies with the log-probabilities of their tokens.
        backends: How many different ``system_fingerprint`` the server gave: above 1 it changed meanwhile.
    """

    requests: int
    retries: int
    replies: int
    overflows: int
    given_up: int
    prompt_tokens: int
    completion_tokens: int
    reasoning_dropped: int
    ids_kept: int
    ids_refused: int
    logps_kept: int
    backends: int

    def to_json(self) -> dict[str, int]:
        """The numbers by name."""
        return dataclasses.asdict(self)


class ServerAgent:
    """An OpenAI-compatible server as an agent.

    A request that fails in a way that may pass (no connection, no answer in time, status 408, 409, 425, 429
    or from 500 on, an answer that is no completion) is repeated with growing pauses. One that fails every
    time becomes a `Reply` with a fault, and its episode is not kept. A refusal (400, 401, 404, ...) raises at
    once, unless it says that the conversation does not fit: that is a `Reply` without a message, as for a
    local model.

    The chat template is the server's. Requests run in a thread of the agent's own; its methods are to be
    called from one thread.

    Args:
        base_url: For example ``http://127.0.0.1:8000/v1``.
        model: The model's name as the server knows it; None takes the one that the server lists.
        capacity: Requests at once.
        max_new_tokens: Tokens of a reply at most.
        temperature: 0 is greedy.
        top_p: Nucleus sampling, in (0, 1].
        timeout: Seconds for one attempt, the server's own queue included.
        retries: How often a request is repeated at most.
        api_key_env: The environment variable that holds the API key; None sends none.
        reasoning: What becomes of reasoning that the server cut out of a reply: ``drop`` leaves it out,
            ``think`` writes it before the text between ``<think>`` and ``</think>``.
        ids: Checks the token ids of replies, which are then asked for (``return_token_ids``); None asks for
            none.
        fields: Further fields of every request, such as ``top_k``; null takes one of ours out.
        sleep: Waits between attempts; for tests.

    Raises:
        ConfigError: A setting makes no sense, the variable is not set, or the server lists several models and
            none is named.
        AgentFaultError: The server cannot be asked for its models.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        capacity: int,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        timeout: float = 600.0,
        retries: int = 8,
        api_key_env: str | None = None,
        reasoning: Reasoning = "drop",
        ids: ReplyIds | None = None,
        fields: Mapping[str, Json] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        _check(
            capacity=capacity,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            timeout=timeout,
            retries=retries,
        )
        _check_kept(reasoning, fields or {})
        self.capacity = capacity
        self._url = base_address(base_url)
        self._reasoning = reasoning
        self._ids = ids
        self._counts = dict.fromkeys((field.name for field in dataclasses.fields(ServerUsage)), 0)
        self._backends: set[str] = set()
        self._open: dict[int, Future[Completion | None]] = {}
        self._ready = threading.Event()
        self._client = ServerClient(
            self._url,
            key=_key(api_key_env),
            connections=capacity,
            timeout=timeout,
            retries=retries,
            sleep=sleep,
        )
        self._background = BackgroundLoop("multiturn-server", self._client.close)
        try:
            identity = self._background.start(identify(self._client, self._url, model)).result()
        except BaseException as error:
            self.close()
            if isinstance(error, RefusedError | ExhaustedError):
                raise _fault(error) from None
            raise
        sampling: dict[str, Json] = {"max_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        settings = {**sampling, **(fields or {})}
        self._fields: dict[str, Json] = {"model": identity.model, **settings, "stream": False}
        if ids is not None:
            self._fields.setdefault("return_token_ids", True)
        facts = {"server": identity.to_json(), "settings": settings, "reasoning": reasoning}
        self.fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def usage(self) -> ServerUsage:
        """What was asked of the server so far."""
        counted = {"requests": self._client.requests, "retries": self._client.retried}
        return ServerUsage(**{**self._counts, **counted, "backends": len(self._backends)})

    def submit(self, request: Request) -> None:
        """Send a request; returns at once.

        Raises:
            ValueError: There is no such slot, or it has a request open.
            RuntimeError: The agent is closed.
        """
        if not 0 <= request.slot < self.capacity or request.slot in self._open:
            raise ValueError(f"slot {request.slot} does not exist or has a request open")
        fields = {"seed": request.seed % _SEEDS, **self._fields}
        given = {name: value for name, value in fields.items() if value is not None}
        future = self._background.start(self._answer(encode_request(request.messages, given)))
        self._open[request.slot] = future
        future.add_done_callback(lambda _: self._ready.set())

    def poll(self) -> list[Reply]:
        """The replies that are there; waits a fiftieth of a second where none is.

        Raises:
            AgentFaultError: The server refuses a request, and would refuse it again.
            RuntimeError: Nothing was submitted.
        """
        if not self._open:
            raise RuntimeError("no request is open; submit one before polling")
        self._ready.clear()
        done = self._done()
        if not done and self._ready.wait(_NAP_SECONDS):
            done = self._done()
        return [self._reply(slot, self._open.pop(slot)) for slot in done]

    def release(self, slot: int) -> None:
        """Forget a conversation; an open request is cancelled, and its connection closed."""
        future = self._open.pop(slot, None)
        if future is not None:
            future.cancel()

    def close(self) -> None:
        """Cancel all requests and end the thread."""
        self._background.close()
        self._open.clear()

    def _done(self) -> list[int]:
        return [slot for slot, future in self._open.items() if future.done()]

    async def _answer(self, body: bytes) -> Completion | None:
        try:
            return await self._client.ask(f"{self._url}/chat/completions", parse_completion, body=body)
        except RefusedError as refusal:
            if is_overflow(refusal.status, refusal.body):
                return None
            raise

    def _reply(self, slot: int, future: Future[Completion | None]) -> Reply:
        try:
            completion = future.result()
        except ExhaustedError as error:
            self._counts["given_up"] += 1
            return Reply(slot=slot, message=None, fault=str(error))
        except RefusedError as error:
            raise _fault(error) from None
        if completion is None:
            self._counts["overflows"] += 1
            return Reply(slot=slot, message=None)
        if completion.filtered:
            self._counts["given_up"] += 1
            return Reply(slot=slot, message=None, fault="the server's content filter cut the reply off")
        self._counts["replies"] += 1
        self._counts["prompt_tokens"] += completion.prompt_tokens
        self._counts["completion_tokens"] += completion.completion_tokens
        if completion.backend:
            self._backends.add(completion.backend)
        content = self._content(completion)
        token_ids = self._token_ids(completion, content)
        logps = completion.logps_of(content, token_ids)
        self._counts["logps_kept"] += logps is not None
        message = Message(
            role="assistant",
            content=content,
            tool_calls=completion.tool_calls,
            token_ids=token_ids,
            token_logps=logps,
        )
        return Reply(slot=slot, message=message, truncated=completion.truncated)

    def _content(self, completion: Completion) -> str:
        if not completion.reasoning:
            return completion.content
        if self._reasoning == "think":
            thought, content = completion.reasoning.strip("\n"), completion.content.lstrip("\n")
            return f"<think>\n{thought}\n</think>\n\n{content}"
        self._counts["reasoning_dropped"] += 1
        return completion.content

    def _token_ids(self, completion: Completion, content: str) -> tuple[int, ...] | None:
        """The reply's ids where they were asked for and are those of the message that is kept."""
        if self._ids is None:
            return None
        kept = None
        if completion.token_ids is not None and not completion.tool_calls:
            kept = self._ids.accept(completion.token_ids, content, truncated=completion.truncated)
        self._counts["ids_refused" if kept is None else "ids_kept"] += 1
        return kept


def _fault(error: RefusedError | ExhaustedError) -> AgentFaultError:
    remedy = "start the server, or correct its address"
    if isinstance(error, RefusedError):
        remedy = _NEXT.get(error.status, "check the server's address and its log")
    return AgentFaultError(f"{error}; {remedy}", url=error.url, status=error.status)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        # A name, as far as one can tell: somebody may have given the key itself.
        shown = variable if re.fullmatch(r"[A-Z_][A-Z0-9_]{0,39}", variable) else "that was named"
        raise ConfigError(f"the environment variable {shown} for the API key is not set; export it")
    return key


def _check(
    *,
    capacity: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    timeout: float,
    retries: int,
) -> None:
    problems: Sequence[tuple[bool, str]] = (
        (capacity < 1, f"capacity is {capacity}; it must be at least 1"),
        (max_new_tokens < 1, f"max_new_tokens is {max_new_tokens}; it must be at least 1"),
        (
            not 0.0 <= temperature < math.inf,
            f"temperature is {temperature}; it must be 0 (greedy) or a positive number",
        ),
        (not 0.0 < top_p <= 1.0, f"top_p is {top_p}; it must be in (0, 1]"),
        (not 0.0 < timeout < math.inf, f"timeout is {timeout}; it must be a positive number of seconds"),
        (retries < 0, f"retries is {retries}; it must not be negative"),
    )
    for wrong, message in problems:
        if wrong:
            raise ConfigError(message)


def _check_kept(reasoning: str, fields: Mapping[str, Any]) -> None:
    if reasoning not in ("drop", "think"):
        raise ConfigError(f"reasoning is {reasoning!r}; use drop or think")
    try:
        json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the further fields of requests are not JSON ({error}); quote the value") from None
    for name in _OURS:
        if name in fields:
            raise ConfigError(f"the field {name!r} of a request is the agent's own; leave it out")
