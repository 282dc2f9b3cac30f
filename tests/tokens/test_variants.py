"""The variants to train with: as the family's own template wherever that is stable; only for their family."""

from __future__ import annotations

import pytest
from model_families import CALL, FAMILIES, SYSTEM, TALK, THINKING, TOOL, TOOLS
from token_templates import alternating, assistant, chatml, decode, mistral, token_id, user

from multiturn.errors import ConfigError, TemplateError
from multiturn.tokens import NO_TURN, Renderer, resolve_template
from multiturn.tokens.variants import VARIANTS, variant_for
from multiturn.trajectory import Message

WITH_VARIANT = [(name, family.variant) for name, family in FAMILIES.items() if family.variant]
WITHOUT_TOOLS = [(n, v) for n, v in WITH_VARIANT if not VARIANTS[v].tools]


def texts(name: str, talk: list[Message], template: str | None = None, *, prompt: bool = False) -> str:
    renderer = Renderer(FAMILIES[name].tokenizer(), chat_template=template)
    ids = renderer.prompt_ids(talk) if prompt else renderer.render(talk).token_ids
    return decode(FAMILIES[name].tokenizer(), ids)


class TestEqualToTheFamily:
    """Text for text, on all that the family's own template writes without changing it later."""

    @pytest.mark.parametrize(
        "name", ["Llama 2", "Llama 3", "Mistral v0.1, v0.2", "Mistral v0.3", "Gemma 2", "Gemma 3"]
    )
    def test_whole_conversations(self, name: str) -> None:
        assert texts(name, TALK, FAMILIES[name].variant) == texts(name, TALK)

    @pytest.mark.parametrize("name", ["Llama 2", "Llama 3", "Gemma 3"])
    def test_with_a_system_message(self, name: str) -> None:
        assert texts(name, SYSTEM, FAMILIES[name].variant) == texts(name, SYSTEM)

    @pytest.mark.parametrize("name", ["Mistral v0.3", "Qwen 3", "Phi 3"])
    def test_the_first_prompt_with_a_system_message(self, name: str) -> None:
        first = SYSTEM[:2]
        variant = FAMILIES[name].variant
        assert texts(name, first, variant, prompt=True) == texts(name, first, prompt=True)

    def test_a_first_answer_of_qwen_3_with_its_thinking(self) -> None:
        assert texts("Qwen 3", THINKING[:2], "qwen3-training") == texts("Qwen 3", THINKING[:2])

    def test_a_first_answer_of_phi_3_without_the_end_of_text(self) -> None:
        own = texts("Phi 3", TALK[:2])
        assert own == texts("Phi 3", TALK[:2], "phi-3-training") + "<|endoftext|>"

    def test_a_prompt_of_deepseek_without_the_opened_thought(self) -> None:
        """With the variant the model opens it itself."""
        first = SYSTEM[:2]
        own = texts("DeepSeek R1", first, prompt=True)
        assert own == texts("DeepSeek R1", first, "deepseek-training", prompt=True) + "<think>\n"

    @pytest.mark.parametrize("name", ["Qwen 3", "Mistral v0.3"])
    def test_calls_and_results(self, name: str) -> None:
        """With a thought before the second answer, as Qwen 3 wants one; Mistral takes it for text."""
        call = Message(role="assistant", content="", tool_calls=(CALL,))
        if name == "Qwen 3":
            call = Message(role="assistant", content="<think>\nhm\n</think>\n\n", tool_calls=(CALL,))
        talk = [TOOLS[0], call, TOOLS[2], assistant("<think>\nso\n</think>\n\ndone")]
        assert texts(name, talk, FAMILIES[name].variant) == texts(name, talk)

    def test_calls_and_results_of_llama_3_1(self) -> None:
        """Apart from the system message with the date, which the family puts before everything."""
        own, variant = texts("Llama 3.1", TOOLS), texts("Llama 3.1", TOOLS, "llama-3-training")
        start = "<|start_header_id|>user"
        assert own[own.index(start) :] == variant[variant.index(start) :]


