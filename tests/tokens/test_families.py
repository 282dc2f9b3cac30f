"""The main model families: rendered exactly, or refused with the variant to train with."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_families import FAMILIES, TALKS, TOOL, Family, turns_of
from token_templates import alternating, assistant, token_id, user

from multiturn.errors import TemplateError
from multiturn.tokens import NO_TURN, Renderer
from multiturn.tokens.variants import VARIANTS
from multiturn.trajectory import Message


def takes(family: Family, kind: str) -> bool:
    """Whether the family's own template takes such a conversation from its first to its last turn."""
    return family.talk and bool(getattr(family, kind))


EVERY = [(name, kind) for name in FAMILIES for kind in TALKS]
EXACT = [(name, kind) for name, kind in EVERY if takes(FAMILIES[name], kind)]
REFUSED = [(name, kind) for name, kind in EVERY if not getattr(FAMILIES[name], kind)]
IN_VARIANTS = [
    (name, kind)
    for name, kind in EVERY
    if (variant := FAMILIES[name].variant) and (kind != "tools" or VARIANTS[variant].tools)
]


def said(talk: list[Message]) -> list[str]:
    return [message.content for message in talk if message.role == "assistant"]


@pytest.mark.parametrize(("name", "kind"), EXACT)
def test_each_turn_is_what_the_assistant_said(name: str, kind: str) -> None:
    family, talk = FAMILIES[name], TALKS[kind]
    found = turns_of(Renderer(family.tokenizer()), family, talk, tools=kind == "tools")
    if kind == "tools":
        assert '"look"' in found[0]
        assert '{"at": "shelf"}' in found[0]
        assert found[1].strip() == "done"
    else:
        assert [turn.strip() for turn in found] == said(talk)


@pytest.mark.parametrize(("name", "kind"), REFUSED)
def test_what_a_family_would_change_or_lose_is_refused(name: str, kind: str) -> None:
    family = FAMILIES[name]
    with pytest.raises(TemplateError) as caught:
        Renderer(family.tokenizer()).render(TALKS[kind], tools=[TOOL] if kind == "tools" else ())
    message = str(caught.value)
    assert re.search(
        r"changes what it wrote|leaves out what|does not describe|refuses the conv|does not write tool calls",
        message,
    )
    if family.variant is not None and (kind != "tools" or VARIANTS[family.variant].tools):
        assert f"`chat_template: {family.variant}`" in message


@pytest.mark.parametrize(("name", "kind"), IN_VARIANTS)
def test_a_variant_takes_what_the_family_refuses(name: str, kind: str) -> None:
    family, talk = FAMILIES[name], TALKS[kind]
    renderer = Renderer(family.tokenizer(), chat_template=family.variant)
    found = turns_of(renderer, family, talk, tools=kind == "tools")
    if kind == "tools":
        assert re.search(r'"name": "look", "(arguments|parameters)": {"at": "shelf"}', found[0])
        assert found[1].strip() == "done"
    else:
        assert [turn.strip() for turn in found] == said(talk)


def test_a_beginning_before_every_exchange_is_never_doubled() -> None:
    """Llama 2 writes one before each user message; the tokenizer adds none of its own."""
    family = FAMILIES["Llama 2"]
    bos = token_id(family.tokenizer(), "<s>")
    for template in (None, family.variant):
        ids = Renderer(family.tokenizer(), chat_template=template).render(TALKS["system"]).token_ids
        assert ids[0] == bos
        assert ids.count(bos) == 3
        assert (bos, bos) not in itertools.pairwise(ids)


