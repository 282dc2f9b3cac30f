"""What a template left out is found, wherever else the same letters stand."""

from __future__ import annotations

import pytest

from multiturn.tokens.written import first_unwritten, first_unwritten_tool

USER = {"role": "user", "content": "There are 3 left"}
TOOL = {"role": "tool", "content": "3"}
CALL = {"function": {"name": "count", "arguments": {}}}


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("<tool>3</tool><user>There are 3 left</user>", None),
        ("<user>There are 3 left</user>", ("user", "There are 3 left")),
        ("<user>There are left</user>", ("tool", "3")),
    ],
)
def test_messages_are_looked_for_in_their_order(text: str, missing: tuple[str, str] | None) -> None:
    """The 3 of the second text is the user's, so behind it the user's own words are missing."""
    assert first_unwritten([TOOL, USER], text) == missing


def test_calls_may_stand_before_what_is_said_beside_them() -> None:
    message = {"role": "assistant", "content": "I look.", "tool_calls": [CALL]}
    assert first_unwritten([message], "<call>count</call>I look.") is None
    assert first_unwritten([message], "I look.<call>count</call>") is None
    assert first_unwritten([message], "I look.") == ("assistant", "count")


def test_results_may_be_written_as_json_text() -> None:
    quoted = {"role": "tool", "content": 'a "cup"'}
    assert first_unwritten([quoted, USER], '{"result": "a \\"cup\\""} There are 3 left') is None


def test_a_tool_that_is_not_described() -> None:
    assert first_unwritten_tool([CALL], "tools: count") is None
    assert first_unwritten_tool([CALL], "no tools") == "count"
