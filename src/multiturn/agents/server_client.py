"""Asking a server over HTTP: again when it is busy or away, never twice where asking again is of no use."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import email.utils
import ipaddress
import json
import logging
import random
import ssl
import time
import urllib.parse
from typing import TYPE_CHECKING, Final, TypeVar

import httpx2

from multiturn.agents.completions import GarbageError, printable, server_message
from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["ExhaustedError", "RefusedError", "ServerClient", "base_address"]

_LOG = logging.getLogger(__name__)

_LARGEST_ANSWER: Final = 16 * 2**20
"""Bytes. The longest replies, with ids and log-probabilities, are some megabytes."""
_RETRYABLE: Final = frozenset({408, 409, 425, 429})
"""And everything from 500 on."""
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 60.0
_LONGEST_WISH: Final = 300.0
"""Seconds. A server that asks for a longer pause than this is asked again after it."""
_CONNECT_SECONDS: Final = 30.0

T = TypeVar("T")


class RefusedError(Exception):
    """The server refuses the request, and will refuse it again. The message is fit to be shown.

    Args:
        message: What was asked, and what it said.
        url: What was asked.
        status: The HTTP status.
        body: The answer as it came.
    """

    def __init__(self, message: str, *, url: str, status: int, body: bytes) -> None:
        self.url = url
        self.status = status
        self.body = body
        super().__init__(message)


class ExhaustedError(Exception):
    """The server was asked as often as allowed. The message is fit to be shown.

    Args:
        message: What was asked, how often, and what happened the last time.
        url: What was asked.
        status: The last answer's HTTP status; None where there was none.
    """

    def __init__(self, message: str, *, url: str, status: int | None) -> None:
        self.url = url
        self.status = status
        super().__init__(message)


class _FaultError(Exception):
    """One attempt failed in a way that may pass.

    Args:
        message: What happened.
        status: The answer's HTTP status; None where there was no answer.
        pause: Seconds that the server wants to be left alone for.
    """

    def __init__(self, message: str, *, status: int | None = None, pause: float = 0.0) -> None:
        self.status = status
        self.pause = pause
        super().__init__(message)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """An HTTP answer, read to its end.

    Attributes:
        status: The HTTP status.
        headers: Its headers.
        body: What came.
    """

    status: int
    headers: httpx2.Headers
    body: bytes


class ServerClient:
    """Asks one server; to be used within one event loop.

    Redirects are not followed: a conversation, and the key that comes with it, goes to the address that was
    given and nowhere else. Proxies from the environment are used for servers on other machines.

    Args:
        url: The server's address, as `base_address` returns it.
        key: Sent as bearer token; None for none. It stands in no message.
        connections: Requests at once.
        timeout: Seconds for one attempt, from the connection to the last byte.
        retries: How often a request is repeated at most.
        sleep: Waits so many seconds.

    Attributes:
        requests: The attempts so far.
        retried: Those of them that were repetitions.

    Raises:
        ConfigError: The key is not fit for a header, or the environment's proxy is none.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None,
        connections: int,
        timeout: float,
        retries: int,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        headers = {"accept-encoding": "identity", "accept": "application/json"}
        if key is not None:
            if not key.isascii() or not key.isprintable() or " " in key:
                raise ConfigError("the API key holds characters that no key has; check the variable")
            headers["authorization"] = f"Bearer {key}"
        self.requests = 0
        self.retried = 0
        self._key = key
        self._timeout = timeout
        self._retries = retries
        self._sleep = sleep
        self._jitter = random.Random()  # noqa: S311 - it spreads pauses, no more
        here = _is_loopback(httpx2.URL(url))
        if key is not None and url.startswith("http://") and not here:
            _LOG.warning("the API key travels unencrypted to %s; use https, or a tunnel to this machine", url)
        try:
            self._http = httpx2.AsyncClient(
                headers=headers,
                timeout=httpx2.Timeout(None, connect=min(timeout, _CONNECT_SECONDS)),
                limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
                follow_redirects=False,
                # Without encryption no certificates are needed, and reading them takes a fifth of a second.
                verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if here and url.startswith("http:") else True,
                trust_env=not here,
            )
        except (ImportError, ValueError):  # whose messages may hold the proxy's password
            raise ConfigError(
                "a proxy that the environment names (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) cannot be used; "
                "give an http address, or unset it"
            ) from None

    async def ask(
        self,
        url: str,
        read: Callable[[bytes], T],
        *,
        body: bytes | None = None,
        retries: int | None = None,
    ) -> T:
        """Ask until there is an answer.

        Args:
            url: What to ask.
            read: Reads the answer; raises `GarbageError` where it is none.
            body: JSON to be posted; without it the address is only got.
            retries: How often to repeat at most; None takes the client's own number.

        Returns:
            What `read` returned.

        Raises:
            RefusedError: The server refuses.
            ExhaustedError: All attempts failed.
        """
        allowed = self._retries if retries is None else retries
        attempt = 0
        while True:
            try:
                return await self._attempt(url, read, body)
            except _FaultError as fault:
                if attempt >= allowed:
                    times = "once" if attempt == 0 else f"{attempt + 1} times"
                    raise ExhaustedError(
                        f"{url} was asked {times} in vain; the last time {fault}",
                        url=url,
                        status=fault.status,
                    ) from None
                pause = min(_FIRST_PAUSE * 2 ** min(attempt, 16), _LONGEST_PAUSE)
                pause *= self._jitter.uniform(0.5, 1.0)
                attempt += 1
                self.retried += 1
                await self._sleep(max(pause, min(fault.pause, _LONGEST_WISH)))

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _attempt(self, url: str, read: Callable[[bytes], T], body: bytes | None) -> T:
        self.requests += 1
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._exchange(url, body)
        except TimeoutError:
            raise _FaultError(f"it gave no whole answer within {self._timeout:g} seconds") from None
        except httpx2.HTTPError as error:
            why = printable(str(error), 200)
            raise _FaultError(type(error).__name__ + (f": {why}" if why else "")) from None
        if answer.status in _RETRYABLE or answer.status >= 500:
            raise _FaultError(
                f"it answered with status {answer.status}: {server_message(self._without_key(answer.body))}",
                status=answer.status,
                pause=_wished_pause(answer.headers.get("retry-after")),
            )
        if not 200 <= answer.status < 300:
            raise self._refusal(url, answer)
        try:
            return read(answer.body)
        except GarbageError:
            why = _complaint(read, self._without_key(answer.body))
            raise _FaultError(why, status=answer.status) from None

    async def _exchange(self, url: str, body: bytes | None) -> _Answer:
        method = "GET" if body is None else "POST"
        headers = None if body is None else {"content-type": "application/json"}
        async with self._http.stream(method, url, content=body, headers=headers) as response:
            parts, size = [], 0
            async with contextlib.aclosing(response.aiter_bytes()) as stream:
                async for part in stream:
                    size += len(part)
                    if size > _LARGEST_ANSWER:
                        raise _FaultError(
                            f"its answer is longer than {_LARGEST_ANSWER // 2**20} MiB",
                            status=response.status_code,
                        )
                    parts.append(part)
            return _Answer(status=response.status_code, headers=response.headers, body=b"".join(parts))

    def _refusal(self, url: str, answer: _Answer) -> RefusedError:
        said = server_message(self._without_key(answer.body))
        if 300 <= answer.status < 400:
            location = self._without_key(answer.headers.get("location", "nowhere").encode())
            target = printable(location.decode("utf-8", "replace"), 200)
            said = f"a redirect to {target!r}, which is not followed; {said}".rstrip("; ")
        return RefusedError(
            f"{url} answered with status {answer.status}: {said or 'no message'}",
            url=url,
            status=answer.status,
            body=answer.body,
        )

    def _without_key(self, body: bytes) -> bytes:
        """An answer that is to be shown: some servers repeat the key. Done before it is shortened."""
        if not self._key:
            return body
        with contextlib.suppress(ValueError, RecursionError):
            body = json.dumps(json.loads(body)).encode()  # where every letter has one spelling
        spellings = (json.dumps(self._key)[1:-1], urllib.parse.quote(self._key, safe=""), self._key)
        for spelling in spellings:
            body = body.replace(spelling.encode(), b"***")
        return body