def test_a_thought_before_each_call_of_one_question_stays_in_qwen_3() -> None:
    """Its own template keeps thinking until the next user message, and so such conversations are taken."""
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": {}}}
    talk = [
        user("go"),
        Message(role="assistant", content="<think>\nhm\n</think>\n\n", tool_calls=(call,)),
        Message(role="tool", content="a cup"),
        assistant("<think>\nso\n</think>\n\ndone"),
    ]
    family = FAMILIES["Qwen 3"]
    own = Renderer(family.tokenizer()).render(talk)
    assert own.num_turns == 2
    tokenizer = family.tokenizer()
    ids = [i for i, turn in zip(own.token_ids, own.turns, strict=True) if turn == 1]
    assert ids == [
        *tokenizer.encode(talk[3].content, add_special_tokens=False),
        token_id(tokenizer, "<|im_end|>"),
    ]
    with pytest.raises(TemplateError, match="`chat_template: qwen3-training`"):
        Renderer(family.tokenizer()).render([*talk, user("more"), assistant("<think>\nx\n</think>\n\ny")])


@pytest.mark.parametrize("name", ["Llama 3.1", "Mistral v0.3"])
def test_what_is_said_beside_a_call_is_not_lost(name: str) -> None:
    family, (ask, call, *rest) = FAMILIES[name], TALKS["tools"]
    spoken = Message(role="assistant", content="I look.", tool_calls=call.tool_calls)
    with pytest.raises(TemplateError, match=r"leaves out what the assistant says: 'I look\.'"):
        Renderer(family.tokenizer()).render([ask, spoken, *rest], tools=[TOOL])
    variant = Renderer(family.tokenizer(), chat_template=family.variant)
    found = turns_of(variant, family, [ask, spoken, *rest], tools=True)
    assert found[0].strip().startswith("I look.")
    assert '"name": "look"' in found[0]


def test_a_role_that_a_template_does_not_know_is_not_lost() -> None:
    talk = [user("go"), Message(role="tool", content="a cup"), assistant("ok")]
    family = FAMILIES["Phi 3"]
    with pytest.raises(TemplateError, match="leaves out what the tool says: 'a cup'"):
        Renderer(family.tokenizer()).prompt_ids(talk[:2])
    assert turns_of(Renderer(family.tokenizer(), chat_template=family.variant), family, talk) == ["ok"]


PIECES = st.sampled_from(
    [
        *(
            "a",
            "b",
            " ",
            "1.",
            " \n",
            "\t",
            "é漢",
            "<",
            "|>",
            "{{ x }}",
            "<think>",
            "</think>",
            "<tool_call>",
        ),
        *("<|im_end|>", "[INST]", "</s>", "<s>", "<bos>", "<|end|>", "<end_of_turn>", "<|eot_id|>"),
        "<\uff5cAssistant\uff5c>",
    ]
)
CONTENTS = st.lists(PIECES, max_size=8).map("".join)
PAIRS = st.lists(st.tuples(CONTENTS, CONTENTS), min_size=1, max_size=3)


@pytest.mark.parametrize(
    ("name", "template"),
    [(name, None) for name, family in FAMILIES.items() if family.talk]
    + [(name, family.variant) for name, family in FAMILIES.items() if family.variant],
)
@settings(max_examples=12, deadline=None)
@given(contents=PAIRS)
def test_whatever_is_said_is_scored_exactly(
    name: str, template: str | None, contents: list[tuple[str, str]]
) -> None:
    """Every turn is its content and its end; every prompt of a rollout begins the training's sequence."""
    family = FAMILIES[name]
    word_marks = family.end == "</s>"  # Such decoders drop and add blanks at the edges.
    texts = [f"x{text}x" if word_marks else text for pair in contents for text in pair]
    talk = alternating(*texts)
    renderer = Renderer(family.tokenizer(), chat_template=template)
    found = turns_of(renderer, family, talk)
    if word_marks:
        assert [turn.strip() for turn in found] == said(talk)
    elif family.trims and template is None:
        assert found == [text.strip() for text in said(talk)]
    else:
        assert found == said(talk)
    whole = renderer.render(talk)
    for turn, end in enumerate(range(1, len(talk), 2)):
        prompt = renderer.prompt_ids(talk[:end])
        assert list(whole.token_ids[: len(prompt)]) == prompt
        assert whole.turns[len(prompt) - 1] == NO_TURN
        assert whole.turns[len(prompt)] == turn


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
    for name, variant in VARIANTS.items():
        row = next(row for row in rows if row[0] == f"`{name}`")
        assert row[1] == ("yes" if variant.tools else "no")
