"""The local agent: continuous batching gives what answering each request on its own gives."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from multiturn.agents.base import Agent, Reply, Request
from multiturn.agents.decoder import CachedDecoder
from multiturn.agents.local import LocalAgent
from multiturn.agents.sampling import sample
from multiturn.models.scratch import scratch_policy
from multiturn.tokens.render import Renderer
from multiturn.trajectory import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.models.policy import Policy

WORDS = ["go to", "shelf 1", "mug", "table", "take", "apple", "Nothing happens.", "You see a room."]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return scratch_policy(hidden_size=32, layers=2, max_positions=400, dtype=torch.float64)


@dataclasses.dataclass(kw_only=True)
class Setup:
    """An agent, and the same settings for `naive`."""

    agent: LocalAgent
    policy: Policy
    max_new_tokens: int = 12
    temperature: float = 0.0
    top_p: float = 1.0
    chat_template: str = "compact"
    stops: frozenset[int] = frozenset()

    def naive(self, messages: Sequence[Message], seed: int) -> tuple[list[int], bool]:
        """The reply's ids and whether it was cut off, every token from a pass over everything before it."""
        renderer = Renderer(self.policy.tokenizer, chat_template=self.chat_template)
        prompt = renderer.prompt_ids(messages)
        written: list[int] = []
        generator = torch.Generator().manual_seed(seed)
        while len(written) < self.max_new_tokens:
            with torch.no_grad():
                logits = self.policy.model(input_ids=torch.tensor([prompt + written])).logits[:, -1]
            written += sample(logits, temperature=self.temperature, top_p=self.top_p, generators=[generator])
            if written[-1] in self.stops:
                return written, False
        return written, True


def make(
    policy: Policy,
    *,
    capacity: int = 3,
    max_new_tokens: int = 12,
    temperature: float = 0.0,
    top_p: float = 1.0,
    chat_template: str = "compact",
    max_context: int | None = None,
    stop_every: int = 0,
) -> Setup:
    """An agent whose turns end with one in `stop_every` ids, or never: a random model does not know when."""
    agent = LocalAgent(
        policy,
        capacity=capacity,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        chat_template=chat_template,
        max_context=max_context,
    )
    agent._stops = frozenset(range(0, len(policy.tokenizer), stop_every)) if stop_every else frozenset()
    return Setup(
        agent=agent,
        policy=policy,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        chat_template=chat_template,
        stops=agent._stops,
    )


def user(text: str) -> Message:
    return Message(role="user", content=text)


def drain(agent: LocalAgent) -> list[Reply]:
    replies = []
    while agent._open or agent._overflown:
        replies += agent.poll()
    return replies


def test_is_an_agent(policy: Policy) -> None:
    assert isinstance(make(policy).agent, Agent)


@pytest.mark.parametrize(
    ("chat_template", "temperature", "top_p"),
    [("compact", 0.0, 1.0), ("model", 0.0, 1.0), ("compact", 1.0, 1.0), ("model", 0.7, 0.8)],
)
def test_equals_answering_each_request_alone(
    policy: Policy, chat_template: str, temperature: float, top_p: float
) -> None:
    """25 requests of conversations that begin, go on and end at random: every reply is the naive one."""
    setup = make(policy, temperature=temperature, top_p=top_p, chat_template=chat_template, stop_every=15)
    agent, rng = setup.agent, np.random.default_rng(7)
    opening = Message(role="system", content="You are in a room. " * 5)
    talks: dict[int, list[Message]] = {}
    open_: dict[int, Request] = {}
    answered = 0
    while answered < 25:
        for slot in range(agent.capacity):
            if slot in open_ or rng.random() < 0.3:
                continue
            if slot in talks and (len(talks[slot]) > 9 or rng.random() < 0.1):
                agent.release(slot)
                del talks[slot]
            says = " ".join(rng.choice(WORDS, size=rng.integers(1, 12)))
            talks.setdefault(slot, [opening]).append(user(says))
            open_[slot] = Request(slot=slot, messages=tuple(talks[slot]), seed=int(rng.integers(2**60)))
            agent.submit(open_[slot])
        if not open_:
            continue
        for reply in agent.poll():
            request = open_.pop(reply.slot)
            assert reply.message is not None
            assert reply.message.token_ids is not None
            wanted, truncated = setup.naive(request.messages, request.seed)
            assert list(reply.message.token_ids) == wanted
            assert reply.truncated == truncated
            talks[reply.slot].append(reply.message)
            answered += 1


def test_training_sees_what_was_fed_and_produced(policy: Policy) -> None:
    """Rendering the finished conversation gives the prompts and replies, id for id."""
    setup = make(policy, temperature=1.0, stop_every=15)
    messages = [user("You see a mug.")]
    renderer = Renderer(policy.tokenizer, chat_template="compact")
    for turn in range(3):
        prompt = renderer.prompt_ids(messages)
        setup.agent.submit(Request(slot=0, messages=tuple(messages), seed=turn))
        (reply,) = drain(setup.agent)
        assert reply.message is not None
        messages.append(reply.message)
        rendered = renderer.render(messages)
        ids = [*prompt, *(reply.message.token_ids or ())]
        assert list(rendered.token_ids[: len(ids)]) == ids
        messages.append(user("Nothing happens."))


