"""The published templates that TRL distributes: what is said of a family's structure holds for its own."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest
from model_families import FAMILIES, TALK, TALKS, turns_of

from multiturn.errors import TemplateError
from multiturn.tokens import Renderer
from multiturn.tokens.variants import VARIANTS, variant_for

PUBLISHED = [name for name, family in FAMILIES.items() if family.published]


def published(name: str) -> str:
    """The text of a family's own template; the test is skipped where TRL does not have it."""
    found = importlib.util.find_spec("trl")
    if found is None or not found.submodule_search_locations:
        pytest.skip("TRL is not installed; it distributes the published chat templates")
    path = Path(found.submodule_search_locations[0], "chat_templates", f"{FAMILIES[name].published}.jinja")
    if not path.is_file():
        pytest.skip(f"this version of TRL has no chat template {path.name}")
    return path.read_text(encoding="utf-8")


def outcome(renderer: Renderer, name: str, kind: str) -> list[str] | None:
    """The turns, or None where the conversation is refused."""
    try:
        return turns_of(renderer, FAMILIES[name], TALKS[kind], tools=kind == "tools")
    except TemplateError:
        return None


@pytest.mark.parametrize("kind", TALKS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_turns_are_those_of_the_familys_structure(name: str, kind: str) -> None:
    family = FAMILIES[name]
    own = Renderer(family.with_template(published(name)))
    assert outcome(own, name, kind) == outcome(Renderer(family.tokenizer()), name, kind)


@pytest.mark.parametrize("name", PUBLISHED)
def test_they_are_recognized(name: str) -> None:
    assert variant_for(published(name)) == FAMILIES[name].variant


@pytest.mark.parametrize("name", [n for n in PUBLISHED if FAMILIES[n].variant])
def test_first_prompts_are_those_of_the_variant(name: str) -> None:
    family = FAMILIES[name]
    tokenizer = family.with_template(published(name))
    own = Renderer(tokenizer).prompt_ids(TALK[:1])
    variant = Renderer(tokenizer, chat_template=family.variant).prompt_ids(TALK[:1])
    if name == "DeepSeek R1":
        variant += tokenizer.encode("<think>\n", add_special_tokens=False)
    if name == "Llama 3.1":  # What the user says follows a system message with the date.
        own = own[own.index(variant[1], 2) :]
        variant = variant[1:]
    assert own == variant


@pytest.mark.parametrize("name", [n for n in PUBLISHED if VARIANTS.get(FAMILIES[n].variant or "")])
def test_the_variant_takes_what_the_published_one_refuses(name: str) -> None:
    family = FAMILIES[name]
    renderer = Renderer(family.with_template(published(name)), chat_template=family.variant)
    for kind in ("talk", "system", "thinking"):
        assert outcome(renderer, name, kind) == [m.content for m in TALKS[kind] if m.role == "assistant"]
    assert (outcome(renderer, name, "tools") is not None) == VARIANTS[family.variant or ""].tools


def test_arguments_as_text_are_not_quoted_again() -> None:
    """OpenAI's rows hold JSON text, which Qwen 2.5's own template would write as a string in quotes."""
    tokenizer = FAMILIES["Qwen 2.5"].with_template(published("Qwen 2.5"))
    ask, call, *rest = TALKS["tools"]
    function = {"name": "look", "arguments": '{"at": "shelf"}'}
    as_text = dataclasses.replace(call, tool_calls=({"function": function},))
    found = turns_of(Renderer(tokenizer), FAMILIES["Qwen 2.5"], [ask, as_text, *rest], tools=True)
    assert '"arguments": {"at": "shelf"}}' in found[0]
