"""Chat templates of multiturn's own for families whose published ones change or lose what was said.

Each is a Jinja file beside this module. What it writes for a message depends on that message and on those
before it only; contents are neither trimmed nor stripped of thinking; a system message stands in one place.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

__all__ = ["VARIANTS", "Variant", "variant_for", "variant_source"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What is known of a variant besides its text.

    Attributes:
        marks: What all templates of the family hold.
        foreign: What only templates of other families hold that have the same marks.
        tokens: Tokens that the variant writes; a tokenizer without them belongs to another family.
        tools: Whether it writes tool descriptions, calls and results.
    """

    marks: tuple[str, ...]
    foreign: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    tools: bool = False


_DEEPSEEK = ("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>")
_LLAMA_3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_SENTENCE = ("<s>", "</s>")
_PHI_3 = ("<|user|>", "<|assistant|>", "<|end|>")

VARIANTS: Final[Mapping[str, Variant]] = MappingProxyType(
    {
        "deepseek-training": Variant(marks=_DEEPSEEK, tokens=_DEEPSEEK),
        "gemma-training": Variant(marks=("<start_of_turn>",), tokens=("<start_of_turn>", "<end_of_turn>")),
        "llama-2-training": Variant(marks=("<<SYS>>",), tokens=_SENTENCE),
        "llama-3-training": Variant(marks=("<|start_header_id|>",), tokens=_LLAMA_3, tools=True),
        "mistral-training": Variant(
            marks=("[INST]",), foreign=("[SYSTEM_PROMPT]", "<<SYS>>"), tokens=_SENTENCE, tools=True
        ),
        "phi-3-training": Variant(marks=("<|assistant|>", "<|end|>"), tokens=_PHI_3),
        "qwen3-training": Variant(
            # Later Qwens and Nemotron write calls as XML, LFM2 begins with a token of its own.
            marks=("<|im_start|>", "</think>"),
            foreign=("<function=", "bos_token"),
            tokens=("<|im_start|>", "<|im_end|>"),
            tools=True,
        ),
    }
)
"""By name; a template has the marks of one at most."""


def variant_source(name: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The Jinja text of a variant.

    Args:
        name: A name in `VARIANTS`.
        tokenizer: The tokenizer that it is to be used with.

    Raises:
        ConfigError: The tokenizer lacks a token that the variant writes.
    """
    known = {token.content for token in tokenizer.added_tokens_decoder.values()}
    missing = [token for token in VARIANTS[name].tokens if token not in known]
    if missing:
        raise ConfigError(
            f"{name} writes {' and '.join(map(repr, missing))}, and the tokenizer of "
            f"{tokenizer.name_or_path or 'this model'} has no such token: the model is of another family; "
            "choose that family's variant, or `chat_template: compact`"
        )
    text = _text(name)
    if name == "mistral-training":
        # From v0.3 on the brackets are tokens of their own and take no blank, and results have others. Before
        # that they are text, and results stand where the user's words do.
        own = str("[/INST]" in known).lower()
        text = f"{{%- set own_tokens = {own} -%}}\n{text}"
    return text


def variant_for(source: str) -> str | None:
    """The variant of a template's family, where there is one and the template is not that variant itself.

    Args:
        source: The template's Jinja text.
    """
    for name, variant in VARIANTS.items():
        fits = all(mark in source for mark in variant.marks)
        if fits and not any(mark in source for mark in variant.foreign):
            return None if source.strip().endswith(_text(name).strip()) else name
    return None


def _text(name: str) -> str:
    return (Path(__file__).parent / "templates" / f"{name}.jinja").read_text(encoding="utf-8")
