"""Log-probabilities of given tokens from hidden states, without ever holding all logits."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from multiturn.models.autocast import computed_in

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HeadShape", "chunk_rows", "token_logps"]

CHUNK_ELEMENTS: Final = 2**25
"""Logits of a chunk, at most: 128 MiB in float32. While it is computed, a few times as much is held."""


@dataclasses.dataclass(frozen=True, slots=True)
class HeadShape:
    """What a model does to its logits after the output head's matrix product.

    Attributes:
        scale: They are multiplied with this first.
        softcap: They are then squeezed into ``(-softcap, softcap)`` by a tanh; None leaves them.
    """

    scale: float = 1.0
    softcap: float | None = None

    def apply(self, logits: Tensor) -> Tensor:
        """The model's logits, given the matrix product's."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def backward(self, grad: Tensor, logits: Tensor) -> Tensor:
        """The gradient of the matrix product, given that of the model's `logits`."""
        if self.softcap is not None:
            grad = grad * (1.0 - (logits / self.softcap) ** 2)
        return grad * self.scale if self.scale != 1.0 else grad


def chunk_rows(vocabulary: int) -> int:
    """How many rows of logits are computed at once."""
    return max(32, CHUNK_ELEMENTS // vocabulary)


def token_logps(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    shape: HeadShape,
    rows: int,
    kept: int | None = None,
) -> Tensor:
    """The log-probability of each target given the hidden state that predicts it, differentiable.

    Logits exist for `rows` predictions at a time; in the backward pass they are computed once more, unless
    there are so few that they are kept. Under autocast the matrix products are in its dtype, and the softmax
    is in float32 at least.

    Args:
        hidden: ``[U, D]``.
        weight: ``[V, D]``, the output head's.
        bias: ``[V]`` or None.
        targets: ``[U]`` int64 token ids.
        shape: What happens to logits after the head.
        rows: Rows of logits at once, at least 1.
        kept: Rows of logits that may be kept for the backward pass, at most `rows`; None for as many.

    Returns:
        ``[U]`` nats, float32 (float64 for float64 inputs).
    """
    compute = computed_in(weight)
    if _cuts(hidden, bias, shape, compute):
        return _cut_cross_entropy(hidden.to(compute), weight.to(compute), targets, shape)
    score: Any = _TokenLogps.apply
    keeps = len(targets) <= (rows if kept is None else min(rows, kept))
    result: Tensor = score(hidden, weight, bias, targets, _Plan(shape, rows, compute, keeps))
    return result


class _Plan(NamedTuple):
    """How to go about it.

    Attributes:
        shape: What the head does after its product.
        rows: Rows of logits at once.
        compute: The dtype of the product.
        keeps: Whether the logits, of one chunk then, are kept for the backward pass.
    """

    shape: HeadShape
    rows: int
    compute: torch.dtype
    keeps: bool


class _TokenLogps(torch.autograd.Function):
    """Chunk by chunk; kept for the backward pass are the log-sum-exp of each row and a chunk that is all."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, plan: _Plan
    ) -> Tensor:
        ctx.plan = plan
        shape, rows, compute, keeps = plan
        wide = torch.promote_types(compute, torch.float32)
        lse = torch.empty(len(targets), dtype=wide, device=hidden.device)
        chosen = torch.empty_like(lse)
        kept: Tensor | None = None
        with torch.autocast(hidden.device.type, enabled=False):
            head = _cast(weight, compute), _cast(bias, compute)
            for chunk in _chunks(len(targets), rows):
                logits = shape.apply(functional.linear(hidden[chunk].to(compute), *head).to(wide))
                lse[chunk] = logits.logsumexp(-1)
                chosen[chunk] = logits.gather(-1, targets[chunk, None]).squeeze(-1)
                kept = logits if keeps else None
                del logits  # before those of the next chunk come
        ctx.save_for_backward(hidden, weight, bias, targets, lse, kept)
        return chosen - lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, lse, kept = ctx.saved_tensors
        shape, rows, compute, _ = ctx.plan
        needs = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if needs[0] else None
        grad_weight = torch.zeros(weight.shape, dtype=lse.dtype, device=weight.device) if needs[1] else None
        grad_bias = torch.zeros(bias.shape, dtype=lse.dtype, device=bias.device) if needs[2] else None
        head = _cast(weight, compute), _cast(bias, compute)
        with torch.autocast(hidden.device.type, enabled=False):
            for chunk in _chunks(len(targets), rows):
                states = hidden[chunk].to(compute)
                logits = shape.apply(functional.linear(states, *head).to(lse.dtype)) if kept is None else kept
                # d logp / d logits: one for the target, minus the softmax.
                slope = (logits - lse[chunk, None]).exp_().mul_(-grad[chunk, None])
                slope.scatter_add_(-1, targets[chunk, None], grad[chunk, None])
                slope = shape.backward(slope, logits).to(compute)
                del logits
                if grad_hidden is not None:
                    grad_hidden[chunk] = (slope @ head[0]).to(hidden.dtype)
                if grad_weight is not None:
                    grad_weight += slope.T @ states
                if grad_bias is not None:
                    grad_bias += slope.sum(0)
                del slope
        return (
            grad_hidden,
            _cast(grad_weight, weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
        )


def _chunks(count: int, rows: int) -> Iterator[slice]:
    return (slice(start, min(start + rows, count)) for start in range(0, count, rows))


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Any:
    return None if tensor is None else tensor.to(dtype)


def _cuts(hidden: Tensor, bias: Tensor | None, shape: HeadShape, compute: torch.dtype) -> bool:
    """Whether Cut Cross Entropy is installed and knows a head like this one."""
    half = compute in (torch.bfloat16, torch.float16)
    return hidden.is_cuda and half and bias is None and shape.scale == 1.0 and _has_cut_cross_entropy()


@functools.cache
def _has_cut_cross_entropy() -> bool:
    return importlib.util.find_spec("cut_cross_entropy") is not None


def _cut_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, shape: HeadShape) -> Tensor:
    """The same by a Triton kernel; no gradient is filtered away, so it is as exact as its dtype."""
    from cut_cross_entropy import linear_cross_entropy

    losses: Tensor = linear_cross_entropy(
        hidden, weight, targets, softcap=shape.softcap, reduction="none", filter_eps=None
    )
    return -losses.to(torch.float32)
