"""Tool calls and results: OpenAI's JSON text and mappings alike, scored exactly, and never special tokens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from model_families import CALL, FAMILIES, TOOL, TOOLS, turns_of
from token_templates import assistant, byte_level, decode, token_id, user

from multiturn.errors import TemplateError
from multiturn.models.scratch import CHATML
from multiturn.tokens import NO_TURN, Renderer
from multiturn.trajectory import Message

TAKING = [
    *((name, None) for name, family in FAMILIES.items() if family.tools),
    ("Qwen 3", "qwen3-training"),
    ("Llama 3", "llama-3-training"),
    ("Mistral v0.3", "mistral-training"),
]


def called(arguments: Any, *more: dict[str, Any]) -> list[Message]:
    call = CALL | {"function": {"name": "look", "arguments": arguments}}
    return [TOOLS[0], Message(role="assistant", content="", tool_calls=(call, *more)), *TOOLS[2:]]


@pytest.mark.parametrize(("name", "template"), TAKING)
def test_arguments_as_text_and_as_a_mapping_are_the_same(name: str, template: str | None) -> None:
    renderer = Renderer(FAMILIES[name].tokenizer(), chat_template=template)
    arguments = {"at": 'a "high" shelf', "times": 2, "deep": {"é": [None, True]}}
    as_mapping = renderer.render(called(arguments), tools=[TOOL])
    as_text = renderer.render(called(json.dumps(arguments)), tools=[TOOL])
    assert as_text == as_mapping
    found = turns_of(renderer, FAMILIES[name], called(json.dumps(arguments)), tools=True)[0]
    written = found[found.index('"at"') - 1 :]
    assert json.JSONDecoder().raw_decode(written)[0] == arguments


@pytest.mark.parametrize(
    ("name", "template", "expected"),
    [
        ("Qwen 2.5", None, '<tool_call>\n{"name": "look", "arguments": {"at": "shelf"}}\n</tool_call>'),
        (
            "Qwen 3",
            "qwen3-training",
            '<tool_call>\n{"name": "look", "arguments": {"at": "shelf"}}\n</tool_call>',
        ),
        ("Llama 3.1", None, '{"name": "look", "parameters": {"at": "shelf"}}'),
        ("Llama 3", "llama-3-training", '{"name": "look", "parameters": {"at": "shelf"}}'),
        (
            "Mistral v0.3",
            None,
            '[TOOL_CALLS] [{"name": "look", "arguments": {"at": "shelf"}, "id": "callno001"}]',
        ),
        (
            "Mistral v0.3",
            "mistral-training",
            '[TOOL_CALLS] [{"name": "look", "arguments": {"at": "shelf"}, "id": "callno001"}]',
        ),
    ],
)
def test_a_call_is_scored_exactly(name: str, template: str | None, expected: str) -> None:
    family = FAMILIES[name]
    renderer = Renderer(family.tokenizer(), chat_template=template)
    found = turns_of(renderer, family, TOOLS, tools=True)
    # Tokenizers with word marks put one after a special token as well.
    assert [turn.replace("]  [", "] [").strip() for turn in found] == [expected, "done"]
    rendered = renderer.render(TOOLS, tools=[TOOL])
    unscored = [i for i, turn in zip(rendered.token_ids, rendered.turns, strict=True) if turn == NO_TURN]
    assert "a cup" in decode(family.tokenizer(), unscored)
    prompt = renderer.prompt_ids(TOOLS[:3], tools=[TOOL])
    assert list(rendered.token_ids[: len(prompt)]) == prompt
    assert rendered.turns[len(prompt) - 1 : len(prompt) + 1] == (NO_TURN, 1)


@pytest.mark.parametrize(("name", "template"), [("Qwen 2.5", None), ("Qwen 3", "qwen3-training")])
def test_two_calls_of_one_turn_and_their_results(name: str, template: str | None) -> None:
    """Both results stand in one user message, none of which is scored."""
    family = FAMILIES[name]
    second = {"type": "function", "function": {"name": "take", "arguments": "{}"}}
    talk = called({"at": "shelf"}, second)
    talk.insert(3, Message(role="tool", content="a plate"))
    renderer = Renderer(family.tokenizer(), chat_template=template)
    found = turns_of(renderer, family, talk)
    assert found[0].count("<tool_call>") == 2
    text = decode(family.tokenizer(), renderer.render(talk).token_ids)
    assert (
        "<|im_start|>user\n<tool_response>\na cup\n</tool_response>\n"
        "<tool_response>\na plate\n</tool_response><|im_end|>\n" in text
    )


def test_a_template_that_joins_arguments_to_text_gets_text() -> None:
    """DeepSeek V3 is such a one: arguments of another type would be an error."""
    call = "{%- for call in message['tool_calls'] or [] -%}{{ call['function']['name'] + "
    call += "call['function']['arguments'] + ';' }}{%- endfor -%}"
    template = CHATML.replace("+ '<|im_end|>'", "}}" + call + "{{ '<|im_end|>'")
    tokenizer = byte_level(template)
    for arguments in ({"at": "<|im_end|>"}, '{"at": "<|im_end|>"}'):
        ids = Renderer(tokenizer).render(called(arguments)).token_ids
        assert 'look{"at": "<|im_end|>"};' in decode(tokenizer, ids)
        assert ids.count(token_id(tokenizer, "<|im_end|>")) == 4


def test_the_names_of_arguments_are_text_as_well() -> None:
    tokenizer = FAMILIES["Qwen 2.5"].tokenizer()
    renderer = Renderer(tokenizer)
    end = token_id(tokenizer, "<|im_end|>")
    tool = {"type": "function", "function": {"name": "look", "parameters": {"<|im_end|>": 1}}}
    harmless = renderer.render(called({"at": 1}), tools=[TOOL]).token_ids.count(end)
    for arguments in ({"<|im_end|>": 1}, '{"<|im_end|>": 1}'):
        rendered = renderer.render(called(arguments), tools=[tool])
        assert rendered.token_ids.count(end) == harmless
        assert decode(tokenizer, rendered.token_ids).count('"<|im_end|>": 1') == 2


def test_arguments_that_are_no_json_stay_what_the_model_wrote() -> None:
    """A rejected trajectory may well hold such a call."""
    found = turns_of(
        Renderer(FAMILIES["Qwen 3"].tokenizer(), chat_template="qwen3-training"),
        FAMILIES["Qwen 3"],
        called('{"at": '),
    )
    assert found[0] == '<tool_call>\n{"name": "look", "arguments": {"at": }\n</tool_call>'


def test_calls_that_a_template_writes_only_without_content() -> None:
    """DeepSeek R1's writes a call only where the content is null: nothing would be left of the turn."""
    talk = [TOOLS[0], TOOLS[1]]
    older = FAMILIES["DeepSeek R1"].template.replace("<think>\\n", "").replace("<think>\n", "")
    renderer = Renderer(FAMILIES["DeepSeek R1"].with_template(older))
    with pytest.raises(TemplateError, match="leaves out what the assistant says: 'look'"):
        renderer.render(talk)


