"""Tiny random models of several architectures, and conversations as token ids."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
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


def qwen3() -> PreTrainedModel:
    return _random(Qwen3ForCausalLM, Qwen3Config(**_SIZES))


def mistral() -> PreTrainedModel:
    """Every layer sees the last five tokens only."""
    return _random(MistralForCausalLM, MistralConfig(**_SIZES, sliding_window=5))


def granite() -> PreTrainedModel:
    """It divides its logits, and scales its attention, embeddings and residuals."""
    scales: dict[str, Any] = {"logits_scaling": 3.0, "attention_multiplier": 0.2, "embedding_multiplier": 2.0}
    return _random(GraniteForCausalLM, GraniteConfig(**_SIZES, **scales, residual_multiplier=0.5))


def cohere() -> PreTrainedModel:
    """It multiplies its logits."""
    sizes = {key: value for key, value in _SIZES.items() if key != "head_dim"}
    return _random(CohereForCausalLM, CohereConfig(**sizes, logit_scale=0.4))


def phi() -> PreTrainedModel:
    """Its output head has a bias."""
    sizes = {key: value for key, value in _SIZES.items() if key != "head_dim"}
    return _random(PhiForCausalLM, PhiConfig(**sizes))


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
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return _random(GPT2LMHeadModel, config)


def phi3_longrope(limit: int = 12) -> PreTrainedModel:
    """All positions of a conversation of more than `limit` tokens turn in another way."""
    sizes = {key: value for key, value in _SIZES.items() if key != "head_dim"}
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.0, 2.0, 5.0, 9.0],
        "original_max_position_embeddings": limit,
        "factor": 128 / limit,
    }
    sizes |= {"bos_token_id": 0, "eos_token_id": 0}
    config = Phi3Config(**sizes, original_max_position_embeddings=limit, rope_parameters=rope)
    return _random(Phi3ForCausalLM, config)


def llama_dynamic(limit: int = 12) -> PreTrainedModel:
    """Beyond `limit` tokens all positions turn by the longest conversation of all."""
    sizes = _SIZES | {"max_position_embeddings": limit}
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
    return _random(LlamaForCausalLM, LlamaConfig(**sizes, rope_parameters=rope))


MODELS = {
    "llama": llama,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "mistral": mistral,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "granite": granite,
    "cohere": cohere,
    "phi": phi,
    "gpt2": gpt2,
}
PACKABLE = [name for name in MODELS if name != "gemma2"]
"""Models that take packed forests; Gemma 2 caps its attention scores."""


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


def plainly(model: torch.nn.Module, rows: list[Rendered], turns: int) -> torch.Tensor:
    """One conversation at a time, all logits, one token after the other."""
    sums = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row.token_ids]), use_cache=False).logits[0]
        token_logps = torch.log_softmax(logits, dim=-1)
        row_sums = [torch.zeros((), dtype=logits.dtype) for _ in range(turns)]
        for position, turn in enumerate(row.turns):
            if turn >= 0:
                row_sums[turn] = row_sums[turn] + token_logps[position - 1, row.token_ids[position]]
        sums.append(torch.stack(row_sums))
    return torch.stack(sums)


def gradients(model: torch.nn.Module, sums: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a loss that weighs every turn of every row differently."""
    weights = torch.linspace(0.3, 1.7, sums.numel(), dtype=sums.dtype).view_as(sums)
    model.zero_grad()
    torch.autograd.backward((weights * sums).sum())
    return {
        name: p.grad.clone() if p.grad is not None else torch.zeros_like(p)
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def checkpoint(model: Any) -> None:
    """Under the name that this version of transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
