"""Rollouts whose agent is a server that comes and goes."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fake_environments import jobs, ladders
from fake_server import Handler, completion, fake_server, json_answer

from multiturn.agents.formats import FORMATS
from multiturn.agents.server import ServerAgent
from multiturn.errors import AgentFaultError
from multiturn.rollouts.collect import CollectReport, CollectSettings, collect
from multiturn.rollouts.store import read_rollouts
from multiturn.trajectory import Outcome

if TYPE_CHECKING:
    from fake_server import FakeServer

SCRIPT = Path(__file__).with_name("killed_server_rollout.py")
TASKS = [f"train-{n}" for n in range(1, 5)]
DOWN = json_answer({"error": "down"}, 500)


async def at_once(seconds: float) -> None:
    """Wait for nothing."""


def play(server: FakeServer, path: Path, *, samples: int = 1, capacity: int = 3) -> CollectReport:
    agent = ServerAgent(
        server.url, "toy", capacity=capacity, max_new_tokens=16, retries=1, timeout=20.0, sleep=at_once
    )
    settings = CollectSettings(format=FORMATS["action"])
    with contextlib.closing(agent):
        return collect(agent, ladders(capacity), jobs(*TASKS, samples=samples), path, settings)


def test_episodes_of_a_server(tmp_path: Path) -> None:
    """Four ladders of 1 to 4 rungs: ten requests, one of them tried again after a failure."""
    with fake_server() as server:
        server.behaviours = [DOWN]
        report = play(server, tmp_path / "r.jsonl")
    assert (report.episodes, report.mean_reward, report.turns) == (4, 1.0, 10)
    assert len(server.posts) == 11
    longest = read_rollouts(tmp_path / "r.jsonl")[-1]
    assert [m.content for m in longest.messages[2:4]] == ["up", "You are on rung 1."]
    asked = [
        post for post in server.posts if post["messages"] == [m.to_chat() for m in longest.messages[:-1]]
    ]
    assert len(asked) == 1  # the last turn was asked for with the whole conversation


def test_a_conversation_that_outgrows_the_server(tmp_path: Path) -> None:
    def small(handler: Handler, body: dict[str, Any]) -> None:
        if len(body["messages"]) > 4:
            json_answer({"message": "longer than the maximum model length"}, 400)(handler, body)
        else:
            json_answer(completion("up"))(handler, body)

    with fake_server() as server:
        server.otherwise = small
        play(server, tmp_path / "r.jsonl")
    outcomes = [t.outcome for t in read_rollouts(tmp_path / "r.jsonl")]
    assert outcomes == [Outcome.COMPLETED] * 2 + [Outcome.CONTEXT_OVERFLOW] * 2


def test_what_could_not_be_asked_is_not_kept_and_played_later(tmp_path: Path) -> None:
    """One conversation that the server always fails on costs its episode, and only for this time."""

    def poisoned(handler: Handler, body: dict[str, Any]) -> None:
        three = any("3 rungs" in message["content"] for message in body["messages"])
        (DOWN if three else json_answer(completion("up")))(handler, body)

    path = tmp_path / "r.jsonl"
    with fake_server() as server:
        server.otherwise = poisoned
        with pytest.raises(AgentFaultError, match=r"1 episodes are missing.*status 500: down"):
            play(server, path)
        assert [t.id for t in read_rollouts(path)] == ["train-1#0", "train-2#0", "train-4#0"]
    with fake_server() as restarted:  # on another port
        report = play(restarted, path)
    assert (report.episodes, report.played) == (4, 1)
    assert [t.task_id for t in read_rollouts(path)] == TASKS


def test_a_server_that_is_down_ends_the_rollout(tmp_path: Path) -> None:
    """It answers two requests and then no more: eight episodes later the rollout ends."""
    path = tmp_path / "r.jsonl"
    with fake_server() as server:
        up = json_answer(completion("up"))
        server.behaviours = [up, up]
        server.otherwise = DOWN
        with pytest.raises(AgentFaultError, match="8 episodes in a row"):
            play(server, path, samples=20, capacity=1)
    assert len(server.posts) == 2 + 2 * 8
    assert [t.id for t in read_rollouts(path)] == ["train-1#0"]


def test_killed_and_resumed(tmp_path: Path) -> None:
    path, episodes = tmp_path / "rollouts.jsonl", 40

    def start(url: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(SCRIPT), str(path), str(episodes), url]
        environment = os.environ | {"MULTITURN_PROGRESS": "off", "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.Popen(command, env=environment)  # noqa: S603 - ours

    def slowly(handler: Handler, body: dict[str, Any]) -> None:
        time.sleep(0.02)
        json_answer(completion("up"))(handler, body)

    with fake_server() as server:
        server.otherwise = slowly
        process = start(server.url)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if path.exists() and path.read_bytes().count(b"\n") > 5:
                break
            time.sleep(0.005)
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 0 < len(read_rollouts(path)) < episodes
    with fake_server() as restarted:
        assert start(restarted.url).wait(60) == 0
    ids = [json.loads(line)["id"] for line in path.read_text().splitlines()[1:]]
    assert collections.Counter(ids) == {f"{task}#{n}": 1 for task in TASKS for n in range(episodes // 4)}
    assert all(t.reward == 1.0 for t in read_rollouts(path))
