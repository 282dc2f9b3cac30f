"""The scripted agent keeps the agent's contract."""

from __future__ import annotations

import pytest

from multiturn.agents.base import Agent, Reply, Request
from multiturn.agents.scripted import ScriptedAgent
from multiturn.trajectory import Message


def request(slot: int) -> Request:
    return Request(slot=slot, messages=(Message(role="user", content=f"mug {slot}"),), seed=0)


def test_answers() -> None:
    agent = ScriptedAgent(lambda messages: messages[-1].content.upper(), capacity=2)
    assert isinstance(agent, Agent)
    agent.submit(request(0))
    agent.submit(request(1))
    assert agent.poll() == [
        Reply(slot=slot, message=Message(role="assistant", content=f"MUG {slot}")) for slot in (0, 1)
    ]
    with pytest.raises(RuntimeError, match="no request"):
        agent.poll()


def test_no_answer() -> None:
    agent = ScriptedAgent(lambda _: None)
    agent.submit(request(0))
    assert agent.poll() == [Reply(slot=0, message=None)]


def test_latency_is_each_conversation_s_own() -> None:
    agent = ScriptedAgent(lambda _: "look", latency=lambda r: 60.0 if r.slot == 0 else 0.0)
    agent.submit(request(0))
    agent.submit(request(1))
    assert [reply.slot for reply in agent.poll()] == [1]
    assert agent.poll() == []
    agent.release(0)
    agent.close()


@pytest.mark.parametrize("slot", [-1, 4, 0])
def test_misuse(slot: int) -> None:
    agent = ScriptedAgent(lambda _: "look")
    agent.submit(request(0))
    with pytest.raises(ValueError, match=f"slot {slot}"):
        agent.submit(request(slot))
