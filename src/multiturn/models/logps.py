"""From a model and a batch of conversations to the log-probability of each turn."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, modeling_utils

from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from multiturn.tokens.layout import TokenBatch

__all__ = ["bare_model", "turn_logps"]


def turn_logps(model: nn.Module, batch: TokenBatch, *, max_turns: int | None = None) -> torch.Tensor:
    """The sum of the log-probabilities of each turn's tokens, differentiable.

    Only positions that predict a token of a turn meet the output head, through the model's own forward, so
    that whatever the model does to its logits (soft-capping, scaling) is part of the result. The softmax is
    taken in float32 at least, also under bf16 autocast.

    Args:
        model: A causal language model; wrappers (PEFT, DDP, compiled) are welcome.
        batch: The conversations, on the model's device.
        max_turns: The number of columns of the result; by default the largest number of turns in the batch.

    Returns:
        The sums in nats, ``[B, max_turns]`` float32 (float64 for a float64 model); exactly 0 where a row has
        no such turn.

    Raises:
        ValueError: A row has more turns than `max_turns`.
        ConfigError: The model is tuned by virtual tokens, which shift every position.
    """
    most = int(batch.num_turns.max())
    columns = most if max_turns is None else max_turns
    if columns < most:
        raise ValueError(f"max_turns is {columns}, but a conversation of the batch has {most} turns")
    # The token at position p is predicted at position p - 1.
    next_turns = batch.turns[:, 1:]
    predicts = torch.zeros_like(batch.turns, dtype=torch.bool)
    predicts[:, :-1] = next_turns >= 0
    rows, positions = predicts.nonzero(as_tuple=True)
    logits = _scored_logits(model, batch, predicts)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = batch.input_ids[rows, positions + 1]
    token_logps = -nn.functional.cross_entropy(logits, targets, reduction="none")
    sums = token_logps.new_zeros(batch.turns.shape[0] * columns)
    return sums.index_add(0, rows * columns + next_turns[rows, positions], token_logps).view(-1, columns)


def bare_model(model: nn.Module) -> nn.Module:
    """The Hugging Face model inside wrappers such as DDP, `torch.compile` and PEFT."""
    while not isinstance(model, PreTrainedModel):
        if isinstance(model, PeftModel):
            inner: object = model.get_base_model()
        else:  # DDP and DeepSpeed call it `module`, torch.compile `_orig_mod`.
            inner = getattr(model, "module", None) or getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
    return model


def _scored_logits(model: nn.Module, batch: TokenBatch, predicts: torch.Tensor) -> torch.Tensor:
    """The logits ``[N, V]`` at the N places where `predicts` is true, row by row."""
    _refuse_virtual_tokens(model)
    inputs: dict[str, Any] = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "use_cache": False,
    }
    bare = bare_model(model)
    if _takes_mask(bare):
        return _logits(model(**inputs, logits_to_keep=predicts))
    if "logits_to_keep" not in inspect.signature(type(bare).forward).parameters:
        return _logits(model(**inputs))[predicts]
    # A position that any row needs is computed for all rows.
    union = predicts.any(dim=0).nonzero().squeeze(1)
    return _logits(model(**inputs, logits_to_keep=union))[predicts[:, union]]


def _logits(output: Any) -> torch.Tensor:
    logits: torch.Tensor = output.logits
    return logits


def _takes_mask(bare: nn.Module) -> bool:
    """Whether `logits_to_keep` may be a ``[B, L]`` boolean mask, as in newer versions of transformers."""
    forward = inspect.unwrap(type(bare).forward)
    return "slice_logits_to_keep" in forward.__code__.co_names and _slices_by_mask()


@functools.cache
def _slices_by_mask() -> bool:
    slice_logits = getattr(modeling_utils, "slice_logits_to_keep", None)
    if slice_logits is None:
        return False
    mask = torch.tensor([[True, False], [True, True]])
    try:
        return tuple(slice_logits(torch.zeros(2, 2, 1), mask).shape) == (3, 1)
    except (RuntimeError, IndexError, TypeError):
        return False


def _refuse_virtual_tokens(model: nn.Module) -> None:
    adapters = [module for module in (model, getattr(model, "module", None)) if isinstance(module, PeftModel)]
    if any(config.is_prompt_learning for peft in adapters for config in peft.peft_config.values()):
        raise ConfigError(
            "prompt and prefix tuning put virtual tokens before the conversation, which shifts the turns; "
            "use LoRA or another adapter that changes weights"
        )
