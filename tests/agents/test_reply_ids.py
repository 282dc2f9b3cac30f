"""Ids of a server's replies are kept only where they are what the model said."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from fake_server import completion, fake_server, json_answer

from multiturn.agents.base import Request
from multiturn.agents.reply_ids import ReplyIds
from multiturn.agents.server import ServerAgent
from multiturn.models import scratch_policy
from multiturn.tokens.render import Renderer
from multiturn.trajectory import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXT = "Action: go to the kitchen"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return scratch_policy(vocab_size=400, hidden_size=32, layers=1, heads=2).tokenizer


def encoded(tokenizer: PreTrainedTokenizerBase, text: str = TEXT) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def stop_of(tokenizer: PreTrainedTokenizerBase) -> int:
    return min(Renderer(tokenizer, chat_template="model").stop_ids)


def test_what_is_believed(tokenizer: PreTrainedTokenizerBase) -> None:
    ids, stop = encoded(tokenizer), stop_of(tokenizer)
    check = ReplyIds(tokenizer)
    assert check.accept([*ids, stop], TEXT, truncated=False) == (*ids, stop)
    assert check.accept(ids, TEXT, truncated=True) == tuple(ids)
    for wrong in (ids, [*ids[:-1], stop], [*ids, *ids, stop], [stop], [], [*ids, 10**9], [-1, *ids, stop]):
        assert check.accept(wrong, TEXT, truncated=False) is None
    assert check.accept(ids[:-1], TEXT, truncated=True) is None


def test_the_agent_asks_for_them_checks_and_counts(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = [*encoded(tokenizer), stop_of(tokenizer)]

    def answer(token_ids: Any, content: str = TEXT, **message: Any) -> Any:
        record = completion(content, **message)
        record["choices"][0]["token_ids"] = token_ids
        beside = [{"token": "?", "logprob": -0.25}] * len(ids)
        record["choices"][0]["logprobs"] = {"content": beside}
        return json_answer(record)

    with fake_server() as server:
        agent = ServerAgent(server.url, capacity=1, max_new_tokens=32, ids=ReplyIds(tokenizer), timeout=20.0)
        with contextlib.closing(agent):
            server.behaviours = [answer(ids), answer(ids, "Action: sleep"), answer(None), answer("?")]
            kept = []
            for _ in range(4):
                question = (Message(role="user", content="Where?"),)
                agent.submit(Request(slot=0, messages=question, seed=0))
                replies = agent.poll()
                while not replies:
                    replies = agent.poll()
                assert replies[0].message is not None
                kept.append(replies[0].message)
    assert [message.token_ids for message in kept] == [tuple(ids), None, None, None]
    assert [message.token_logps for message in kept] == [(-0.25,) * len(ids), None, None, None]
    assert (agent.usage.ids_kept, agent.usage.ids_refused, agent.usage.logps_kept) == (1, 3, 1)
    assert server.posts[0]["return_token_ids"] is True
