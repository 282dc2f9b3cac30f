"""What is written is read back: exactly where a format can hold it, and what it cannot is named."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.formats import FORMATS, BadRecord, Context, detect, format_named
from multiturn.formats.held import lost_fields
from multiturn.trajectory import Message, Outcome, PreferencePair, Trajectory

TEXT = st.text(max_size=10)
NAME = st.text(min_size=1, max_size=6)
SCALAR = st.none() | st.booleans() | st.integers(-9, 9) | TEXT
CALL = st.builds(
    lambda name, arguments: {"type": "function", "function": {"name": name, "arguments": arguments}},
    NAME,
    st.dictionaries(NAME, SCALAR | st.lists(SCALAR, max_size=2), max_size=2),
)
WITH_ID = st.builds(lambda call, name: {**call, "id": name}, CALL, NAME)
TOOLS = st.lists(st.builds(lambda n: {"type": "function", "function": {"name": n}}, NAME), max_size=2)
USER = st.builds(lambda text: Message(role="user", content=text), TEXT)
TOOL = st.builds(
    lambda text, call, name: Message(role="tool", content=text, tool_call_id=call, name=name),
    TEXT,
    st.none() | NAME,
    st.none() | NAME,
)
SPEECH = st.builds(
    lambda text, ids: Message(role="assistant", content=text, token_ids=ids),
    TEXT,
    st.none() | st.tuples(st.integers(0, 9)),
)
PLAIN_CALL = st.builds(
    lambda calls: Message(role="assistant", content="", tool_calls=calls), st.tuples(WITH_ID)
)
BOTH = st.builds(
    lambda text, calls: Message(role="assistant", content=text, tool_calls=calls),
    st.text(min_size=1, max_size=8),
    st.tuples(WITH_ID) | st.tuples(WITH_ID, CALL),
)
ACTIONS = {
    "multiturn": SPEECH | PLAIN_CALL | BOTH,
    "openai": SPEECH | PLAIN_CALL | BOTH,
    "trl": SPEECH | PLAIN_CALL | BOTH,
    "ms-swift": SPEECH | PLAIN_CALL | BOTH,
    "sharegpt": SPEECH | PLAIN_CALL,
    "agentgym": SPEECH,
}
LOST = {
    "multiturn": set[str](),
    "openai": {"id", "task_id", "reward", "success", "outcome", "token_ids", "info"},
    "trl": {"task_id", "token_ids", "info"},
    "ms-swift": {
        *("id", "task_id", "reward", "success", "outcome", "token_ids", "info"),
        *("tool call ids", "tool_call_id", "name"),
    },
    "sharegpt": {
        *("task_id", "reward", "success", "outcome", "token_ids", "info", "context_turns"),
        *("tool call ids", "tool_call_id", "name"),
    },
    "agentgym": {"id", "reward", "success", "outcome", "token_ids", "info"},
}
"""What each format cannot hold, as docs/data.md says."""


def turns(name: str, least: int) -> st.SearchStrategy[tuple[Message, ...]]:
    answer = USER if name == "agentgym" else USER | TOOL
    turn = st.tuples(ACTIONS[name], answer)
    return st.lists(turn, min_size=least, max_size=3).map(lambda found: tuple(m for t in found for m in t))


def trajectories(name: str) -> st.SearchStrategy[Trajectory]:
    system = st.just((Message(role="system", content="Act."),)) | st.just(())
    return st.builds(
        lambda first, user, said, context, tools, reward, success, outcome: Trajectory(
            id="a",
            task_id="t",
            messages=(*first, user, *said),
            context_turns=context,
            tools=() if name == "agentgym" else tuple(tools),
            reward=reward,
            success=success,
            outcome=outcome,
            info={"seconds": 1.5} if reward else {},
        ),
        system,
        USER,
        turns(name, 2),
        st.integers(0, 1),
        TOOLS,
        st.none() | st.floats(0, 1),
        st.none() | st.booleans(),
        st.sampled_from(Outcome),
    )


def pairs(name: str) -> st.SearchStrategy[PreferencePair]:
    return st.builds(
        lambda user, context, chosen, rejected, tools: PreferencePair(
            id="p",
            prompt=(user, *context),
            chosen=chosen,
            rejected=rejected,
            tools=tuple(tools),
            task_id="t",
            info={"chosen_reward": 1.0},
        ),
        USER,
        turns(name, 0),
        turns(name, 1),
        turns(name, 1),
        TOOLS,
    )


def check(name: str, item: Trajectory | PreferencePair) -> None:
    """Written, through JSON and read: nothing but the named fields is lost, and nothing a second time."""
    form = format_named(name)
    record = json.loads(json.dumps(form.write(item)))
    assert detect([record]) is form or name in {"openai", "ms-swift"}
    once = form.read(record, Context(default_id="line-1"))
    assert set(lost_fields(item, once)) <= LOST[name]
    twice = form.read(json.loads(json.dumps(form.write(once))), Context(default_id="line-1"))
    assert twice == dataclasses.replace(once, info=twice.info)
    assert twice.info == {} or name == "multiturn"


@pytest.mark.parametrize("name", [f.name for f in FORMATS if "trajectories" in f.holds])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_trajectories_come_back(name: str, data: st.DataObject) -> None:
    check(name, data.draw(trajectories(name)))


@pytest.mark.parametrize("name", [f.name for f in FORMATS if "pairs" in f.holds])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_pairs_come_back(name: str, data: st.DataObject) -> None:
    check(name, data.draw(pairs(name)))


ASK = Message(role="user", content="Look.")
CALLED: dict[str, Any] = {"id": "c", "type": "function", "function": {"name": "look", "arguments": {}}}


@pytest.mark.parametrize(
    ("name", "messages", "says"),
    [
        (
            "sharegpt",
            (ASK, Message(role="assistant", content="so", tool_calls=(CALLED,))),
            "text and tool calls",
        ),
        (
            "agentgym",
            (ASK, Message(role="assistant", content="", tool_calls=(CALLED,))),
            "no place for tools",
        ),
        (
            "ms-swift",
            (ASK, Message(role="assistant", content="", tool_calls=({"name": "x"},))),
            "no function",
        ),
        (
            "sharegpt",
            (ASK, Message(role="assistant", content="", tool_calls=({"name": "x"},))),
            "no function",
        ),
    ],
)
def test_what_a_format_has_no_place_for(name: str, messages: tuple[Message, ...], says: str) -> None:
    with pytest.raises(BadRecord, match=says) as caught:
        format_named(name).write(Trajectory(id="a", task_id="t", messages=messages))
    assert caught.value.reason == "cannot_hold"


def test_a_change_of_text_is_no_loss_but_an_error() -> None:
    """ms-swift would join an assistant's text and the call in the next message to one turn."""
    apart = (
        ASK,
        Message(role="assistant", content="so"),
        Message(role="assistant", content="", tool_calls=(CALLED,)),
    )
    item = Trajectory(id="a", task_id="t", messages=apart)
    swift = format_named("ms-swift")
    reread = swift.read(swift.write(item), Context())
    with pytest.raises(BadRecord, match="3 messages would become 2"):
        lost_fields(item, reread)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"messages": (ASK, Message(role="assistant", content="Other."))}, "a message would be another"),
        (
            {"messages": (ASK, Message(role="assistant", content="Yes.", tool_calls=({"function": "f"},)))},
            "a tool call would be another",
        ),
    ],
)
def test_every_change_of_what_is_said_is_found(change: dict[str, Any], says: str) -> None:
    item = Trajectory(id="a", task_id="t", messages=(ASK, Message(role="assistant", content="Yes.")))
    with pytest.raises(BadRecord, match=says):
        lost_fields(item, dataclasses.replace(item, **change))
    assert lost_fields(item, dataclasses.replace(item, id="b", reward=1.0)) == ["id", "reward"]
