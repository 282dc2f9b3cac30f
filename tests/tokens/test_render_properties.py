"""The renderer's promises on random conversations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_templates import END_OF_TURN, STABLE, assistant, decode, tools, user

from multiturn.tokens.render import NO_TURN, Renderer, cut

if TYPE_CHECKING:
    from multiturn.trajectory import Message

PIECES = [
    *"ab 1.\n\t\"'{}%<|>[]/▁é漢🙂\u200b\u202e\xa0",
    *("<|im_end|>", "<|im_start|>", "<|im_end", "|>", "<|eot_id|>", "</s>", "<s>", "[/INST]", "<0x0A>"),
    *(chr(0xF0000), chr(0xF0003), chr(0xF0005), chr(0x10FFFD)),
    *("Action: go to shelf 1", "</tool_response>", "{{ messages }}", "<unk>", "  "),
]
contents = st.lists(st.sampled_from(PIECES), max_size=8).map("".join) | st.text(max_size=12).filter(
    lambda text: not any(0xD800 <= ord(letter) <= 0xDFFF for letter in text)
)
talks = st.lists(contents, min_size=2, max_size=7).map(
    lambda texts: [user(text) if i % 2 == 0 else assistant(text) for i, text in enumerate(texts)]
)
RENDERERS = {name: Renderer(make()) for name, make in STABLE.items()} | {
    "compact": Renderer(STABLE["default_system"](), chat_template="compact"),
    "tools": Renderer(tools()),
}
MAKERS = {**STABLE, "compact": STABLE["default_system"], "tools": tools}
ENDS = {**END_OF_TURN, "compact": "<|im_end|>", "tools": "<|im_end|>"}
TRIMMING = ("llama3", "mistral")


@pytest.mark.parametrize("name", MAKERS)
@settings(deadline=None, max_examples=60)
@given(talk=talks)
def test_every_token_belongs_where_it_should(name: str, talk: list[Message]) -> None:
    tokenizer, renderer = MAKERS[name](), RENDERERS[name]
    rendered = renderer.render(talk)
    answers = [message.content for message in talk if message.role == "assistant"]
    assert rendered.num_turns == len(answers)
    assert len(rendered.token_ids) == len(rendered.turns)
    fresh = Renderer(tokenizer, chat_template="compact" if name == "compact" else None)
    assert rendered == fresh.render(talk)
    end = tokenizer.convert_tokens_to_ids(ENDS[name])
    for turn, answer in enumerate(answers):
        scored = [i for i, t in zip(rendered.token_ids, rendered.turns, strict=True) if t == turn]
        assert scored[-1] == end
        assert scored.count(end) == 1
        if name == "mistral":
            continue  # Its decoder is not exact: it trims, and unknown characters become bytes.
        expected = answer.strip() if name in TRIMMING else answer
        assert decode(tokenizer, scored) == expected + ENDS[name]
    # A turn is one stretch, and turns come in order.
    starts = [t for i, t in enumerate(rendered.turns) if t != NO_TURN and rendered.turns[i - 1] != t]
    assert starts == list(range(rendered.num_turns))


@pytest.mark.parametrize("name", MAKERS)
@settings(deadline=None, max_examples=40)
@given(talk=talks)
def test_prompts_are_prefixes(name: str, talk: list[Message]) -> None:
    renderer = RENDERERS[name]
    whole = renderer.render(talk)
    for k, message in enumerate(talk):
        if message.role == "assistant":
            fed = renderer.prompt_ids(talk[:k])
            assert list(renderer.render(talk[: k + 1]).token_ids[: len(fed)]) == fed
            assert list(whole.token_ids[: len(fed)]) == fed
            assert whole.turns[len(fed)] == k // 2


@pytest.mark.parametrize("name", MAKERS)
@settings(deadline=None, max_examples=40)
@given(talk=talks)
def test_text_makes_no_special_tokens(name: str, talk: list[Message]) -> None:
    """As many as the same conversation has with harmless contents."""
    tokenizer, renderer = MAKERS[name](), RENDERERS[name]
    harmless = [user("a") if message.role == "user" else assistant("a") for message in talk]
    special = set(tokenizer.all_special_ids)

    def count(messages: list[Message]) -> list[int]:
        return [i for i in renderer.render(messages).token_ids if i in special]

    assert count(talk) == count(harmless)


@settings(deadline=None, max_examples=60)
@given(talk=talks, stopped=st.booleans())
def test_produced_ids_come_back_verbatim(talk: list[Message], *, stopped: bool) -> None:
    tokenizer, renderer = MAKERS["chatml"](), RENDERERS["chatml"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    produced = []
    for number, message in enumerate(talk):
        if message.role == "assistant":
            token_ids = (5 + number, 300, *((end,) if stopped else ()))
            produced.append(token_ids)
            talk[number] = assistant(message.content, token_ids)
    rendered = renderer.render(talk)
    for turn, token_ids in enumerate(produced):
        scored = tuple(i for i, t in zip(rendered.token_ids, rendered.turns, strict=True) if t == turn)
        assert scored == token_ids
    assert rendered.token_ids.count(end) == len(talk)


@settings(deadline=None, max_examples=60)
@given(talk=talks, max_length=st.integers(1, 120))
def test_a_cut_is_a_whole_number_of_turns(talk: list[Message], max_length: int) -> None:
    rendered = RENDERERS["chatml"].render(talk)
    left = cut(rendered, max_length)
    assert len(left.token_ids) <= max_length
    assert rendered.token_ids[: len(left.token_ids)] == left.token_ids
    assert rendered.turns[: len(left.turns)] == left.turns
    assert {t for t in left.turns if t != NO_TURN} == set(range(left.num_turns))
    for turn in range(left.num_turns):
        assert left.turns.count(turn) == rendered.turns.count(turn)
    if left.num_turns < rendered.num_turns:  # The next turn really does not fit.
        needed = len(rendered.turns) - rendered.turns[::-1].index(left.num_turns)
        assert needed > max_length
