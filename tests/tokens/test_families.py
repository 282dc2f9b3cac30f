"""The main model families: rendered exactly, or refused with the variant to train with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from family_templates import FAMILIES, Family
from hypothesis import given, settings
from hypothesis import strategies as st
from token_templates import alternating, assistant, decode, token_id, user

from multiturn.errors import TemplateError
from multiturn.tokens import NO_TURN, Renderer
from multiturn.tokens.template import VARIANTS, variant_for
from multiturn.trajectory import Message

TALK = alternating("go", "first answer", "seen", "second answer", "seen more", "third")
SYSTEM = [Message(role="system", content="Keep house."), *TALK]
THINKING = alternating("go", "<think>\nhm\n</think>\n\none", "seen", "<think>\nwell\n</think>\n\ntwo")
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": {"at": "shelf"}}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
TOOLS = [
    user("go"),
    Message(role="assistant", content="", tool_calls=(CALL,)),
    Message(role="tool", content="a cup", tool_call_id="c1"),
    assistant("done"),
]
TALKS = {"talk": TALK, "system": SYSTEM, "thinking": THINKING, "tools": TOOLS}
EXACT = [(name, kind) for name, family in FAMILIES.items() for kind in TALKS if getattr(family, kind)]
REFUSED = [(name, kind) for name, family in FAMILIES.items() for kind in TALKS if not getattr(family, kind)]
WITH_VARIANT = [(name, family) for name, family in FAMILIES.items() if family.variant]
IN_VARIANTS = [
    (name, kind)
    for name, family in WITH_VARIANT
    for kind in TALKS
    if kind != "tools" or family.variant in ("qwen3-training", "mistral-training")
]


def takes(family: Family, kind: str) -> bool:
    """Whether the family's own template takes such a conversation from its first to its last turn."""
    return family.talk and bool(getattr(family, kind))


def turns_of(renderer: Renderer, family: Family, talk: list[Message], *, tools: bool) -> list[str]:
    """The text of each turn; what is scored ends with the family's end of a turn, and bos comes once."""
    tokenizer = family.tokenizer()
    rendered = renderer.render(talk, tools=[TOOL] if tools else ())
    turns = [
        [i for i, turn in zip(rendered.token_ids, rendered.turns, strict=True) if turn == number]
        for number in range(rendered.num_turns)
    ]
    for ids in turns:
        assert ids[-1] == token_id(tokenizer, family.end)
        assert ids.count(ids[-1]) == 1
    assert rendered.turns[0] == NO_TURN
    if family.bos is not None:
        assert rendered.token_ids.count(token_id(tokenizer, family.bos)) == 1
    return [decode(tokenizer, ids[:-1]).strip() for ids in turns]


def said(talk: list[Message]) -> list[str]:
    return [message.content for message in talk if message.role == "assistant"]


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, k in EXACT if takes(FAMILIES[n], k)])
def test_each_turn_is_what_the_assistant_said(name: str, kind: str) -> None:
    family, talk = FAMILIES[name], TALKS[kind]
    found = turns_of(Renderer(family.tokenizer()), family, talk, tools=kind == "tools")
    if kind == "tools":
        assert '"look"' in found[0]
        assert '"at": "shelf"' in found[0]
        assert found[1] == "done"
    else:
        assert found == said(talk)


@pytest.mark.parametrize(("name", "kind"), REFUSED)
def test_what_a_family_would_change_or_lose_is_refused(name: str, kind: str) -> None:
    family = FAMILIES[name]
    with pytest.raises(TemplateError) as caught:
        Renderer(family.tokenizer()).render(TALKS[kind], tools=[TOOL] if kind == "tools" else ())
    message = str(caught.value)
    if "changes what it wrote" in message and family.variant is not None:
        assert f"`chat_template: {family.variant}`" in message
    else:
        assert re.search(r"refuses the conversation|does not write tool calls|changes what", message)


