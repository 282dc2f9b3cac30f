"""Actions are written into messages and read out of them, whatever the messages hold."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.agents.formats import FORMATS, action_format
from multiturn.errors import ConfigError

REACT, BARE = FORMATS["react"], FORMATS["action"]

# An action as environments have them: words with single blanks.
ACTIONS = st.from_regex(r"[a-z0-9/()]{1,8}( [a-z0-9/()]{1,8}){0,5}", fullmatch=True)


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        ("Thought: I need a mug.\nAction: go to shelf 1", "go to shelf 1"),
        ("Action: look", "look"),
        ("  action :  look  ", "look"),
        ("ACTION:look\n", "look"),
        ("**Action:** take mug 1 from shelf 1", "take mug 1 from shelf 1"),
        ("Thought: x\n- Action: `look`", "look"),
        ('Action: "look"', "look"),
        ("Action: go\nObservation: no\nAction: look", "look"),
        ("Action: look\nAction:", "look"),
        ("Action: say: hello", "say: hello"),
        ("Thought: the action: look", None),
        ("I would look.", None),
        ("Action:", None),
        ("Action:   \nlook", None),
        ("", None),
        ("\n\n", None),
    ],
)
def test_react(reply: str, action: str | None) -> None:
    assert REACT.parse(reply) == action


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        ("look", "look"),
        ("\n  look  \ngo to shelf 1", "look"),
        ("`look`", "look"),
        (" \n\t\n", None),
        ("", None),
    ],
)
def test_bare_action(reply: str, action: str | None) -> None:
    assert BARE.parse(reply) == action


@pytest.mark.parametrize("name", list(FORMATS))
@given(thought=st.text(max_size=80), action=ACTIONS)
@settings(deadline=None)
def test_what_is_composed_is_parsed(name: str, thought: str, action: str) -> None:
    form = action_format(name)
    assert form.parse(form.compose(thought, action)) == action


@pytest.mark.parametrize("name", list(FORMATS))
@given(reply=st.text())
@settings(deadline=None)
def test_any_text_is_survived(name: str, reply: str) -> None:
    action = action_format(name).parse(reply)
    assert action is None or action.strip()


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("piece", ["Action: x\n", " ", "*", "action ", "\n", "a"])
def test_long_replies_are_bounded(name: str, piece: str) -> None:
    started = time.monotonic()
    action = action_format(name).parse(piece * 300_000)
    assert time.monotonic() - started < 2.0
    assert action is None or len(action) <= 2_000


def test_thought_is_one_line() -> None:
    assert REACT.compose("one\n two", "look") == "Thought: one two\nAction: look"
    assert REACT.compose(" ", "look") == "Action: look"
    assert BARE.compose("why", "look") == "look"


def test_unknown_format() -> None:
    with pytest.raises(ConfigError, match="react, action"):
        action_format("xml")
