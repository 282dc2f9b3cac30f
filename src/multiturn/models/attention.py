"""Running a Hugging Face decoder on a packed forest, through transformers' own attention interface."""

from __future__ import annotations

import contextlib
import functools
import inspect
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from multiturn.errors import LayoutError
from multiturn.models.cascade import cascade_attention
from multiturn.models.grouped import Group, grouped_attention, groups_of, takes_groups
from multiturn.models.rope import length_limit
from multiturn.models.wrapped import bare_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiturn.tokens.layout import PackedForest, Segment

__all__ = ["FOREST_ATTENTION", "ForestPass", "forest_attention", "forest_inputs", "runs_forests"]

FOREST_ATTENTION: Final = "multiturn_forest"
"""The name of the attention function in transformers' interface."""

_LAYERS: Final = frozenset({"full_attention", "sliding_attention"})
_UNSUPPORTED: Final = ("softcap", "s_aux", "position_bias")
"""What an attention layer may hand over that changes its scores in ways that are not known here."""


class ForestPass:
    """A forest on its way through a model; counts the layers that attended by it.

    Attributes:
        forest: The layout.
        layers: How many attention layers have used it.
    """

    def __init__(self, forest: PackedForest) -> None:
        self.forest = forest
        self.layers = 0

    @functools.cached_property
    def groups(self) -> tuple[Group, ...]:
        """The kernel calls of attention over the forest, for GPUs."""
        return groups_of(self.forest, self.forest.input_ids.device)

    def require_every_layer(self, model: nn.Module) -> None:
        """Check after a forward pass that every layer of the model attended by the forest.

        Raises:
            LayoutError: A layer mixed tokens in another way, so what it computed is wrong.
        """
        expected = _num_layers(model)
        if self.layers < expected:
            raise LayoutError(
                f"{type(bare_model(model)).__name__} has {expected} layers, and {self.layers} of them "
                "attended by the layout; the others see tokens of other conversations. Set `layout: padded`"
            )


@contextlib.contextmanager
def forest_attention(model: nn.Module, *, training: bool | None = None, longest: int = 0) -> Iterator[None]:
    """Let a model take packed forests for a while; padded batches still go through it, by SDPA.

    The backward pass belongs inside as well: with gradient checkpointing it runs the layers again.

    Args:
        model: A causal language model, possibly wrapped.
        training: Whether it will run with dropout; None asks the model itself.
        longest: The tokens of the longest conversation that it will see; 0 where that is not known.

    Raises:
        LayoutError: The model cannot take forests; the message says why.
    """
    reason = _obstacle(model, training=training, longest=longest)
    if reason is not None:
        raise LayoutError(f"{type(bare_model(model)).__name__} cannot take packed forests: {reason}")
    bare: Any = bare_model(model)
    before = bare.config._attn_implementation
    if before == FOREST_ATTENTION:
        yield
        return
    bare.set_attn_implementation(FOREST_ATTENTION)
    try:
        yield
    finally:
        bare.set_attn_implementation(before)


def runs_forests(model: nn.Module) -> bool:
    """Whether a model takes packed forests at the moment: it is inside `forest_attention`."""
    config: Any = bare_model(model).config
    return bool(config._attn_implementation == FOREST_ATTENTION)


