"""A tiny policy from scratch, for tests: a random Llama with a byte-level BPE of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from multiturn.models.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CHATML", "scratch_policy", "scratch_tokenizer"]

CHATML = (
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
"""A plain ChatML template: no default system prompt, no tools."""

_TEXTS = (
    "You are in the middle of a room. Looking quickly around you, you see a shelf 1 and a table 1.",
    "Your task is to: put a clean apple in the fridge.",
    "Thought: I need to find the apple first.\nAction: go to shelf 1",
    "Action: take apple 1 from table 1",
    "Nothing happens.",
)


def scratch_policy(
    *,
    vocab_size: int = 512,
    hidden_size: int = 64,
    layers: int = 2,
    heads: int = 4,
    seed: int = 0,
    texts: Sequence[str] = (),
    max_positions: int = 2048,
    dtype: torch.dtype = torch.float32,
) -> Policy:
    """A policy with random weights. It knows nothing; it is for tests.

    Args:
        vocab_size: The size of the vocabulary at most, at least 260 (256 bytes and the special tokens).
        hidden_size: The width, a multiple of `heads`.
        layers: The number of layers.
        heads: The number of attention heads; half as many key-value heads if that is a whole number.
        seed: Seeds the weights; the global random state is left as it was.
        texts: What the tokenizer learns its merges from; some sentences of its own when empty.
        max_positions: The longest context.
        dtype: The dtype of the weights.

    Raises:
        ValueError: A size is impossible.
    """
    if hidden_size % heads:
        raise ValueError(f"hidden_size {hidden_size} is not a multiple of heads {heads}")
    tokenizer = scratch_tokenizer(vocab_size=vocab_size, texts=texts)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2 if heads % 2 == 0 else heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    torch.nn.Module.train(torch.nn.Module.to(model, dtype), mode=False)
    return Policy(model, tokenizer, name=f"scratch-{hidden_size}x{layers}-seed{seed}")


def scratch_tokenizer(*, vocab_size: int = 512, texts: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the special tokens of ChatML and a ChatML template.

    Args:
        vocab_size: The size of the vocabulary at most, at least 260.
        texts: What it learns its merges from; some sentences of its own when empty.

    Raises:
        ValueError: `vocab_size` is too small.
    """
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    if vocab_size < 256 + len(special) + 1:
        raise ValueError(f"vocab_size is {vocab_size}; 256 bytes and the special tokens need at least 260")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(list(texts) or _TEXTS, trainer)
    roles = dict(zip(("pad_token", "bos_token", "eos_token"), special, strict=True))
    make: Any = PreTrainedTokenizerFast
    tokenizer: PreTrainedTokenizerFast = make(tokenizer_object=bpe, **roles)
    tokenizer.chat_template = CHATML
    return tokenizer
