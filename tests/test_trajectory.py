"""Records of trajectories and pairs: what is written is read back, and what is not a record is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from multiturn.errors import DataError
from multiturn.trajectory import Message, Outcome, PreferencePair, Trajectory

MESSAGES = (
    Message(role="user", content="go"),
    Message(role="assistant", content="look", token_ids=(5, 2), token_logps=(-0.5, 0.0)),
    Message(role="tool", content="a cup", tool_call_id="c1", name="see"),
    Message(role="assistant", content="", tool_calls=({"function": {"name": "take"}},)),
)


def test_a_trajectory_comes_back_as_it_was() -> None:
    trajectory = Trajectory(
        id="train/1#0",
        task_id="train/1",
        messages=MESSAGES,
        outcome=Outcome.TRUNCATED,
        reward=0.5,
        success=False,
        task_type="take",
        tools=({"name": "take"},),
        info={"seconds": 1.5},
    )
    reread = Trajectory.from_json(trajectory.to_json())
    assert reread == trajectory
    assert reread.messages[1].token_logps == (-0.5, 0.0)  # which are not compared
    assert trajectory.num_turns == len(trajectory.turns) == 2
    assert trajectory.prompt == MESSAGES[:1]
    assert [turn.observation for turn in trajectory.turns] == [(MESSAGES[2],), ()]


def test_a_pair_comes_back_as_it_was() -> None:
    pair = PreferencePair(id="p", prompt=MESSAGES[:1], chosen=MESSAGES[1:], rejected=MESSAGES[3:])
    assert PreferencePair.from_json(pair.to_json()) == pair


def test_fields_that_are_null_are_missing() -> None:
    """Other programs write null where they have nothing to say."""
    optional = ("success", "reward", "task_type", "split", "environment", "agent", "tools", "info")
    record = {"id": "a", "task_id": "t", "messages": []}
    assert Trajectory.from_json({**record, **dict.fromkeys(optional)}) == Trajectory.from_json(record)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("success", "no", "'success' is 'no'; use true, false or null"),
        ("task_type", 3, "'task_type' is 3; use a string or null"),
        ("environment", ["x"], "'environment' is ['x']"),
        ("reward", "1", "reward is '1'"),
        ("reward", float("nan"), "reward is nan"),
        ("outcome", "won", "outcome is 'won'; use one of completed"),
        ("tools", "look", "'tools' must be a list of JSON objects"),
        ("info", [1], "info must be a JSON object, not list"),
        ("schema", 99, "a trajectory has schema 99"),
        ("id", "", "'id' is missing or not a string"),
        ("messages", None, "'messages' is missing"),
    ],
)
def test_a_trajectory_with_an_unusable_field(field: str, value: Any, says: str) -> None:
    record = {"id": "a", "task_id": "t", "messages": [], field: value}
    with pytest.raises(DataError, match=re.escape(says)):
        Trajectory.from_json(record)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("role", "bot", "role is 'bot'"),
        ("content", 3, "content is int"),
        ("tool_calls", "look", "'tool_calls' must be a list"),
        ("tool_call_id", 7, "'tool_call_id' is 7"),
        ("name", {"a": 1}, "'name' is {'a': 1}"),
        ("token_ids", [-1], "token_ids must be"),
        ("token_ids", "12", "token_ids must be"),
        ("token_logps", [0.5], "token_logps must be"),
        ("token_logps", [None], "token_logps must be"),
        ("token_logps", "-1", "token_logps must be"),
    ],
)
def test_a_message_with_an_unusable_field(field: str, value: Any, says: str) -> None:
    with pytest.raises(DataError, match=re.escape(says)):
        Message.from_json({"role": "tool", "content": "x", field: value})


@pytest.mark.parametrize(("field", "value"), [("tools", "look"), ("tools", [1]), ("info", "x")])
def test_a_pair_with_an_unusable_field(field: str, value: Any) -> None:
    record = PreferencePair(id="p", prompt=MESSAGES[:1], chosen=MESSAGES[1:], rejected=MESSAGES[3:]).to_json()
    with pytest.raises(DataError, match=field):
        PreferencePair.from_json({**record, field: value})


def test_a_side_without_an_action() -> None:
    with pytest.raises(DataError, match="rejected has no assistant turn"):
        PreferencePair(id="p", prompt=(), chosen=MESSAGES[1:], rejected=MESSAGES[:1])