def forest_inputs(forest: PackedForest) -> tuple[dict[str, Any], ForestPass]:
    """What a model's forward is called with, and the record of who used it."""
    forest_pass = ForestPass(forest)
    return {
        "input_ids": forest.input_ids.unsqueeze(0),
        "position_ids": forest.positions.unsqueeze(0),
        # Four dimensions keep transformers from making a mask of N x N; whoever reads it all the same gets
        # nothing but NaN, which no check overlooks.
        "attention_mask": torch.full((1, 1, 1, 1), torch.nan, device=forest.input_ids.device),
        # With a cache transformers takes restarting positions for something else.
        "use_cache": False,
        "forest": forest_pass,
    }, forest_pass


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    forest: ForestPass | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: SDPA, or the forest's attention where there is one."""
    if forest is None:
        attend: Any = sdpa_attention_forward
        result: tuple[Tensor, None] = attend(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return result
    unknown = [name for name in _UNSUPPORTED if options.get(name) is not None] + ["dropout"] * (dropout > 0)
    if unknown:
        raise LayoutError(f"packed forests have no attention with {', '.join(unknown)}; set `layout: padded`")
    if attention_mask is not None and attention_mask.numel() > 1:
        raise LayoutError("packed forests have no attention by a layer's own mask; set `layout: padded`")
    forest.layers += 1
    scale = float(query.shape[-1] ** -0.5 if scaling is None else scaling)
    layout = forest.forest
    whole = sliding_window is None or sliding_window >= layout.depth
    if whole and takes_groups(query, key, value):
        output = grouped_attention(query, key, value, forest.groups, scale=scale)
        return output.transpose(1, 2).contiguous(), None
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
    if whole:
        output = cascade_attention(query, key, value, layout, scale=scale)
    else:
        output = _windowed(query, key, value, layout, scale=scale, window=sliding_window or 1)
    return output.transpose(1, 2).contiguous(), None


def _windowed(
    query: Tensor, key: Tensor, value: Tensor, forest: PackedForest, *, scale: float, window: int
) -> Tensor:
    """Attention to the last `window` tokens of a path, itself included; at most twice that for a block."""
    outputs = []
    for segment in forest.segments:
        places = _path_places(forest, segment).to(query.device)
        for start in range(segment.start, segment.end, window):
            end = min(start + window, segment.end)
            depth = segment.depth + start - segment.start
            first = max(0, depth - window + 1)
            last = depth + end - start
            seen = places[first:last]
            distance = (
                torch.arange(depth, last, device=query.device)[:, None]
                - torch.arange(first, last, device=query.device)[None, :]
            )
            outputs.append(
                functional.scaled_dot_product_attention(
                    query[:, :, start:end],
                    key[:, :, seen],
                    value[:, :, seen],
                    attn_mask=(distance >= 0) & (distance < window),
                    scale=scale,
                )
            )
    return torch.cat(outputs, dim=2)


def _path_places(forest: PackedForest, segment: Segment) -> Tensor:
    """The places of a segment's tokens and of all their ancestors, in the order of their positions."""
    return torch.cat([torch.arange(above.start, above.end) for above in forest.path(segment)])


def _obstacle(model: nn.Module, *, training: bool | None, longest: int) -> str | None:
    """Why a model cannot take forests, as far as its configuration tells; None if it can."""
    bare: Any = bare_model(model)
    config = getattr(bare, "config", None)
    if config is None or not hasattr(bare, "set_attn_implementation"):
        return "it is no transformers model"
    text = config.get_text_config()
    other = sorted(set(getattr(text, "layer_types", None) or ()) - _LAYERS)
    if other:
        return f"it has layers of the kind {', '.join(other)}"
    if getattr(text, "attn_logit_softcapping", None):
        return "it caps its attention scores"
    if not (getattr(bare, "_supports_sdpa", False) and bare._can_set_attn_implementation()):
        return "its attention does not go through transformers' attention interface"
    if "position_ids" not in inspect.signature(type(bare).forward).parameters:
        return "it numbers the positions of its tokens itself"
    training = bare.training if training is None else training
    if training and any(getattr(text, name, 0.0) for name in ("attention_dropout", "attn_pdrop")):
        return "it has attention dropout; set its attention_dropout to 0"
    limit = length_limit(model)
    if limit is not None and longest > limit:
        return f"beyond {limit} tokens it turns the positions of a whole pass in another way"
    return None


def _num_layers(model: nn.Module) -> int:
    config: Any = bare_model(model).config
    return int(config.get_text_config().num_hidden_layers)


AttentionInterface.register(FOREST_ATTENTION, _attend)
AttentionMaskInterface.register(FOREST_ATTENTION, sdpa_mask)
