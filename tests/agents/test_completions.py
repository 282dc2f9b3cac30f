"""The wire format, field by field."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from fake_server import completion
from hypothesis import given
from hypothesis import strategies as st

from multiturn.agents.completions import (
    Completion,
    GarbageError,
    encode_request,
    is_overflow,
    parse_completion,
    printable,
    server_message,
)
from multiturn.agents.server_client import base_address
from multiturn.errors import ConfigError
from multiturn.trajectory import Message

CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "go", "arguments": {"to": "kitchen"}},
}


def parsed(answer: Any) -> Completion:
    return parse_completion(json.dumps(answer).encode())


def test_everything_there_is() -> None:
    answer = completion("up", "length", reasoning_content="why", tool_calls=[])
    answer["choices"][0]["token_ids"] = [5, 6]
    answer["system_fingerprint"] = "fp\x1b1"
    assert parsed(answer) == Completion(
        content="up",
        truncated=True,
        reasoning="why",
        token_ids=(5, 6),
        prompt_tokens=10,
        completion_tokens=3,
        backend="fp\ufffd1",
    )


def test_other_ways_of_saying_it() -> None:
    parts = [{"type": "text", "text": "u"}, {"type": "image"}, "?", {"type": "text", "text": "p"}]
    assert parsed(completion(parts)).content == "up"
    assert parsed(completion(None)).content == ""
    assert parsed(completion("\ud83d!")).content == "?!"
    assert parsed(completion("up", reasoning="why")).reasoning == "why"
    answer = completion("up")
    answer["choices"][0]["logprobs"] = {"content": [{"id": 5, "logprob": -0.1}, {"id": 6, "logprob": -1.0}]}
    assert parsed(answer).token_ids == (5, 6)


def with_logps(content: str, *entries: tuple[Any, Any]) -> Completion:
    answer = completion(content)
    beside = [{"token": token, "logprob": logp} for token, logp in entries]
    answer["choices"][0]["logprobs"] = {"content": beside}
    return parsed(answer)


def test_logps_of_the_tokens_that_spell_the_text() -> None:
    whole = with_logps("go up", ("go", -0.5), (" up", 0.0001))
    assert whole.logps_of("go up", None) == (-0.5, 0.0)
    assert whole.logps_of("go", None) is not None, "the last may only end the turn"
    assert whole.logps_of("<think>\nwhy\n</think>\n\ngo up", None) is None
    assert with_logps("go", ("go", -1), ("<|im_end|>", -0.25)).logps_of("go", None) == (-1.0, -0.25)
    assert with_logps("", ("<|im_end|>", -0.25)).logps_of("", None) == (-0.25,)
    assert with_logps("up", ("why", -1), ("up", -1)).logps_of("up", None) is None
    assert with_logps("up").logps_of("up", None) is None


def test_logps_of_as_many_tokens_as_ids() -> None:
    """Pieces of a letter are spelled as nothing that can be compared; their number can."""
    pieces = with_logps("\u00e9", ("\ufffd", -1), ("\ufffd", -2))
    assert pieces.logps_of("\u00e9", None) is None
    assert pieces.logps_of("\u00e9", (5, 6)) == (-1.0, -2.0)
    assert pieces.logps_of("\u00e9", (5, 6, 2)) is None
    answer = completion("\u00e9")
    beside = [{"token": "?", "bytes": [0xC3], "logprob": -1}, {"token": "?", "bytes": [0xA9], "logprob": -2}]
    answer["choices"][0]["logprobs"] = {"content": beside}
    assert parsed(answer).logps_of("\u00e9", None) == (-1.0, -2.0)


@pytest.mark.parametrize("logp", [None, "-1", 0.5, float("inf"), float("nan"), -(10**400), [-1]])
def test_logps_that_are_none(logp: Any) -> None:
    assert with_logps("go up", ("go", -0.5), (" up", logp)).logps_of("go up", None) is None


@pytest.mark.parametrize("ids", ["5", [5, "6"], [5, -6], [True], {"0": 5}, [5.0]])
def test_ids_that_are_none(ids: Any) -> None:
    answer = completion("up")
    answer["choices"][0]["token_ids"] = ids
    assert parsed(answer).token_ids is None


@pytest.mark.parametrize(
    "usage", [None, [], {"prompt_tokens": -1}, {"prompt_tokens": "10"}, {"prompt_tokens": 1e3}]
)
def test_usage_that_is_none(usage: Any) -> None:
    assert parsed({**completion("up"), "usage": usage}).prompt_tokens == 0


def test_tool_calls_there_and_back() -> None:
    """Chat templates want the arguments as an object, servers as text."""
    wire = {**CALL, "function": {"name": "go", "arguments": '{"to": "kitchen"}'}, "index": 0}
    calls = parsed(completion(None, "tool_calls", tool_calls=[wire])).tool_calls
    assert calls == (CALL,)
    message = Message(role="assistant", content="", tool_calls=calls)
    (sent,) = json.loads(encode_request([message], {}))["messages"]
    assert sent["tool_calls"] == [{**CALL, "function": wire["function"]}]


@pytest.mark.parametrize("arguments", ["{broken", "[1]", "", None, 3])
def test_arguments_that_are_no_object_stay_text(arguments: Any) -> None:
    wire = {"function": {"name": "go", "arguments": arguments}}
    (call,) = parsed(completion(None, "tool_calls", tool_calls=[wire])).tool_calls
    kept = arguments if isinstance(arguments, str) else ""
    assert call == {"type": "function", "function": {"name": "go", "arguments": kept}}


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                (
                    "choices",
                    "message",
                    "content",
                    "tool_calls",
                    "function",
                    "name",
                    "finish_reason",
                    "type",
                    "code",
                    "error",
                    "detail",
                    "logprobs",
                    "logprob",
                    "token",
                    "bytes",
                    "token_ids",
                    "usage",
                )
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.binary() | _VALUES.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_a_completion_or_garbage(body: bytes) -> None:
    with contextlib.suppress(GarbageError):
        is_overflow(400, body)
        server_message(body)
        reply = parse_completion(body)
        reply.content.encode()
        reply.logps_of(reply.content, None)
    assert server_message(body).isprintable()
    assert len(server_message(body)) <= 300
    is_overflow(400, body)


@pytest.mark.parametrize(
    "said",
    [
        {
            "error": {
                "message": "This model's maximum context length is 4096 tokens. However, you requested 5000"
            }
        },
        {"error": {"message": "Please reduce it", "type": "invalid", "code": "context_length_exceeded"}},
        {"error": {"message": "too much", "type": "exceed_context_size_error", "code": 400}},
        {"message": "The input (9000 tokens) is longer than the model's context length (8192 tokens)."},
        {"detail": "The decoder prompt (length 5000) is longer than the maximum model length of 4096."},
        {"error": "prompt is too long: 210000 tokens > 200000 maximum"},
    ],
)
def test_conversations_that_do_not_fit(said: Any) -> None:
    body = json.dumps(said).encode()
    assert is_overflow(400, body)
    assert not is_overflow(401, body)


@pytest.mark.parametrize(
    "said", ["Unexpected fields in the request: {'top_k'}", "temperature must be at most 2", "no model 'x'"]
)
def test_other_refusals(said: str) -> None:
    assert not is_overflow(400, json.dumps({"error": {"message": said}}).encode())


def test_messages_are_found_where_servers_put_them() -> None:
    for body, said in (
        (b'{"error": {"message": "no", "type": "bad", "code": 400}}', "no (bad)"),
        (b'{"detail": "no"}', "no"),
        (b'{"detail": [{"loc": ["body"]}]}', '[{"loc": ["body"]}]'),
        (b"<h1>no</h1>", "<h1>no</h1>"),
        (b"", ""),
    ):
        assert server_message(body) == said


def test_printable() -> None:
    assert printable("a\n\tb\x1b[2J\u202ec", 80) == "a b\ufffd[2J\ufffdc"
    assert printable("x" * 30, 10) == "xxxxxxx..."


def test_addresses() -> None:
    for given_, base in (
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        (" https://models.example/api/v1/ ", "https://models.example/api/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
        ("http://models.example/v1/chat/completions", "http://models.example/v1"),
    ):
        assert base_address(given_) == base
    for wrong in (
        "",
        "models.example",
        "localhost:8000/v1",
        "ftp://x/v1",
        "http://",
        "http://x:y/v1",
        "\x00",
    ):
        with pytest.raises(ConfigError, match="not a server's address"):
            base_address(wrong)
    for secret in ("http://me:s3cret@x/v1", "http://x/v1?key=s3cret", "http://x/v1#s3cret"):
        with pytest.raises(ConfigError, match="environment variable") as caught:
            base_address(secret)
        assert "s3cret" not in str(caught.value)


def test_an_input_that_is_repeated_is_no_message() -> None:
    """FastAPI says what is wrong, and repeats what was sent: a conversation about context windows, say."""
    detail = [{"type": "extra", "loc": ["body", "seed"], "msg": "not allowed", "input": "the context window"}]
    body = json.dumps({"detail": detail}).encode()
    assert not is_overflow(422, body)
    assert "not allowed" in server_message(body)
    assert "window" not in server_message(body)
    assert is_overflow(422, json.dumps({"detail": [{"msg": "exceeds the context window"}]}).encode())


def test_a_reply_that_a_filter_cut_off() -> None:
    assert parsed(completion("I ca", "content_filter")).filtered
    assert not parsed(completion("I ca")).filtered
