"""The server agent against a server that answers, and one that fails in every way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
import urllib.parse
from typing import TYPE_CHECKING, Any

import pytest
from fake_server import Handler, completion, fake_server, json_answer

from multiturn.agents import server_client
from multiturn.agents.base import Agent, Reply, Request
from multiturn.agents.server import ServerAgent
from multiturn.agents.server_client import ServerClient
from multiturn.errors import AgentFaultError, ConfigError
from multiturn.trajectory import Message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fake_server import FakeServer

KEY = "sk-not/a-real:key"


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as running:
        yield running


class Pauses:
    """Waits for nothing, and remembers how long it should have."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)


@contextlib.contextmanager
def agent_for(url: str, *, pauses: Pauses | None = None, **settings: Any) -> Iterator[ServerAgent]:
    chosen = {"capacity": 3, "max_new_tokens": 16, "retries": 3, "timeout": 20.0, **settings}
    agent = ServerAgent(url, chosen.pop("model", "toy"), sleep=pauses or Pauses(), **chosen)
    with contextlib.closing(agent):
        yield agent


def request(slot: int = 0, *, text: str = "A ladder.", seed: int = 0) -> Request:
    return Request(slot=slot, messages=(Message(role="user", content=text),), seed=seed)


def drain(agent: ServerAgent, count: int = 1) -> list[Reply]:
    replies: list[Reply] = []
    deadline = time.monotonic() + 20
    while len(replies) < count:
        assert time.monotonic() < deadline, "no reply"
        replies += agent.poll()
    return replies


def ask(agent: ServerAgent) -> Reply:
    agent.submit(request())
    (reply,) = drain(agent)
    return reply


def test_a_request_and_its_answer(server: FakeServer) -> None:
    with agent_for(server.url, temperature=0.7, top_p=0.9, fields={"top_k": 5}) as agent:
        assert isinstance(agent, Agent)
        system = Message(role="system", content="Climb \ud800.")
        user = Message(role="user", content="A ladder.", token_ids=(1,))
        agent.submit(Request(slot=2, messages=(system, user), seed=2**40 + 7))
        assert drain(agent) == [Reply(slot=2, message=Message(role="assistant", content="up"))]
    (sent,) = server.posts
    assert sent == {
        "model": "toy",
        "messages": [{"role": "system", "content": "Climb ?."}, {"role": "user", "content": "A ladder."}],
        "max_tokens": 16,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "seed": 7,
        "stream": False,
    }
    assert "authorization" not in server.headers[0]
    usage = agent.usage
    assert (usage.replies, usage.prompt_tokens, usage.completion_tokens) == (1, 10, 3)
    assert (usage.retries, usage.given_up) == (0, 0)


def test_fields_of_ours_can_be_taken_out(server: FakeServer) -> None:
    fields = {"max_tokens": None, "max_completion_tokens": 9, "seed": None}
    with agent_for(server.url, fields=fields) as agent:
        ask(agent)
    assert "seed" not in server.posts[0]
    assert "max_tokens" not in server.posts[0]
    assert server.posts[0]["max_completion_tokens"] == 9


def test_capacity_requests_at_once(server: FakeServer) -> None:
    """Each is answered only when all three are there, last one first."""
    together = threading.Barrier(3)

    def wait_for_the_others(handler: Handler, body: dict[str, Any]) -> None:
        together.wait(10)
        json_answer(completion(body["messages"][0]["content"].upper()))(handler, body)

    server.otherwise = wait_for_the_others
    with agent_for(server.url) as agent:
        for slot in range(3):
            agent.submit(request(slot, text=f"rung {slot}"))
        replies = drain(agent, 3)
    said = {reply.slot: reply.message.content for reply in replies if reply.message}
    assert said == {0: "RUNG 0", 1: "RUNG 1", 2: "RUNG 2"}


def hang(handler: Handler, body: dict[str, Any]) -> None:
    handler.server.stopping.wait(10)


def test_the_contract_of_slots(server: FakeServer) -> None:
    server.otherwise = hang
    with agent_for(server.url) as agent:
        with pytest.raises(RuntimeError, match="no request"):
            agent.poll()
        started = time.monotonic()
        agent.submit(request(0))
        assert agent.poll() == []
        assert time.monotonic() - started < 5  # neither waits for the server
        for slot in (0, 3, -1):
            with pytest.raises(ValueError, match="slot"):
                agent.submit(request(slot))
    agent.close()
    with pytest.raises(RuntimeError):
        agent.submit(request(0))
    assert not [thread for thread in threading.enumerate() if thread.name == "multiturn-server"]