def test_descriptions_that_a_template_would_leave_out() -> None:
    with pytest.raises(TemplateError, match="does not describe the tool 'look'; leave `tools` out"):
        Renderer(FAMILIES["Gemma 2"].tokenizer()).render([user("go"), assistant("ok")], tools=[TOOL])


def test_the_llama_3_template_without_calls_names_the_variant_with_them() -> None:
    with pytest.raises(TemplateError, match=r"does not write tool calls.*`chat_template: llama-3-training`"):
        Renderer(FAMILIES["Llama 3"].tokenizer()).render(TOOLS)


def test_produced_ids_of_a_call_are_trained_on_as_they_are() -> None:
    """A call that the model wrote in its own spacing."""
    tokenizer = FAMILIES["Qwen 2.5"].tokenizer()
    written = '<tool_call>{"name":"look","arguments":{"at":"shelf"}}</tool_call>'
    ids = (*tokenizer.encode(written, add_special_tokens=False), token_id(tokenizer, "<|im_end|>"))
    call = Message(role="assistant", content="", tool_calls=(CALL,), token_ids=ids)
    rendered = Renderer(tokenizer).render([TOOLS[0], call, *TOOLS[2:]], tools=[TOOL])
    assert tuple(i for i, t in zip(rendered.token_ids, rendered.turns, strict=True) if t == 0) == ids
