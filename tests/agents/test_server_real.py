"""A real server: ``transformers serve`` with the default model, started by the test where it is installed."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
import torch

from multiturn.agents.base import Reply, Request
from multiturn.agents.formats import FORMATS
from multiturn.agents.reply_ids import ReplyIds
from multiturn.agents.server import ServerAgent
from multiturn.envs.slots import make_slots
from multiturn.errors import AgentFaultError
from multiturn.models import load_policy
from multiturn.rollouts.collect import CollectSettings, collect
from multiturn.rollouts.jobs import Job
from multiturn.rollouts.store import read_rollouts
from multiturn.tokens.render import Renderer
from multiturn.trajectory import Message, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from multiturn.models import Policy

pytestmark = pytest.mark.slow

TASKS = 10
_SERVE = "from transformers.cli.transformers import main; main()"


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy("smollm2-135m-instruct")


@pytest.fixture(scope="module")
def served(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A server's address, and what it calls the model."""
    for package in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(package, reason=f"`transformers serve` needs {package}, which is not installed")
    folder = tmp_path_factory.mktemp("served")
    policy.model.save_pretrained(str(folder / "model"))
    policy.tokenizer.save_pretrained(str(folder / "model"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    command = [sys.executable, "-c", _SERVE, "serve", str(folder / "model"), *options]
    hub = folder / "hub"
    hub.mkdir()
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)  # noqa: S603 - ours
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, folder / "log")
        yield f"http://127.0.0.1:{port}/v1", str(folder / "model")
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own
            return
        time.sleep(0.5)
    pytest.fail("the server does not answer")


def poll(agent: ServerAgent) -> Reply:
    """The next reply."""
    while True:
        replies = agent.poll()
        if replies:
            return replies[0]


def agent_for(served: tuple[str, str]) -> ServerAgent:
    url, model = served
    return ServerAgent(url, model, capacity=2, max_new_tokens=8, timeout=300.0)


def test_ten_household_tasks(served: tuple[str, str], tmp_path: Path) -> None:
    """Half of them, then all with another agent of the same fingerprint: none is played twice."""
    slots = make_slots("household", {"size": "tiny"}, 2)
    tasks = slots[0].tasks("train")[:TASKS]
    jobs = [Job(task_id=task.id, task_type=task.type, split=task.split) for task in tasks]
    settings = CollectSettings(format=FORMATS["action"], max_turns=3)
    path = tmp_path / "r.jsonl"
    for wanted, played in ((jobs[:5], 5), (jobs, 5)):
        with contextlib.closing(agent_for(served)) as agent:
            report = collect(agent, slots, wanted, path, settings)
            assert (report.episodes, report.played) == (len(wanted), played)
            assert agent.usage.replies == agent.usage.requests - _QUESTIONS
            assert agent.usage.completion_tokens >= agent.usage.replies
    episodes = read_rollouts(path)
    assert [t.task_id for t in episodes] == [task.id for task in tasks]
    assert {t.outcome for t in episodes} <= {Outcome.TRUNCATED, Outcome.INVALID, Outcome.COMPLETED}
    assert any(message.content for t in episodes for message in t.messages if message.role == "assistant")


_QUESTIONS = 3
"""What an agent asks before anything else: the models, and two addresses of versions."""


def test_greedy_replies_are_the_local_model_s(served: tuple[str, str], policy: Policy) -> None:
    """The server renders, decodes and stops as transformers does for the same conversation."""
    messages = (Message(role="user", content="Say one word."),)
    prompt = torch.tensor([Renderer(policy.tokenizer).prompt_ids(messages)])
    model: Any = policy.model
    output = model.generate(prompt, max_new_tokens=8, do_sample=False)[0, prompt.shape[1] :]
    expected = str(policy.tokenizer.decode(output, skip_special_tokens=True))
    with contextlib.closing(agent_for(served)) as agent:
        agent.submit(Request(slot=0, messages=messages, seed=0))
        reply = poll(agent)
    assert reply.message == Message(role="assistant", content=expected)


def test_a_field_that_it_does_not_know(served: tuple[str, str], policy: Policy) -> None:
    """It refuses `return_token_ids`, and says so; nothing is asked again."""
    url, model = served
    agent = ServerAgent(url, model, capacity=1, max_new_tokens=8, ids=ReplyIds(policy.tokenizer))
    with contextlib.closing(agent):
        agent.submit(Request(slot=0, messages=(Message(role="user", content="Hello"),), seed=0))
        with pytest.raises(AgentFaultError, match=r"status 422.*return_token_ids"):
            poll(agent)