def test_a_released_request_is_cancelled(server: FakeServer) -> None:
    """The server sees its connection close, and may stop writing the reply."""
    gone = threading.Event()

    def wait_for_the_end(handler: Handler, body: dict[str, Any]) -> None:
        handler.connection.settimeout(10)
        if handler.connection.recv(1) == b"":
            gone.set()

    server.behaviours = [wait_for_the_end]
    with agent_for(server.url) as agent:
        agent.submit(request())
        while not server.posts:
            agent.poll()
        agent.release(0)
        assert gone.wait(10)
        agent.release(0)
        assert ask(agent).message == Message(role="assistant", content="up")


def raw(*parts: bytes) -> Any:
    """A behaviour: send these bytes and close the connection."""

    def send(handler: Handler, body: dict[str, Any]) -> None:
        for part in parts:
            handler.wfile.write(part)
        handler.close_connection = True

    return send


def plain(body: bytes) -> Any:
    return lambda handler, _: handler.answer(200, body)


def endless(handler: Handler, body: dict[str, Any]) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not handler.server.stopping.is_set():
        handler.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


def trickle(handler: Handler, body: dict[str, Any]) -> None:
    """Each byte comes in time; the whole never does."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not handler.server.stopping.wait(0.02):
        handler.wfile.write(b" ")


@pytest.mark.parametrize(
    "fault",
    [
        json_answer({"error": {"message": "busy"}}, 500),
        json_answer({"detail": "warming up"}, 503),
        json_answer({}, 408),
        json_answer({}, 409),
        json_answer({}, 429),
        raw(),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b'{"choices": ['),
        raw(b"\x00\xff not HTTP\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n", b"abc"),
        hang,
        trickle,
        endless,
        plain(b"<html>"),
        plain(b"\xff\xfe{}"),
        plain(b"[" * 100_000),
        plain(b'{"choices": ' + b"9" * 5000 + b"}"),
        json_answer([completion()]),
        json_answer({"choices": []}),
        json_answer({"choices": [None]}),
        json_answer({"choices": [{"message": "up"}]}),
        json_answer({"error": {"message": "upstream"}}),
        json_answer(completion(content=7)),
        json_answer(completion(content=None, reason=None)),
        json_answer(completion(reason="abort")),
        json_answer(completion(reason={"type": "abort"})),
        json_answer(completion(tool_calls=[{"function": {"name": 3}}])),
    ],
)
def test_what_may_pass_is_tried_again(
    server: FakeServer, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_client, "_LARGEST_ANSWER", 2**20)
    server.behaviours = [fault]
    pauses = Pauses()
    slow = fault in (hang, trickle)
    with agent_for(server.url, pauses=pauses, timeout=0.5 if slow else 20.0) as agent:
        assert ask(agent).message == Message(role="assistant", content="up")
    assert agent.usage.retries == 1
    assert len(server.posts) == 2
    assert server.posts[0] == server.posts[1]
    assert len(pauses.asked) == 1


def test_pauses_grow_and_the_server_s_wish_counts(server: FakeServer) -> None:
    """Half to all of 0.5, 1 and 2 seconds; a wish for 7 is granted, one for a day is not."""
    busy = json_answer({}, 503)
    server.behaviours = [busy, busy, busy]
    pauses = Pauses()
    with agent_for(server.url, pauses=pauses) as agent:
        assert ask(agent).message is not None
        for pause, longest in zip(pauses.asked, (0.5, 1.0, 2.0), strict=True):
            assert longest / 2 <= pause <= longest
        pauses.asked.clear()
        server.behaviours = [
            json_answer({}, 429, Retry_After="7"),
            json_answer({}, 429, Retry_After="86400"),
            json_answer({}, 429, Retry_After="soon"),
        ]
        assert ask(agent).message is not None
        assert pauses.asked[:2] == [7.0, 300.0]
        assert 1.0 <= pauses.asked[2] <= 2.0


def test_a_wish_that_is_a_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)  # 22:13:20
    assert server_client._wished_pause("Tue, 14 Nov 2023 22:14:00 GMT") == 40.0
    assert server_client._wished_pause("Tue, 14 Nov 2023 22:00:00 GMT") == 0.0
    assert server_client._wished_pause("-3") == server_client._wished_pause("nan") == 0.0


def test_giving_up(server: FakeServer) -> None:
    server.otherwise = json_answer({"error": {"message": "out of \x1b[31mmemory\n\n" + "x" * 1000}}, 500)
    with agent_for(server.url, retries=2) as agent:
        reply = ask(agent)
        assert agent.usage.given_up == 1
    assert reply.message is None
    assert reply.fault is not None
    assert f"{server.url}/chat/completions was asked 3 times in vain" in reply.fault
    assert "status 500: out of \ufffd[31mmemory xxx" in reply.fault
    assert len(reply.fault) < 600
    assert len(server.posts) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_ends_it_at_once(server: FakeServer, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KEY", KEY)
    message = "x" * 290 + f" the key {KEY} will \x1b[2Jnot do"
    server.otherwise = json_answer({"error": {"message": message}}, status)
    with agent_for(server.url, api_key_env="TOY_KEY") as agent:
        agent.submit(request())
        with pytest.raises(AgentFaultError) as caught:
            drain(agent)
    said = str(caught.value)
    assert (caught.value.status, caught.value.exit_code) == (status, 8)
    assert f"{server.url}/chat/completions answered with status {status}: xxx" in said
    assert len(server.posts) == 1
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    # Not even its beginning, where the message is cut.
    assert KEY[:4] not in said
    assert said.isprintable()


def test_the_key_is_in_no_message_about_garbage(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KEY", KEY)
    server.otherwise = plain(b"?" * 74 + KEY.encode())
    with agent_for(server.url, api_key_env="TOY_KEY", retries=0) as agent:
        fault = ask(agent).fault
    assert fault is not None
    assert "???***" in fault
    assert KEY[:4] not in fault


def test_a_key_in_any_spelling(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some gateways escape slashes; a redirect may carry the key as it came or as addresses spell it."""
    monkeypatch.setenv("TOY_KEY", KEY)
    escaped = KEY.replace("/", "\\/").replace("k", "\\u006b")
    quoted = urllib.parse.quote(KEY, safe="")
    for answer in (
        plain(f'{{"error": "bad key {escaped}"}}'.encode()),
        json_answer({}, 307, Location=f"https://login?key={KEY}"),
        json_answer({}, 307, Location=f"https://login?key={quoted}"),
    ):
        server.behaviours = [answer]
        with agent_for(server.url, api_key_env="TOY_KEY", retries=0) as agent:
            try:
                said = str(ask(agent).fault)
            except AgentFaultError as error:
                said = str(error)
        assert "***" in said
        assert "real" not in said


