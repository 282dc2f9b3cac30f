"""Conversations and templates that cannot be trained on are refused with what, where and what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from token_templates import (
    END_OF_TEXT,
    MERGING,
    PLAIN,
    alternating,
    assistant,
    byte_level,
    chatml,
    decode,
    mistral,
    thinking,
    tools,
    user,
)

from multiturn.errors import DataError, TemplateError
from multiturn.tokens.render import Renderer
from multiturn.trajectory import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def refusal(tokenizer: PreTrainedTokenizerBase, talk: list[Message], template: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        Renderer(tokenizer, chat_template=template).render(talk, where="pairs.jsonl:7 chosen")
    message = str(caught.value)
    assert message.startswith("pairs.jsonl:7 chosen: ")
    return message


THOUGHTFUL = alternating("Go.", "<think>hm</think>ok", "Seen.", "<think>so</think>done")


def test_dropped_thinking() -> None:
    message = refusal(thinking(), THOUGHTFUL)
    assert "at turn 1 the chat template of this model changes what it wrote before" in message
    assert re.search(r"'<think>hm</think>ok.*' became 'ok", message)
    assert "prefix-stable" in message
    assert "compact" in message


def test_dropped_thinking_is_found_while_acting_too() -> None:
    renderer = Renderer(thinking())
    renderer.prompt_ids(THOUGHTFUL[:1])
    with pytest.raises(TemplateError, match="at turn 1"):
        renderer.prompt_ids(THOUGHTFUL[:3])


def test_one_turn_of_thinking_is_fine() -> None:
    assert Renderer(thinking()).render(THOUGHTFUL[:2]).num_turns == 1


def test_merged_turns() -> None:
    talk = [user("Go."), assistant("one"), assistant("two")]
    assert "changes what it wrote before" in refusal(byte_level(MERGING), talk)
    assert Renderer(byte_level(MERGING)).render(alternating("Go.", "ok", "Seen.", "done")).num_turns == 2


def test_an_end_of_text_that_moves() -> None:
    tokenizer = byte_level(END_OF_TEXT, eos="<|endoftext|>")
    assert "changes what it wrote before" in refusal(tokenizer, alternating("Go.", "ok", "Seen.", "done"))
    single = Renderer(tokenizer).render(alternating("Go.", "ok"))
    scored = [i for i, t in zip(single.token_ids, single.turns, strict=True) if t == 0]
    assert decode(tokenizer, scored) == "ok<|im_end|>"


def test_a_given_template_is_named() -> None:
    message = refusal(byte_level(None), [user("Go."), assistant("one"), assistant("two")], MERGING)
    assert "the given chat template" in message


def test_a_template_without_a_system_role() -> None:
    talk = [Message(role="system", content="Be brief."), user("Go."), assistant("ok")]
    message = refusal(mistral(), talk)
    assert "roles must alternate user/assistant" in message
    assert "system, user" in message
    assert "`chat_template: mistral-training`" in message


def test_alternation() -> None:
    assert "roles must alternate" in refusal(mistral(), [user("Go."), user("Now."), assistant("ok")])


def test_a_template_that_breaks_on_a_message() -> None:
    call = {"type": "function"}  # No function in it.
    talk = [user("Go."), Message(role="assistant", content="", tool_calls=(call,))]
    assert "refuses the conversation" in refusal(tools(), talk)


def test_turns_without_an_end() -> None:
    assert "does not end assistant turn 0 with a special token" in refusal(
        byte_level(PLAIN), alternating("Go.", "ok")
    )


def test_no_assistant_turn() -> None:
    message = refusal(chatml(), [user("Go."), user("Now.")])
    assert "no assistant turn" in message


@pytest.mark.parametrize("talk", [[], [assistant("ok")], [assistant("ok"), user("Go.")]])
def test_nothing_before_the_first_turn(talk: list[Message]) -> None:
    message = refusal(chatml(), talk)
    assert "needs a system or user message before it" in message
    with pytest.raises(DataError, match="needs a system or user message"):
        Renderer(chatml()).prompt_ids(talk)


def test_empty_produced_ids() -> None:
    assert "assistant turn 1 has empty token_ids" in refusal(
        chatml(), [user("Go."), assistant("ok"), user("So?"), assistant("", ())]
    )


def test_an_error_leaves_nothing_behind() -> None:
    renderer = Renderer(chatml())
    talk = [user("Go."), assistant("", ())]
    for _ in range(2):
        with pytest.raises(DataError, match="empty token_ids"):
            renderer.render(talk)
    assert renderer.render([user("Go."), assistant("ok")]).num_turns == 1