@pytest.mark.parametrize(("name", "kind"), IN_VARIANTS)
def test_a_variant_takes_what_the_family_refuses(name: str, kind: str) -> None:
    family, talk = FAMILIES[name], TALKS[kind]
    renderer = Renderer(family.tokenizer(), chat_template=family.variant)
    found = turns_of(renderer, family, talk, tools=kind == "tools")
    if kind == "tools":
        assert '{"name": "look", "arguments": {"at": "shelf"}}' in found[0]
        assert found[1] == "done"
    else:
        assert found == said(talk)


@pytest.mark.parametrize(("name", "family"), WITH_VARIANT)
def test_a_variant_writes_what_the_family_writes_where_that_stays(name: str, family: Family) -> None:
    """The prompt of a first turn, and a whole first turn with its thinking."""
    tokenizer = family.tokenizer()
    own, variant = Renderer(tokenizer), Renderer(tokenizer, chat_template=family.variant)
    system = SYSTEM[:2] if family.system else TALK[:1]
    if name == "DeepSeek R1":
        # Its prompt opens the thinking, which the model writes itself with the variant.
        opening = tokenizer.encode("<think>\n", add_special_tokens=False)
        assert own.prompt_ids(system) == [*variant.prompt_ids(system), *opening]
        return
    assert own.prompt_ids(system) == variant.prompt_ids(system)
    if name == "Phi 3":  # its own end of text comes after every last turn
        return
    first = THINKING[:2] if name == "Qwen 3" else TALK[:2]
    assert own.render(first) == variant.render(first)


def test_arguments_may_be_text_or_a_mapping() -> None:
    as_text = CALL | {"function": {"name": "look", "arguments": '{"at": "shelf"}'}}
    for name in ("Qwen 2.5", "Mistral v0.3"):
        renderer = Renderer(FAMILIES[name].tokenizer())
        texts = {
            renderer.render(
                [TOOLS[0], Message(role="assistant", content="", tool_calls=(call,)), *TOOLS[2:]],
                tools=[TOOL],
            ).token_ids
            for call in (CALL, as_text)
        }
        assert len(texts) == 1


PIECES = st.sampled_from(
    ["a", "b ", " \n", "<", "|>", "<think>", "</think>", "<|im_end|>", "[INST]", "</s>", "<bos>"]
)
WORDS = st.lists(PIECES, max_size=8).map(lambda pieces: f"x{''.join(pieces)}x")


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if f.talk or f.variant])
@settings(max_examples=15, deadline=None)
@given(contents=st.lists(WORDS, min_size=2, max_size=6).filter(lambda c: len(c) % 2 == 0))
def test_prompts_are_what_training_sees_whatever_is_said(name: str, contents: list[str]) -> None:
    """Whatever is said, every prompt of a rollout is the beginning of the training's sequence."""
    family = FAMILIES[name]
    talk = alternating(*contents)
    renderer = Renderer(family.tokenizer(), chat_template=None if family.talk else family.variant)
    whole = renderer.render(talk).token_ids
    for end in range(1, len(talk), 2):
        prompt = renderer.prompt_ids(talk[:end])
        assert list(whole[: len(prompt)]) == prompt


def test_every_variant_is_of_a_family_and_recognized() -> None:
    assert {family.variant for _, family in WITH_VARIANT} == set(VARIANTS)
    for _, family in WITH_VARIANT:
        source = family.tokenizer().chat_template
        assert isinstance(source, str)
        assert variant_for(source) == family.variant
    assert variant_for("{{ messages }}") is None


def test_the_table_of_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "templates.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    table = {row[0]: row[1:6] for row in rows if row[0] in FAMILIES}
    assert set(table) == set(FAMILIES)
    for name, family in FAMILIES.items():
        expected = [
            *("yes" if takes(family, kind) else "no" for kind in TALKS),
            f"`{family.variant}`" if family.variant else "",
        ]
        assert [cell.strip() for cell in table[name]] == expected, name
