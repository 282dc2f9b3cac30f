"""Minimal chat templates with the structure of well-known ones, and tiny tokenizers that go with them."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from multiturn.models.scratch import CHATML
from multiturn.trajectory import Message

if TYPE_CHECKING:
    from collections.abc import Iterable

# A system prompt of its own where the conversation has none, as SmolLM2's.
DEFAULT_SYSTEM = (
    "{%- for message in messages -%}"
    "{%- if loop.first and message['role'] != 'system' -%}"
    "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{%- endif -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)

# Llama 3: brings its own BOS, trims, ends a turn with another token than the tokenizer's eos.
LLAMA3 = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim"
    " + '<|eot_id|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif -%}"
)

# Mistral: no system role, strict alternation, trimming, no generation prompt.
MISTRAL = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('roles must alternate user/assistant') }}{%- endif -%}"
    "{%- if message['role'] == 'user' -%}{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}"
    "{%- else -%}{{ ' ' + message['content'] | trim + eos_token }}{%- endif -%}"
    "{%- endfor -%}"
)

# Qwen 3: thinking survives only after the last user message.
THINKING = (
    "{%- set ns = namespace(last=0) -%}"
    "{%- for message in messages -%}{%- if message['role'] == 'user' -%}{%- set ns.last = loop.index0 -%}"
    "{%- endif -%}{%- endfor -%}"
    "{%- for message in messages -%}"
    "{%- set content = message['content'] -%}"
    "{%- if message['role'] == 'assistant' and loop.index0 < ns.last -%}"
    "{%- set content = content.split('</think>')[-1] -%}{%- endif -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)

# Puts messages of one role into one message.
MERGING = (
    "{%- for message in messages -%}"
    "{%- if loop.first or messages[loop.index0 - 1]['role'] != message['role'] -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}{%- else -%}{{ '\n' }}{%- endif -%}"
    "{{ message['content'] }}"
    "{%- if loop.last or messages[loop.index0 + 1]['role'] != message['role'] -%}"
    "{{ '<|im_end|>\n' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)

# Phi 3: what is not to be continued ends with an end-of-text token.
END_OF_TEXT = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{{ '<|im_start|>assistant\n' if add_generation_prompt else '<|endoftext|>' }}"
)

# Ends turns with a line break only.
PLAIN = (
    "{%- for message in messages -%}{{ message['role'] + ': ' + message['content'] + '\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'assistant: ' }}{%- endif -%}"
)

# Tools as in Hermes and Qwen: tags that are added tokens, but not special ones.
TOOLS = (
    "{%- if tools -%}{{ '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'tool' -%}"
    "{{ '<|im_start|>user\n<tool_response>' + message['content'] + '</tool_response><|im_end|>\n' }}"
    "{%- else -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{%- for call in message['tool_calls'] or [] -%}"
    "{{ '<tool_call>' + call['function'] | tojson + '</tool_call>' }}{%- endfor -%}"
    "{{ '<|im_end|>\n' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)

_TEXTS = (
    "Your task is to: put a clean apple in the fridge. You see a shelf 1 and a drawer 2.",
    "Thought: I need to find the apple first.\nAction: go to shelf 1",
    "system user assistant [INST] [/INST] Nothing happens.",
    "<|im_end|> <|im_start|> <|eot_id|> </s> text that looks special",
)
_CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TOOL_TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")


@functools.cache
def byte_level(
    template: str | None,
    *,
    special: tuple[str, ...] = _CHATML_TOKENS,
    bos: str | None = None,
    eos: str | None = "<|im_end|>",
    tags: tuple[str, ...] = (),
) -> PreTrainedTokenizerBase:
    """A byte-level BPE as GPT-2's and its successors."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    _train(bpe, special, alphabet=pre_tokenizers.ByteLevel.alphabet())
    bpe.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    return _wrapped(bpe, template, bos, eos)


@functools.cache
def sentencepiece_like(template: str, *, tags: tuple[str, ...] = ()) -> PreTrainedTokenizerBase:
    """A BPE as Llama 2's and Mistral's: a word mark is put before whatever text is encoded."""
    special = ("<unk>", "<s>", "</s>", *tags)
    bpe = Tokenizer(models.BPE(unk_token=special[0], fuse_unk=True, byte_fallback=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    hexadecimal = [f"<0x{byte:02X}>" for byte in range(256)]
    bpe.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    _train(bpe, (*special, *hexadecimal), alphabet=sorted(set("".join(_TEXTS)) | {"▁"}))
    # The bytes are plain words of the vocabulary, not special tokens.
    record = json.loads(bpe.to_str())
    record["added_tokens"] = [token for token in record["added_tokens"] if token["content"] in special]
    return _wrapped(Tokenizer.from_str(json.dumps(record)), template, "<s>", "</s>")


def _train(bpe: Tokenizer, special: tuple[str, ...], *, alphabet: list[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in special],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator(_TEXTS, trainer)


def _wrapped(
    bpe: Tokenizer, template: str | None, bos: str | None, eos: str | None
) -> PreTrainedTokenizerBase:
    make: Any = PreTrainedTokenizerFast
    tokenizer: PreTrainedTokenizerBase = make(tokenizer_object=bpe, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = template
    return tokenizer


def chatml() -> PreTrainedTokenizerBase:
    return byte_level(CHATML)


def default_system() -> PreTrainedTokenizerBase:
    return byte_level(DEFAULT_SYSTEM, bos="<|im_start|>")


def llama3() -> PreTrainedTokenizerBase:
    names = ("begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id")
    special = tuple(f"<|{name}|>" for name in names)
    return byte_level(LLAMA3, special=special, bos=special[0], eos=special[1])


def mistral() -> PreTrainedTokenizerBase:
    return sentencepiece_like(MISTRAL)


def tools() -> PreTrainedTokenizerBase:
    return byte_level(TOOLS, tags=_TOOL_TAGS)


def thinking() -> PreTrainedTokenizerBase:
    return byte_level(THINKING, tags=_TOOL_TAGS)


STABLE = {"chatml": chatml, "default_system": default_system, "llama3": llama3, "mistral": mistral}
"""Tokenizers whose templates keep what they wrote."""

END_OF_TURN = dict.fromkeys(STABLE, "<|im_end|>") | {"llama3": "<|eot_id|>", "mistral": "</s>"}
"""What ends an assistant turn in each of them."""


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Iterable[int]) -> str:
    text = tokenizer.decode(list(token_ids))
    assert isinstance(text, str)
    return text


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


def user(content: str) -> Message:
    return Message(role="user", content=content)


def assistant(content: str, token_ids: tuple[int, ...] | None = None) -> Message:
    return Message(role="assistant", content=content, token_ids=token_ids)


def alternating(*contents: str) -> list[Message]:
    """A conversation that the user begins."""
    return [user(text) if i % 2 == 0 else assistant(text) for i, text in enumerate(contents)]