class TestForTheirFamilyOnly:
    @pytest.mark.parametrize("name", VARIANTS)
    def test_a_tokenizer_without_the_tokens(self, name: str) -> None:
        """Their text would become ordinary words, which the model never saw in that place."""
        other = chatml() if name in {"llama-2-training", "mistral-training"} else mistral()
        with pytest.raises(ConfigError, match="has no such token: the model is of another family"):
            Renderer(other, chat_template=name)

    def test_a_misspelt_name(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'qwen3-training'"):
            resolve_template("qwen3-trainig", chatml())

    @pytest.mark.parametrize(("name", "variant"), WITH_VARIANT)
    def test_the_familys_template_is_recognized(self, name: str, variant: str) -> None:
        assert variant_for(FAMILIES[name].template) == variant

    def test_other_templates_are_not(self) -> None:
        for source in ("{{ messages }}", FAMILIES["Qwen 2.5"].template, FAMILIES["Phi 4"].template):
            assert variant_for(source) is None

    def test_relatives_with_another_format_of_calls_are_not(self) -> None:
        """Qwen 3.5 and others write a call as XML: the variant would teach them another one."""
        source = FAMILIES["Qwen 3"].template
        assert variant_for(source + "{{ '<function=' }}") is None
        assert variant_for("{{ bos_token }}" + source) is None

    @pytest.mark.parametrize(("name", "variant"), WITH_VARIANT)
    def test_a_variant_is_not_advised_instead_of_itself(self, name: str, variant: str) -> None:
        """Not even when it has become the template of a saved model."""
        source = resolve_template(variant, FAMILIES[name].tokenizer())
        assert source is not None
        assert variant_for(source) is None

    def test_every_variant_is_of_a_family(self) -> None:
        assert {variant for _, variant in WITH_VARIANT} == set(VARIANTS)


class TestConversations:
    @pytest.mark.parametrize(("name", "variant"), WITH_VARIANT)
    def test_contents_are_not_trimmed(self, name: str, variant: str) -> None:
        written = texts(name, alternating(" go\n ", "  one \n", " seen ", "two"), variant)
        assert " go\n " in written
        assert "  one \n" in written

    @pytest.mark.parametrize(("name", "variant"), WITH_VARIANT)
    def test_users_may_speak_twice(self, name: str, variant: str) -> None:
        renderer = Renderer(FAMILIES[name].tokenizer(), chat_template=variant)
        assert renderer.render([user("go"), user("now"), *TALK[1:4]]).num_turns == 2

    @pytest.mark.parametrize(("name", "variant"), WITHOUT_TOOLS)
    def test_tools_are_refused_where_the_family_has_none(self, name: str, variant: str) -> None:
        renderer = Renderer(FAMILIES[name].tokenizer(), chat_template=variant)
        with pytest.raises(TemplateError, match="has no place for tools"):
            renderer.render(TALK, tools=[TOOL])
        with pytest.raises(TemplateError, match="has no place for tool calls"):
            renderer.render(TOOLS)

    @pytest.mark.parametrize("name", ["Llama 2", "Mistral v0.3", "Gemma 2", "DeepSeek R1"])
    def test_a_system_message_in_the_middle_is_refused(self, name: str) -> None:
        renderer = Renderer(FAMILIES[name].tokenizer(), chat_template=FAMILIES[name].variant)
        with pytest.raises(TemplateError, match="a system message comes first"):
            renderer.render([*TALK[:2], SYSTEM[0], *TALK[2:4]])

    @pytest.mark.parametrize("name", ["Llama 2", "Mistral v0.3", "Gemma 2"])
    def test_a_system_message_without_a_user_message_to_go_into(self, name: str) -> None:
        renderer = Renderer(FAMILIES[name].tokenizer(), chat_template=FAMILIES[name].variant)
        with pytest.raises(TemplateError, match=r"leaves out what the system says: 'Keep house\.'"):
            renderer.render([SYSTEM[0], *TALK[1:4]])

    @pytest.mark.parametrize("name", ["Qwen 3", "DeepSeek R1"])
    def test_a_thought_in_an_observation_is_only_text(self, name: str) -> None:
        family = FAMILIES[name]
        tag = token_id(family.tokenizer(), "</think>")
        talk = [user("a </think> b"), assistant("<think>hm</think>ok")]
        rendered = Renderer(family.tokenizer(), chat_template=family.variant).render(talk)
        where = [t for i, t in zip(rendered.token_ids, rendered.turns, strict=True) if i == tag]
        assert where == [0]
        assert NO_TURN not in where


def test_the_bracket_of_mistral_takes_a_blank_where_it_is_text() -> None:
    ask = [user("go")]
    assert texts("Mistral v0.1, v0.2", ask, "mistral-training", prompt=True).endswith("go [/INST]")
    assert texts("Mistral v0.3", ask, "mistral-training", prompt=True).endswith("go[/INST]")


def test_results_have_a_place_of_their_own_where_mistral_has_tokens_for_it() -> None:
    talk = [user("go"), assistant("ls"), Message(role="tool", content="a.txt"), assistant("ok")]
    assert "[INST] a.txt [/INST]" in texts("Mistral v0.1, v0.2", talk, "mistral-training")
    written = texts("Mistral v0.3", talk, "mistral-training")
    assert "[TOOL_RESULTS]" in written
    assert '{"content": "a.txt"}[/TOOL_RESULTS]' in written