def test_a_reply_that_was_filtered_is_nobodys(server: FakeServer) -> None:
    server.behaviours = [json_answer(completion("I ca", "content_filter"))]
    with agent_for(server.url) as agent:
        reply = ask(agent)
        assert (reply.message, reply.fault) == (None, "the server's content filter cut the reply off")
        assert (agent.usage.given_up, agent.usage.replies, agent.usage.retries) == (1, 0, 0)


def test_pages_beside_the_api_may_be_missing_in_any_way(server: FakeServer) -> None:
    for status in (500, 501, 404):
        server.page_status = status
        server.pages.clear()
        with agent_for(server.url) as agent:
            assert ask(agent).message is not None


def test_a_proxy_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "ftp://user:secret@somewhere")
    with (
        pytest.raises(ConfigError, match="a proxy that the environment names") as caught,
        agent_for("https://example.org/v1"),
    ):
        pass
    assert "secret" not in str(caught.value)


def test_redirects_are_not_followed(server: FakeServer) -> None:
    with fake_server() as other, agent_for(server.url) as agent:
        server.behaviours = [json_answer({}, 307, Location=f"{other.url}/chat/completions")]
        agent.submit(request())
        with pytest.raises(AgentFaultError, match=r"a redirect to 'http://127.0.0.1.*which is not followed"):
            drain(agent)
        assert other.posts == []


def test_a_conversation_that_does_not_fit(server: FakeServer) -> None:
    said = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens."
    server.behaviours = [json_answer({"object": "error", "message": said, "code": 400}, 400)]
    with agent_for(server.url) as agent:
        assert ask(agent) == Reply(slot=0, message=None)
        assert agent.usage.overflows == 1


