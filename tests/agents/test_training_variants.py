"""With a variant, a rollout feeds the model what training sees, where the model's own template forgets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from multiturn.agents.base import Reply, Request
from multiturn.agents.local import LocalAgent
from multiturn.errors import TemplateError
from multiturn.models.scratch import CHATML, scratch_policy
from multiturn.tokens import NO_TURN, Renderer
from multiturn.trajectory import Message

if TYPE_CHECKING:
    from multiturn.models.policy import Policy

# As Qwen 3's: thinking is written for the last message only.
FORGETFUL = CHATML.replace(
    "+ message['content'] +",
    "+ (message['content'] if loop.last else message['content'].split('</think>')[-1]) +",
)
TASK = Message(role="user", content="go")
SEEN = Message(role="user", content="Nothing happens.")
LONG = 8


@pytest.fixture(scope="module")
def policy() -> Policy:
    made = scratch_policy(hidden_size=32, layers=2, max_positions=300, dtype=torch.float64)
    made.tokenizer.chat_template = FORGETFUL
    return made


def ask(agent: LocalAgent, messages: list[Message]) -> Message:
    agent.submit(Request(slot=0, messages=tuple(messages), seed=0))
    replies: list[Reply] = []
    while not replies:
        replies = agent.poll()
    assert replies[0].message is not None
    return replies[0].message


def greedy(policy: Policy, prompt: list[int]) -> list[int]:
    """The likeliest continuation, every token from a pass over everything before it."""
    ids = list(prompt)
    for _ in range(LONG):
        with torch.no_grad():
            ids.append(int(policy.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def thought(policy: Policy) -> Message:
    """A reply with thinking, as a trained model would have written it."""
    text = "<think>\nhm\n</think>\n\ntake apple"
    ids = policy.tokenizer.encode(text, add_special_tokens=False)
    end = policy.tokenizer.eos_token_id
    return Message(role="assistant", content=text, token_ids=(*ids, end))


def test_the_agent_is_fed_what_training_sees(policy: Policy) -> None:
    agent = LocalAgent(
        policy,
        capacity=1,
        max_new_tokens=LONG,
        temperature=0.0,
        dtype="float64",
        chat_template="qwen3-training",
    )
    talk = [TASK, thought(policy), SEEN]
    reply = ask(agent, talk)
    renderer = Renderer(policy.tokenizer, chat_template="qwen3-training")
    prompt = renderer.prompt_ids(talk)
    assert reply.token_ids is not None
    assert list(reply.token_ids) == greedy(policy, prompt)[: len(reply.token_ids)]
    rendered = renderer.render([*talk, reply])
    assert list(rendered.token_ids[: len(prompt)]) == prompt
    turns = [
        tuple(i for i, turn in zip(rendered.token_ids, rendered.turns, strict=True) if turn == number)
        for number in range(2)
    ]
    assert turns == [talk[1].token_ids, reply.token_ids]
    assert "<think>\nhm\n</think>\n\ntake apple" in str(policy.tokenizer.decode(prompt))


def test_thinking_from_text_is_scored_as_it_was_said(policy: Policy) -> None:
    """Rows of other programs hold no ids: the text with its thinking gives the same ones."""
    renderer = Renderer(policy.tokenizer, chat_template="qwen3-training")
    produced = thought(policy)
    said = Message(role="assistant", content=produced.content)
    by_text = renderer.render([TASK, said, SEEN, said])
    assert by_text == renderer.render([TASK, produced, SEEN, produced])
    assert sum(turn != NO_TURN for turn in by_text.turns) == 2 * len(produced.token_ids or ())


def test_the_models_own_template_is_refused_while_acting(policy: Policy) -> None:
    agent = LocalAgent(policy, capacity=1, max_new_tokens=LONG, dtype="float64")
    with pytest.raises(TemplateError, match="`chat_template: qwen3-training`"):
        ask(agent, [TASK, thought(policy), SEEN])
