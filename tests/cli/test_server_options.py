"""A server plays, from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fake_server import FakeServer, completion, fake_server, json_answer

from multiturn.cli.app import run_app
from multiturn.rollouts.store import read_rollouts

if TYPE_CHECKING:
    from pathlib import Path

HOUSEHOLD = ["--env", "household", "--env-option", "size=tiny", "--max-turns", "2", "--tasks", "3"]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MULTITURN_PROGRESS", "off")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.chdir(tmp_path)


def looking(server: FakeServer) -> FakeServer:
    server.otherwise = json_answer(completion("Action: look"))
    return server


def test_rollout(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KEY", "sk-toy")
    with fake_server() as server:
        looking(server)
        options = ["--server", server.url, "--api-key-env", "TOY_KEY", "--max-new-tokens", "9"]
        more = ["--server-option", "top_k=7", "--server-option", "chat_template_kwargs.enable_thinking=false"]
        assert run_app(["rollout", *HOUSEHOLD, *options, *more, "--output", "r.jsonl"]) == 0
        said = capsys.readouterr().out
        assert "3 episodes" in said
        assert "6 replies, 60 prompt tokens, 18 completion tokens" in said
        assert len(server.posts) == 6
        post, headers = server.posts[0], server.headers[0]
    assert headers["authorization"] == "Bearer sk-toy"
    assert (post["model"], post["top_k"], post["max_tokens"], post["temperature"]) == ("toy", 7, 9, 1.0)
    assert post["chat_template_kwargs"] == {"enable_thinking": False}
    assert len(read_rollouts("r.jsonl")) == 3


def test_evaluate_is_greedy(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_server() as server:
        looking(server)
        assert run_app(["evaluate", *HOUSEHOLD, "--server", server.url, "--output", "e.jsonl"]) == 0
        assert {post["temperature"] for post in server.posts} == {0.0}
    said = capsys.readouterr().out
    assert "6 replies" in said
    assert "95" in said  # the intervals' level


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--tokenizer", "x"], 2, "--tokenizer is for servers"),
        (["--server-option", "a=1"], 2, "--server-option is for servers"),
        (["--reasoning", "drop"], 2, "--reasoning is for servers"),
        (["--timeout", "600"], 2, "--timeout is for servers"),
        (["--retries", "0"], 2, "--retries is for servers"),
        (
            ["--server", "URL", "--server-option", "a=1", "--server-option", "a.b=2"],
            2,
            "--server-option 'a.b=2': 'a' is not a section",
        ),
        (["--server", "http://localhost:99999/v1"], 2, "not a server's address"),
        (["--server", "URL", "--chat-template", "compact"], 2, "a server writes conversations with its own"),
        (["--server", "URL", "--reasoning", "show"], 2, "--reasoning: there is no 'show'"),
        (["--server", "URL", "--server-option", "a"], 2, "--server-option 'a'"),
        (["--server", "URL", "--server-option", "stream=true"], 2, "'stream'"),
        (["--server", "URL", "--server-option", "day=2024-01-01"], 2, "not JSON"),
        (["--server", "URL", "--tokenizer", "./nowhere"], 2, "tokenizer './nowhere' cannot be loaded"),
        (["--server", "URL", "--api-key-env", "NO_SUCH_KEY"], 2, "NO_SUCH_KEY"),
        (["--server", "localhost"], 2, "not a server's address"),
        (["--server", "URL", "--model", "other"], 8, "status 404: no such model"),
    ],
)
def test_what_goes_wrong(
    capsys: pytest.CaptureFixture[str], options: list[str], code: int, said: str
) -> None:
    with fake_server() as server:
        server.otherwise = json_answer({"error": {"message": "no such model"}}, 404)
        given = [server.url if option == "URL" else option for option in options]
        model = [] if "--server" in options else ["--model", "smollm2-135m-instruct"]
        assert run_app(["rollout", *HOUSEHOLD, *given, *model, "--output", "r.jsonl"]) == code
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_nobody_to_evaluate(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["evaluate", *HOUSEHOLD, "--output", "e.jsonl"]) == 2
    assert "there is nobody to evaluate" in capsys.readouterr().err