def test_reasoning_is_dropped_and_counted_or_kept(server: FakeServer) -> None:
    server.otherwise = json_answer(completion("\n\nAction: up", reasoning_content="\nUp is good.\n"))
    with agent_for(server.url) as agent:
        assert ask(agent).message == Message(role="assistant", content="\n\nAction: up")
        assert agent.usage.reasoning_dropped == 1
    with agent_for(server.url, reasoning="think") as agent:
        kept = Message(role="assistant", content="<think>\nUp is good.\n</think>\n\nAction: up")
        assert ask(agent).message == kept
        assert agent.usage.reasoning_dropped == 0


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(AgentFaultError, match=r"asked 3 times in vain.*start the server"), agent_for(url):
            pass
    assert not [thread for thread in threading.enumerate() if thread.name == "multiturn-server"]


def test_the_fingerprint_is_the_model_s_and_the_settings_not_the_address(server: FakeServer) -> None:
    def fingerprint(url: str, **settings: Any) -> str:
        with agent_for(url, **settings) as agent:
            return agent.fingerprint

    first = fingerprint(server.url)
    with fake_server() as elsewhere:
        assert fingerprint(elsewhere.url, capacity=9, timeout=1.0, retries=0) == first
        settings = ({"temperature": 0.5}, {"max_new_tokens": 7}, {"fields": {"top_k": 3}}, {"top_p": 0.5})
        more = ({"reasoning": "think"}, {"model": "other"})
        found = [fingerprint(elsewhere.url, **changed) for changed in (*settings, *more)]
        elsewhere.pages["/version"] = {"version": "0.11.0"}
        found.append(fingerprint(elsewhere.url))
        elsewhere.pages["/v1/models"] = {"data": [{"id": "toy", "root": "/weights/newer"}]}
        found.append(fingerprint(elsewhere.url))
    assert len({first, *found}) == len(found) + 1


def test_the_only_model_needs_no_name(server: FakeServer) -> None:
    with agent_for(server.url, model=None) as agent:
        ask(agent)
    assert server.posts[0]["model"] == "toy"
    server.pages["/v1/models"] = {"data": [{"id": "a"}, {"id": "b\x1b"}, {"id": 3}, None]}
    with pytest.raises(ConfigError, match="lists 2 models"), agent_for(server.url, model=None):
        pass


def test_a_server_without_a_list_of_models(server: FakeServer) -> None:
    server.pages.clear()
    with agent_for(server.url) as agent:
        assert ask(agent).message is not None


def test_keys_come_from_variables_that_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOY_KEY", raising=False)
    with (
        pytest.raises(ConfigError, match="TOY_KEY"),
        agent_for("http://127.0.0.1:1/v1", api_key_env="TOY_KEY"),
    ):
        pass
    with pytest.raises(ConfigError) as caught, agent_for("http://127.0.0.1:1/v1", api_key_env=KEY):
        pass
    assert KEY not in str(caught.value)
    token = "hf_" + "Abc" * 11
    with pytest.raises(ConfigError) as caught, agent_for("http://127.0.0.1:1/v1", api_key_env=token):
        pass
    assert token not in str(caught.value)
    monkeypatch.setenv("TOY_KEY", "two\nlines")
    with (
        pytest.raises(ConfigError, match="characters"),
        agent_for("http://127.0.0.1:1", api_key_env="TOY_KEY"),
    ):
        pass


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://models.example/v1", True),
        ("https://models.example/v1", False),
        ("http://localhost:8000/v1", False),
        ("http://[::1]:8000/v1", False),
    ],
)
def test_a_key_that_travels_unencrypted(url: str, *, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def nothing(seconds: float) -> None: ...

    client = ServerClient(url, key=KEY, connections=1, timeout=1.0, retries=0, sleep=nothing)
    asyncio.run(client.close())
    assert ("unencrypted" in caplog.text) is warned
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    "settings",
    [
        {"capacity": 0},
        {"max_new_tokens": 0},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"timeout": 0.0},
        {"retries": -1},
        {"reasoning": "show"},
        {"fields": {"stream": True}},
        {"fields": {"x": {1, 2}}},
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError), agent_for("http://127.0.0.1:1/v1", **settings):
        pass