def test_earlier_turns_are_not_computed_again(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second turn costs its observation, its reply and the token that ended the first reply."""
    agent = make(policy, max_new_tokens=5).agent
    computed = count_tokens(agent, monkeypatch)
    messages = [user("You see a mug. " * 10)]
    agent.submit(Request(slot=0, messages=tuple(messages), seed=0))
    (reply,) = drain(agent)
    assert reply.message is not None
    first = sum(computed)
    messages += [reply.message, user("Nothing happens.")]
    total = len(agent._renderer.prompt_ids(messages))
    agent.submit(Request(slot=0, messages=tuple(messages), seed=1))
    drain(agent)
    # Of the last reply the final token is never fed back.
    assert sum(computed) - first == total - first + 4
    assert first > 50


def test_a_common_beginning_is_computed_once(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make(policy, max_new_tokens=3).agent
    computed = count_tokens(agent, monkeypatch)
    system = Message(role="system", content="You are in a room. " * 10)
    agent.submit(Request(slot=0, messages=(system, user("mug")), seed=0))
    drain(agent)
    before = sum(computed)
    for slot in (1, 2):
        agent.submit(Request(slot=slot, messages=(system, user("apple")), seed=0))
    drain(agent)
    assert before > 50
    assert sum(computed) - before < 40


def count_tokens(agent: LocalAgent, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    computed: list[int] = []
    step = CachedDecoder.step

    def counting(self: CachedDecoder, work: Sequence[tuple[int, Sequence[int]]]) -> torch.Tensor:
        computed.extend(len(ids) for _, ids in work)
        return step(self, work)

    monkeypatch.setattr(CachedDecoder, "step", counting)
    return computed


def test_nothing_waits_for_a_long_reply(policy: Policy) -> None:
    """While one slot writes 60 tokens, the other writes six of 10."""
    agent = make(policy, max_new_tokens=60).agent
    agent.submit(Request(slot=0, messages=(user("mug"),), seed=0))
    quick = 0
    while 0 in agent._open:
        if 1 not in agent._open:
            agent.submit(Request(slot=1, messages=(user(f"apple {quick}"),), seed=0))
            agent._open[1].limit = 10
        quick += sum(reply.slot == 1 for reply in agent.poll())
    assert quick == 6


def test_long_prompts_do_not_hold_up_replies(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt longer than a pass's budget is taken in parts, beside the reply that is being written."""
    monkeypatch.setattr("multiturn.agents.local._PASS_TOKENS", 16)
    setup = make(policy, max_new_tokens=8)
    setup.agent.submit(Request(slot=0, messages=(user("mug"),), seed=0))
    setup.agent.poll()
    long = (user("Nothing happens. You see a room. " * 6),)
    setup.agent.submit(Request(slot=1, messages=long, seed=0))
    replies = {}
    for passes in range(1, 40):
        for reply in setup.agent.poll():
            replies[reply.slot] = (passes, reply)
        if len(replies) == 2:
            break
    assert replies[0][0] < replies[1][0]
    message = replies[1][1].message
    assert message is not None
    assert list(message.token_ids or ()) == setup.naive(long, 0)[0]


def test_end_of_turn_is_kept_in_the_ids_and_not_in_the_text(policy: Policy) -> None:
    setup = make(policy, temperature=1.0, max_new_tokens=40, stop_every=9)
    setup.agent.submit(Request(slot=0, messages=(user("mug"),), seed=3))
    (reply,) = drain(setup.agent)
    assert reply.message is not None
    ids = reply.message.token_ids or ()
    assert not reply.truncated
    assert ids[-1] in setup.stops
    assert not set(ids[:-1]) & setup.stops
    assert reply.message.content == policy.tokenizer.decode(list(ids[:-1]), skip_special_tokens=True)


def test_cut_off_reply(policy: Policy) -> None:
    agent = make(policy, max_new_tokens=4).agent
    agent.submit(Request(slot=0, messages=(user("mug"),), seed=0))
    (reply,) = drain(agent)
    assert reply.truncated
    assert reply.message is not None
    assert len(reply.message.token_ids or ()) == 4


def test_the_context_runs_out(policy: Policy) -> None:
    """With room for 3 more tokens the reply has 3; without any there is no reply, and the slot goes on."""
    messages = (user("mug " * 20),)
    length = len(Renderer(policy.tokenizer, chat_template="compact").prompt_ids(messages))
    agent = make(policy, max_context=length + 3).agent
    agent.submit(Request(slot=0, messages=messages, seed=0))
    (reply,) = drain(agent)
    assert reply.message is not None
    assert len(reply.message.token_ids or ()) == 3
    assert reply.truncated
    agent.submit(Request(slot=0, messages=(*messages, reply.message, user("apple")), seed=0))
    assert drain(agent) == [Reply(slot=0, message=None)]
    agent.release(0)
    agent.submit(Request(slot=0, messages=(user("mug"),), seed=0))
    assert drain(agent)[0].message is not None


def test_the_model_s_own_limit_holds(policy: Policy) -> None:
    assert make(policy, max_context=10_000).agent._max_context == 400
    assert make(policy).agent._max_context == 400


def test_release_in_the_middle_of_a_reply(policy: Policy) -> None:
    setup = make(policy, max_new_tokens=20)
    for slot in range(3):
        setup.agent.submit(Request(slot=slot, messages=(user(f"mug {slot}"),), seed=0))
    setup.agent.poll()
    setup.agent.poll()
    setup.agent.release(0)
    setup.agent.release(0)
    replies = {reply.slot: reply for reply in drain(setup.agent)}
    assert set(replies) == {1, 2}
    for slot, reply in replies.items():
        assert reply.message is not None
        assert list(reply.message.token_ids or ()) == setup.naive((user(f"mug {slot}"),), 0)[0]
