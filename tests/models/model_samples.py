"""Tiny random models of several architectures, and conversations as token ids."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from multiturn.tokens.rendered import Rendered

VOCABULARY = 61
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}


def llama() -> PreTrainedModel:
    return _random(LlamaForCausalLM, LlamaConfig(**_SIZES, tie_word_embeddings=True))


def qwen2() -> PreTrainedModel:
    sizes = {key: value for key, value in _SIZES.items() if key != "head_dim"}
    return _random(Qwen2ForCausalLM, Qwen2Config(**sizes))


def gemma2() -> PreTrainedModel:
    """Its logits are soft-capped; a low cap makes it show."""
    return _random(Gemma2ForCausalLM, Gemma2Config(**_SIZES, final_logit_softcapping=1.5, sliding_window=4))


def gemma3() -> PreTrainedModel:
    """Soft-capped, with layers of full and of sliding attention."""
    layers = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(**_SIZES, final_logit_softcapping=1.5, sliding_window=4, layer_types=layers)
    return _random(Gemma3ForCausalLM, config)


def gpt2() -> PreTrainedModel:
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=128,
        n_embd=16,
        n_layer=2,
        n_head=2,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _random(GPT2LMHeadModel, config)


MODELS = {"llama": llama, "qwen2": qwen2, "gemma2": gemma2, "gemma3": gemma3, "gpt2": gpt2}


def _random(kind: Any, config: Any) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = kind(config).double().eval()
    assert isinstance(model, PreTrainedModel)
    return model


def adapted(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """The model with a new adapter."""
    with warnings.catch_warnings():
        # PEFT asks transformers for a name that transformers is about to drop.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        torch.manual_seed(0)
        wrapped = get_peft_model(model, config)
    assert isinstance(wrapped, PeftModel)
    return wrapped


def conversation(*turns: int, seed: int, prompt: int = 3, observation: int = 2) -> Rendered:
    """A prompt, then turns of the given numbers of tokens with observations between them; 0 often occurs."""
    generator = torch.Generator().manual_seed(seed)
    belongs = [-1] * prompt
    for turn, length in enumerate(turns):
        belongs += [turn] * length + [-1] * observation
    ids = torch.randint(0, VOCABULARY, (len(belongs),), generator=generator) * (
        torch.rand(len(belongs), generator=generator) > 0.2
    )
    return Rendered(token_ids=tuple(ids.tolist()), turns=tuple(belongs), num_turns=len(turns))


def conversations() -> list[Rendered]:
    return [
        conversation(3, 1, 4, seed=1),
        conversation(2, seed=2, prompt=7),
        conversation(1, 5, seed=3, prompt=1, observation=0),
        conversation(6, 2, 1, 1, seed=4, observation=3),
    ]


def single(model: PreTrainedModel) -> PreTrainedModel:
    """The model in float32."""
    torch.nn.Module.float(model)
    return model
