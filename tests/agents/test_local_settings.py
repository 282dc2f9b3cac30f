"""The local agent's settings: what is refused, what is known by which fingerprint, and misuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from multiturn.agents.base import Request
from multiturn.agents.local import LocalAgent
from multiturn.errors import ConfigError
from multiturn.models.scratch import scratch_policy
from multiturn.trajectory import Message

if TYPE_CHECKING:
    from multiturn.models.policy import Policy


@pytest.fixture(scope="module")
def policy() -> Policy:
    return scratch_policy(hidden_size=32, layers=2, max_positions=400, dtype=torch.float64)


def make(policy: Policy, **settings: Any) -> LocalAgent:
    return LocalAgent(policy, **{"capacity": 3, "max_new_tokens": 12, "chat_template": "compact", **settings})


def user(text: str) -> Message:
    return Message(role="user", content=text)


def test_misuse(policy: Policy) -> None:
    agent = make(policy)
    with pytest.raises(RuntimeError, match="no request is open"):
        agent.poll()
    with pytest.raises(ValueError, match="slot 3"):
        agent.submit(Request(slot=3, messages=(user("mug"),), seed=0))
    agent.submit(Request(slot=0, messages=(user("mug"),), seed=0))
    with pytest.raises(ValueError, match="open already"):
        agent.submit(Request(slot=0, messages=(user("mug"),), seed=0))
    agent.poll()
    assert agent.cache_bytes > 0
    agent.close()
    agent.close()
    assert agent.cache_bytes == 0
    with pytest.raises(RuntimeError, match="no request is open"):
        agent.poll()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"capacity": 0}, "capacity"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_context": 1}, "max_context"),
        ({"chat_template": "compacct"}, "compact"),
    ],
)
def test_bad_settings(policy: Policy, settings: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make(policy, **settings)


def test_turns_end_where_the_tokenizer_and_the_model_say(policy: Policy) -> None:
    agent = LocalAgent(policy, capacity=1, max_new_tokens=5, chat_template="compact")
    assert policy.tokenizer.eos_token_id in agent._stops


def test_fingerprint(policy: Policy) -> None:
    """It changes with whatever changes replies, and not with how many are written at once."""
    base = make(policy).fingerprint
    assert make(policy, capacity=1).fingerprint == base
    others = [
        make(policy, temperature=1.0),
        make(policy, top_p=0.9),
        make(policy, max_new_tokens=13),
        make(policy, chat_template="model"),
        make(policy, max_context=300),
        make(scratch_policy(hidden_size=32, seed=1, max_positions=400, dtype=torch.float64)),
    ]
    assert len({base, *(other.fingerprint for other in others)}) == 7
