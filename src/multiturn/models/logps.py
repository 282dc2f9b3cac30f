"""From a model and a batch of conversations to the log-probability of each turn."""

from __future__ import annotations

import contextlib
import functools
import inspect
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import modeling_utils

from multiturn.errors import ConfigError, LayoutError
from multiturn.models.attention import ForestPass, forest_inputs, runs_forests
from multiturn.models.head import fused_obstacle, fused_token_logps
from multiturn.models.rope import each_by_its_length, length_limit, require_length
from multiturn.models.wrapped import bare_model, wrappers
from multiturn.tokens.padded import PaddedBatch

if TYPE_CHECKING:
    from multiturn.tokens.layout import PackedForest

__all__ = ["Head", "turn_logps"]

Head: TypeAlias = Literal["auto", "fused", "logits"]
"""How tokens are scored: never holding all logits, by the model's own logits, or the first if possible."""


def turn_logps(
    model: nn.Module,
    batch: PaddedBatch | PackedForest,
    *,
    max_turns: int | None = None,
    head: Head = "auto",
    passes: int = 1,
) -> Tensor:
    """The sum of the log-probabilities of each turn's tokens, differentiable.

    Only positions that predict a token of a turn meet the output head, in chunks of rows, and what a model
    does to its logits (soft-capping, scaling) is part of the result. The softmax is taken in float32 at
    least, also under bf16 autocast.

    Args:
        model: A causal language model; wrappers (PEFT, DDP, compiled) are welcome.
        batch: The conversations, on the model's device: padded rows, or a packed forest for a model inside
            `multiturn.models.forest_attention`.
        max_turns: The number of columns of the result; by default the largest number of turns in the batch.
        head: ``"fused"`` never holds the logits of more than a chunk; ``"logits"`` lets the model make all
            that it needs at once; ``"auto"`` is the first for models that allow it.
        passes: Forward passes that are made before the backward pass of all of them: the logits that are kept
            for it are bounded for all together.

    Returns:
        The sums in nats, ``[S, max_turns]`` float32 (float64 for a float64 model); exactly 0 where a
        conversation has no such turn.

    Raises:
        ValueError: A conversation has more turns than `max_turns`.
        ConfigError: The model is tuned by virtual tokens, which shift every position.
        LayoutError: The model cannot take this layout, or cannot be scored by this head, or it has no one
            value for a conversation of this length.
    """
    most = int(batch.num_turns.max())
    columns = most if max_turns is None else max_turns
    if columns < most:
        raise ValueError(f"max_turns is {columns}, but a conversation of the batch has {most} turns")
    _refuse_virtual_tokens(model)
    fused, limit = _is_fused(model, head), length_limit(model)
    with contextlib.nullcontext() if limit is None else _within_or_by_length(model, batch, limit):
        scored = _padded(batch) if isinstance(batch, PaddedBatch) else _packed(model, batch)
        if fused:
            logps = fused_token_logps(model, scored.inputs, scored.sources, scored.targets, passes=passes)
        else:
            logits = _scored_logits(model, scored)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            logps = -nn.functional.cross_entropy(logits, scored.targets, reduction="none")
    if scored.forest_pass is not None:
        scored.forest_pass.require_every_layer(model)
        logps = logps.index_select(0, scored.forest_pass.forest.scored)
    sums = logps.new_zeros(len(batch.num_turns) * columns)
    return sums.index_add(0, scored.rows * columns + scored.turns, logps).view(-1, columns)


class _Scored(NamedTuple):
    """A batch as a model's inputs, what is scored in it, and where the scores belong.

    Attributes:
        inputs: What the model's forward is called with.
        sources: ``[U]`` int64, places in the flattened inputs whose hidden states predict.
        targets: ``[U]`` int64, the token ids that they predict.
        rows: ``[M]`` int64, the conversation of each scored token.
        turns: ``[M]`` int64, its turn.
        forest_pass: The forest, whose `scored` leads from the M scored tokens to the U predictions; without
            one they are the same.
    """

    inputs: dict[str, Any]
    sources: Tensor
    targets: Tensor
    rows: Tensor
    turns: Tensor
    forest_pass: ForestPass | None


def _within_or_by_length(
    model: nn.Module, batch: PaddedBatch | PackedForest, limit: int
) -> contextlib.AbstractContextManager[None]:
    """Rows turned each by its length; a forest, which cannot be, has to stay within the limit."""
    if isinstance(batch, PaddedBatch):
        lengths = batch.attention_mask.sum(dim=1, keepdim=True)
        require_length(model, int(lengths.max()))
        return each_by_its_length(model, lengths > limit)
    if batch.depth > limit:
        require_length(model, batch.depth)
        raise LayoutError(
            f"a packed conversation has {batch.depth} tokens, and beyond {limit} this model turns the "
            "positions of a whole pass in another way; set `layout: padded`"
        )
    return contextlib.nullcontext()


def _packed(model: nn.Module, forest: PackedForest) -> _Scored:
    if not runs_forests(model):
        raise LayoutError("a packed forest needs the model inside `multiturn.models.forest_attention(model)`")
    inputs, forest_pass = forest_inputs(forest)
    return _Scored(inputs, forest.sources, forest.targets, forest.rows, forest.turns, forest_pass)


def _padded(batch: PaddedBatch) -> _Scored:
    # The token at position p is predicted at position p - 1.
    rows, before = (batch.turns[:, 1:] >= 0).nonzero(as_tuple=True)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    return _Scored(
        inputs,
        sources=rows * batch.input_ids.shape[1] + before,
        targets=batch.input_ids[rows, before + 1],
        rows=rows,
        turns=batch.turns[rows, before + 1],
        forest_pass=None,
    )


def _is_fused(model: nn.Module, head: Head) -> bool:
    if head == "logits":
        return False
    obstacle = fused_obstacle(model)
    if head == "fused" and obstacle is not None:
        raise LayoutError(
            f"{type(bare_model(model)).__name__} cannot be scored by head 'fused': {obstacle}; set "
            "`head: logits`"
        )
    return obstacle is None


def _scored_logits(model: nn.Module, scored: _Scored) -> Tensor:
    """The logits ``[U, V]`` that predict the targets, by the model's own forward."""
    shape = scored.inputs["input_ids"].shape
    predicts = torch.zeros(shape, dtype=torch.bool, device=scored.sources.device).view(-1)
    predicts[scored.sources] = True
    # A place may predict several tokens; the model computes it once.
    index = (predicts.cumsum(0) - 1)[scored.sources]
    predicts = predicts.view(shape)
    bare = bare_model(model)
    if _takes_mask(bare):
        return _logits(model(**scored.inputs, logits_to_keep=predicts))[index]
    if "logits_to_keep" not in inspect.signature(type(bare).forward).parameters:
        return _logits(model(**scored.inputs)).flatten(0, 1)[scored.sources]
    # A position that any row needs is computed for all rows.
    union = predicts.any(dim=0).nonzero().squeeze(1)
    return _logits(model(**scored.inputs, logits_to_keep=union))[predicts[:, union]][index]


def _logits(output: Any) -> Tensor:
    logits: Tensor = output.logits
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
    adapters = [module for module in wrappers(model) if isinstance(module, PeftModel)]
    if any(config.is_prompt_learning for peft in adapters for config in peft.peft_config.values()):
        raise ConfigError(
            "prompt and prefix tuning put virtual tokens before the conversation, which shifts the turns; "
            "use LoRA or another adapter that changes weights"
        )