def base_address(url: str) -> str:
    """The address that requests are made from, such as ``http://127.0.0.1:8000/v1``.

    Args:
        url: As the user gave it; ``/v1`` is added where it has no path.

    Raises:
        ConfigError: It is no address of a server. The message does not repeat what may be a password.
    """
    try:
        parsed = httpx2.URL(url.strip())
    except (httpx2.InvalidURL, UnicodeError):
        raise ConfigError(_no_address(url)) from None
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ConfigError(
            "the server's address holds a password, a query or a fragment; leave it out, and put a key into "
            "an environment variable"
        )
    port = parsed.port
    if parsed.scheme not in ("http", "https") or not parsed.host or not (port is None or 0 < port < 2**16):
        raise ConfigError(_no_address(url))
    base = str(parsed).rstrip("/").removesuffix("/chat/completions")
    return base if parsed.path.strip("/") else f"{base}/v1"


def _no_address(url: str) -> str:
    return f"{printable(url, 100)!r} is not a server's address; one looks like http://host:8000/v1"


def _complaint(read: Callable[[bytes], object], body: bytes) -> str:
    try:
        read(body)
    except GarbageError as error:
        return str(error)
    return "the answer was none"


def _is_loopback(url: httpx2.URL) -> bool:
    if url.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return False


def _wished_pause(retry_after: str | None) -> float:
    """The seconds that a ``Retry-After`` header asks for, as a number or a date; 0 where there is none."""
    if retry_after is None:
        return 0.0
    try:
        return max(0.0, float(retry_after) if retry_after.strip().isdecimal() else _until(retry_after))
    except (ValueError, OverflowError):
        return 0.0


def _until(date: str) -> float:
    moment = email.utils.parsedate_to_datetime(date)
    return moment.timestamp() - time.time()
