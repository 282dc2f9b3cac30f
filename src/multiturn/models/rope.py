"""Rotary positions that depend on the length of a conversation, in passes that hold several.

Two kinds of rotary embedding of transformers turn all positions of a pass by its longest conversation.
``longrope`` (Phi-3, Phi-4-mini) has other frequencies for all tokens of a conversation that is longer than
what it was first trained with, and ``dynamic`` stretches them ever further with each longer conversation that
it meets. What a conversation is worth then depends on its company; up to that length it does not.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import torch

from multiturn.errors import LayoutError
from multiturn.models.wrapped import bare_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

__all__ = ["each_by_its_length", "length_limit", "require_length"]

_LONGROPE = "longrope"


def length_limit(model: nn.Module) -> int | None:
    """The longest conversation, in tokens, whose positions are turned without a look at its length.

    Args:
        model: A causal language model, possibly wrapped.

    Returns:
        The limit; None where lengths never matter.
    """
    return min((_limit(module) for module in _rotations(model)), default=None)


def require_length(model: nn.Module, longest: int) -> None:
    """Check that a model gives a conversation of `longest` tokens one value, whatever it met before.

    Raises:
        LayoutError: Its rotary embedding stretches with the longest conversation it has ever met.
    """
    for module in _rotations(model):
        limit = _limit(module)
        if longest > limit and _kinds(module.rope_type) != {_LONGROPE}:
            raise LayoutError(
                f"a conversation has {longest} tokens, and beyond {limit} the positions of this model "
                f"(rope_type 'dynamic') depend on what it computed before; set max_length to {limit}, "
                "or give the model's config another rope_type, such as yarn"
            )


@contextlib.contextmanager
def each_by_its_length(model: nn.Module, long: Tensor) -> Iterator[None]:
    """Let a model turn the positions of each conversation by that one's length.

    Args:
        model: A causal language model, possibly wrapped.
        long: Whether what stands at a place belongs to a conversation beyond the model's `length_limit`;
            bool, of a shape that broadcasts with the pass's position ids ``[B, L]``.
    """
    rotations = _rotations(model) if bool(long.any()) else []  # all short: what the model does anyway
    with contextlib.ExitStack() as stack:
        for module in rotations:
            stack.callback(_put_back, module, vars(module).get("forward"))  # what hooks have put there
            module.forward = functools.partial(_forward, module.forward, _limit(module), long)
        yield


def _put_back(module: Any, own: object) -> None:
    """Give a module the forward that it had: one of the instance, or its class's."""
    del module.forward
    if own is not None:
        module.forward = own


def _forward(
    own: Callable[..., tuple[Tensor, Tensor]],
    limit: int,
    long: Tensor,
    hidden: Tensor,
    position_ids: Tensor,
    *arguments: Any,
    **options: Any,
) -> tuple[Tensor, ...]:
    """Cosines and sines ``[B, L, D]``: what a rotary embedding gives long and short conversations, merged."""
    # A pass is long for the embedding if any position is: one more is put at the end, or all are cut below.
    # What is cut so is padding, since a short conversation has no position beyond the limit.
    beyond = torch.full_like(position_ids[:, :1], limit)
    long_turns = own(hidden, torch.cat([position_ids, beyond], dim=1), *arguments, **options)
    short_turns = own(hidden, position_ids.clamp(max=limit - 1), *arguments, **options)
    return tuple(
        torch.where(long.unsqueeze(-1), turns[:, :-1], others)
        for turns, others in zip(long_turns, short_turns, strict=True)
    )


def _rotations(model: nn.Module) -> list[Any]:
    """The rotary embeddings that look at lengths."""
    config: Any = getattr(bare_model(model), "config", None)
    parameters = getattr(config and config.get_text_config(), "rope_parameters", None) or {}
    each = parameters.values() if "rope_type" not in parameters else [parameters]
    if not any(_kinds(own.get("rope_type")) for own in each if isinstance(own, dict)):
        return []  # to look at every module takes milliseconds
    return [module for module in model.modules() if _kinds(getattr(module, "rope_type", None))]


def _kinds(rope_type: object) -> set[str]:
    """Of the kinds of a rotary embedding, one or one for each kind of layer, those that look at lengths."""
    kinds = rope_type.values() if isinstance(rope_type, dict) else [rope_type]
    return {kind for kind in kinds if isinstance(kind, str) and (kind == _LONGROPE or "dynamic" in kind)}


def _limit(module: Any) -> int:
    parameters = module.config.rope_parameters
    each = parameters.values() if isinstance(module.rope_type, dict) else [parameters]
    limits = [
        own["original_max_position_embeddings"] for own in each if own and own["rope_type"] == _LONGROPE
    ]
    return int(min(limits, default=module.original_max_seq_len))
