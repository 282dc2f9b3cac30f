"""Templates by name, file and text; the compact one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from token_templates import alternating, assistant, byte_level, chatml, decode, default_system, llama3, user

from multiturn.errors import ConfigError, TemplateError
from multiturn.models.scratch import CHATML
from multiturn.tokens.render import NO_TURN, Renderer
from multiturn.tokens.template import ChatTemplate, resolve_template
from multiturn.trajectory import Message

if TYPE_CHECKING:
    from pathlib import Path


class TestNames:
    def test_the_models_own(self) -> None:
        assert resolve_template("model", chatml()) is None
        assert resolve_template(None, chatml()) is None

    def test_a_tokenizer_without_one(self) -> None:
        with pytest.raises(ConfigError, match=r"has no chat template; set `chat_template: compact`"):
            Renderer(byte_level(None))

    def test_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "own.jinja"
        file.write_text(CHATML, encoding="utf-8")
        assert resolve_template(str(file), byte_level(None)) == CHATML
        own = Renderer(byte_level(None), chat_template=str(file))
        talk = alternating("Go.", "ok")
        assert own.render(talk) == Renderer(chatml()).render(talk)
        assert str(file) in own.template_name

    def test_text(self) -> None:
        assert resolve_template(CHATML, byte_level(None)) == CHATML

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            resolve_template(str(tmp_path / "none.jinja"), chatml())

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            resolve_template(str(tmp_path), chatml())

    def test_a_misspelt_name(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'compact'"):
            resolve_template("compct", chatml())
        with pytest.raises(ConfigError, match="use one of 'model', 'compact'"):
            resolve_template("zzz", chatml())

    def test_broken_jinja(self) -> None:
        with pytest.raises(TemplateError, match="refuses the conversation"):
            Renderer(chatml(), chat_template="{% for %}").render(alternating("Go.", "ok"))

    def test_a_named_choice_of_templates(self) -> None:
        """A tokenizer may have several; the one called "default" is used."""
        tokenizer = byte_level(None, special=("<|im_start|>", "<|im_end|>"))
        tokenizer.chat_template = {"default": CHATML, "rag": "{{ messages[0].content }}"}
        assert Renderer(tokenizer).render(alternating("Go.", "ok")).num_turns == 1


class TestCompact:
    def test_a_message_costs_two_tokens_and_an_answer_one(self) -> None:
        tokenizer = default_system()
        renderer = Renderer(tokenizer, chat_template="compact")
        talk = [Message(role="system", content="Be brief."), *alternating("Go.", "ok", "Seen.", "done")]
        rendered = renderer.render(talk)
        expected = "<|im_start|>Be brief.<|im_end|><|im_start|>Go.<|im_end|>ok<|im_end|>"
        expected += "<|im_start|>Seen.<|im_end|>done<|im_end|>"
        assert decode(tokenizer, rendered.token_ids) == expected
        special = sum(i in tokenizer.all_special_ids for i in rendered.token_ids)
        assert special == 3 * 2 + 2 * 1
        assert rendered.turns[-1] == 1
        assert rendered.num_turns == 2

    def test_the_generation_prompt_is_empty(self) -> None:
        tokenizer = default_system()
        prompt = Renderer(tokenizer, chat_template="compact").prompt_ids([user("Go.")])
        assert decode(tokenizer, prompt) == "<|im_start|>Go.<|im_end|>"

    def test_bos_and_eos_are_used(self) -> None:
        tokenizer = llama3()
        ids = Renderer(tokenizer, chat_template="compact").render(alternating("Go.", "ok")).token_ids
        assert decode(tokenizer, ids) == "<|begin_of_text|>Go.<|end_of_text|>ok<|end_of_text|>"

    def test_without_bos_a_token_that_opens_messages(self) -> None:
        ids = Renderer(chatml(), chat_template="compact").render(alternating("Go.", "ok")).token_ids
        assert decode(chatml(), ids) == "<|im_start|>Go.<|im_end|>ok<|im_end|>"

    def test_one_special_token_will_do(self) -> None:
        """As GPT-2: beginning and end are the same token."""
        tokenizer = byte_level(None, special=("<|endoftext|>",), bos="<|endoftext|>", eos="<|endoftext|>")
        rendered = Renderer(tokenizer, chat_template="compact").render(alternating("Go.", "ok"))
        assert decode(tokenizer, rendered.token_ids) == "<|endoftext|>Go.<|endoftext|>ok<|endoftext|>"
        turn = [i for i, t in zip(rendered.token_ids, rendered.turns, strict=True) if t != NO_TURN]
        assert decode(tokenizer, turn) == "ok<|endoftext|>"

    def test_no_end_of_sequence_token(self) -> None:
        with pytest.raises(ConfigError, match="set its eos_token"):
            resolve_template("compact", byte_level(None, eos=None))

    def test_it_has_no_place_for_tools(self) -> None:
        renderer = Renderer(chatml(), chat_template="compact")
        with pytest.raises(TemplateError, match="no place for tools"):
            renderer.render(alternating("Go.", "ok"), tools=[{"type": "function"}])
        call = Message(role="assistant", content="", tool_calls=({"type": "function"},))
        with pytest.raises(TemplateError, match="no place for tool calls"):
            renderer.render([user("Go."), call])

    def test_special_tokens_with_quotes(self) -> None:
        """Their text goes into Jinja as a string literal."""
        special = ("<'\"\\{{>", "<end'>")
        tokenizer = byte_level(None, special=special, bos=special[0], eos=special[1])
        ids = Renderer(tokenizer, chat_template="compact").render([user("Go."), assistant("ok")]).token_ids
        assert decode(tokenizer, ids) == f"{special[0]}Go.{special[1]}ok{special[1]}"


def test_text_of_a_conversation() -> None:
    template = ChatTemplate(chatml())
    text = template.text([{"role": "user", "content": "Go."}], generation_prompt=True)
    assert text == "<|im_start|>user\nGo.<|im_end|>\n<|im_start|>assistant\n"


def test_tool_calls_that_a_template_would_leave_out() -> None:
    """Such a turn would be written as an empty one, and trained on."""
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": {}}}
    talk = [user("Go."), Message(role="assistant", content="", tool_calls=(call,))]
    with pytest.raises(TemplateError, match=r"does not write tool calls; choose a template that does"):
        Renderer(chatml()).render(talk)
    written = "(message['content'] ~ (message['tool_calls'] | tojson if message['tool_calls'] else ''))"
    tokenizer = byte_level(CHATML.replace("message['content']", written))
    rendered = Renderer(tokenizer).render(talk)
    assert '"name": "look"' in decode(tokenizer, rendered.token_ids)
