"""The main model families: their templates, tokens, and what they take."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from family_templates import (
    DEEPSEEK,
    GEMMA2,
    GEMMA3,
    LLAMA2,
    LLAMA31,
    MISTRAL_V3,
    PHI3,
    PHI4,
    QWEN3,
    QWEN3_INSTRUCT,
    QWEN25,
)
from token_templates import (
    DEFAULT_SYSTEM,
    LLAMA3,
    MISTRAL,
    alternating,
    assistant,
    byte_level,
    decode,
    sentencepiece_like,
    token_id,
    user,
)

from multiturn.tokens import NO_TURN
from multiturn.trajectory import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

    from multiturn.tokens import Renderer

_TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
_LLAMA3_TOKENS = tuple(
    f"<|{name}|>" for name in ("begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id")
)
_GEMMA_TOKENS = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
_PHI3_TOKENS = ("<|endoftext|>", "<|user|>", "<|system|>", "<|assistant|>", "<|end|>")
_PHI4_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>")
_DEEPSEEK_TOKENS = (
    "<\uff5cbegin▁of▁sentence\uff5c>",
    "<\uff5cend▁of▁sentence\uff5c>",
    "<\uff5cUser\uff5c>",
    "<\uff5cAssistant\uff5c>",
)


_MISTRAL_V3_TOKENS = (
    *(f"[{slash}{name}]" for name in ("INST", "AVAILABLE_TOOLS", "TOOL_RESULTS") for slash in ("", "/")),
    "[TOOL_CALLS]",
)


def _llama_3(template: str) -> PreTrainedTokenizerBase:
    return byte_level(template, special=_LLAMA3_TOKENS, bos="<|begin_of_text|>", eos="<|end_of_text|>")


def _gemma(template: str) -> PreTrainedTokenizerBase:
    return byte_level(template, special=_GEMMA_TOKENS, bos="<bos>", eos="<eos>")


def _qwen(template: str) -> PreTrainedTokenizerBase:
    return byte_level(template, tags=_TAGS)


def _deepseek(template: str) -> PreTrainedTokenizerBase:
    bos, eos = _DEEPSEEK_TOKENS[:2]
    return byte_level(template, special=_DEEPSEEK_TOKENS, bos=bos, eos=eos, tags=_TAGS[-2:])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models.

    Attributes:
        template: A template with the structure of the family's own.
        with_template: Makes a tokenizer with the family's structure that has the given template.
        end: The text of the token that ends an assistant turn.
        bos: The token that begins a conversation, once; None where there is none, or one for every exchange.
        system: Whether a system message is taken, and stays where it is.
        talk: Whether conversations of several turns without thinking are taken.
        thinking: Whether thinking survives in a conversation of several turns.
        tools: Whether tool calls and results are taken.
        trims: Whether contents are trimmed.
        variant: The variant to train with where the family's own template changes or loses what was said.
        published: The name of the family's own template among those that TRL distributes.
    """

    template: str
    with_template: Callable[[str], PreTrainedTokenizerBase]
    end: str
    bos: str | None = None
    system: bool = True
    talk: bool = True
    thinking: bool = True
    tools: bool = False
    trims: bool = False
    variant: str | None = None
    published: str | None = None

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """A tokenizer with the family's structure, and its template."""
        return self.with_template(self.template)


FAMILIES = {
    "Llama 2": Family(
        template=LLAMA2,
        with_template=sentencepiece_like,
        end="</s>",
        trims=True,
        variant="llama-2-training",
    ),
    "Llama 3": Family(
        template=LLAMA3,
        with_template=_llama_3,
        end="<|eot_id|>",
        bos="<|begin_of_text|>",
        trims=True,
        variant="llama-3-training",
        published="llama3",
    ),
    "Llama 3.1": Family(
        template=LLAMA31,
        with_template=_llama_3,
        end="<|eot_id|>",
        bos="<|begin_of_text|>",
        tools=True,
        trims=True,
        variant="llama-3-training",
        published="llama3_1",
    ),
    "Mistral v0.1, v0.2": Family(
        template=MISTRAL,
        with_template=sentencepiece_like,
        end="</s>",
        bos="<s>",
        system=False,
        trims=True,
        variant="mistral-training",
    ),
    "Mistral v0.3": Family(
        template=MISTRAL_V3,
        with_template=lambda template: sentencepiece_like(template, tags=_MISTRAL_V3_TOKENS),
        end="</s>",
        bos="<s>",
        system=False,
        tools=True,
        trims=True,
        variant="mistral-training",
    ),
    "Qwen 2.5": Family(
        template=QWEN25, with_template=_qwen, end="<|im_end|>", tools=True, published="qwen2_5"
    ),
    "Qwen 3": Family(
        template=QWEN3,
        with_template=_qwen,
        end="<|im_end|>",
        talk=False,
        thinking=False,
        variant="qwen3-training",
        published="qwen3",
    ),
    "Qwen 3 Instruct": Family(
        template=QWEN3_INSTRUCT,
        with_template=_qwen,
        end="<|im_end|>",
        tools=True,
        published="qwen3_instruct_2507",
    ),
    "Gemma 2": Family(
        template=GEMMA2,
        with_template=_gemma,
        end="<end_of_turn>",
        bos="<bos>",
        system=False,
        trims=True,
        variant="gemma-training",
        published="gemma",
    ),
    "Gemma 3": Family(
        template=GEMMA3,
        with_template=_gemma,
        end="<end_of_turn>",
        bos="<bos>",
        trims=True,
        variant="gemma-training",
        published="gemma3",
    ),
    "SmolLM2": Family(template=DEFAULT_SYSTEM, with_template=byte_level, end="<|im_end|>"),
    "Phi 3": Family(
        template=PHI3,
        with_template=lambda template: byte_level(template, special=_PHI3_TOKENS, eos="<|endoftext|>"),
        end="<|end|>",
        talk=False,
        thinking=False,
        variant="phi-3-training",
        published="phi3",
    ),
    "Phi 4": Family(
        template=PHI4,
        with_template=lambda template: byte_level(template, special=_PHI4_TOKENS, eos="<|im_end|>"),
        end="<|im_end|>",
    ),
    "DeepSeek R1": Family(
        template=DEEPSEEK,
        with_template=_deepseek,
        end=_DEEPSEEK_TOKENS[1],
        bos=_DEEPSEEK_TOKENS[0],
        talk=False,
        thinking=False,
        variant="deepseek-training",
        published="deepseek_r1_distill",
    ),
}


TALK = alternating("go", "first answer", "seen", "second answer", "seen more", "third")
SYSTEM = [Message(role="system", content="Keep house."), *TALK]
THINKING = alternating("go", "<think>\nhm\n</think>\n\none", "seen", "<think>\nwell\n</think>\n\ntwo")
CALL = {"id": "callno001", "type": "function", "function": {"name": "look", "arguments": {"at": "shelf"}}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
TOOLS = [
    user("go"),
    Message(role="assistant", content="", tool_calls=(CALL,)),
    Message(role="tool", content="a cup", tool_call_id="callno001"),
    assistant("done"),
]
TALKS = {"talk": TALK, "system": SYSTEM, "thinking": THINKING, "tools": TOOLS}
"""What a family takes or refuses, by the attribute of `Family` that says so."""


def turns_of(renderer: Renderer, family: Family, talk: list[Message], *, tools: bool = False) -> list[str]:
    """The text of each turn without its end, after checks that hold for all families.

    What is scored ends with the family's end of a turn, which comes once in it; a conversation begins once.
    """
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
    return [decode(tokenizer, ids[:-1]) for ids in turns]
