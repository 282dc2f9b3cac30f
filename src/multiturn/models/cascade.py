"""Exact causal attention over a forest of shared prefixes, without a mask.

A segment, its first child, that one's first child and so on follow each other directly in the layout: a
chain, which attends to itself causally. What branches off from a chain attends to the chain up to there as
well (no mask at all). Both are ordinary attentions that fused kernels know, over slices: nothing is gathered
or copied. The parts of a token's attention are put together by their log-sum-exps, and the fused backward
kernels, given the whole attention's output and log-sum-exp, yield each part's share of the gradient (M17).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from multiturn.models.autocast import computed_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiturn.tokens.layout import PackedForest

__all__ = ["FusedKernel", "Kernel", "PlainKernel", "cascade_attention", "kernel_for"]

_FUSED: Final = "_scaled_dot_product_flash_attention_for_cpu"


class Part(NamedTuple):
    """Queries and the keys that they see: all of them, or causally where both are the same segment."""

    queries: slice
    keys: slice
    causal: bool


class Kernel(Protocol):
    """One part of an attention; every tensor is ``[1, H, tokens, D]``, a log-sum-exp ``[1, H, tokens]``.

    Attributes:
        most_keys: Keys of a part at most; None for any number.
    """

    most_keys: int | None

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        """The output and the log-sum-exp of the scores (nats), float32 at least."""

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: Tensor,
        lse: Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of query, key and value; `output` and `lse` are those of the whole attention."""


class PlainKernel:
    """Matrix products and a softmax in float32 at least, on any device; holds a part's scores at once.

    Args:
        most_keys: Keys of a part at most: scores take memory for each of them and each token.
    """

    def __init__(self, most_keys: int = 512) -> None:
        self.most_keys: int | None = most_keys

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See `Kernel`."""
        scores = _scores(query, key, causal=causal, scale=scale)
        lse = scores.logsumexp(-1)
        return (scores - lse.unsqueeze(-1)).exp() @ value.to(scores.dtype), lse

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: Tensor,
        lse: Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Kernel`."""
        return _plain_backward(grad, query, key, value, output, lse, causal=causal, scale=scale)


class FusedKernel:
    """The flash attention that torch has for CPUs: float64, float32, bfloat16 and float16.

    Its backward pass works on large blocks however small the part, so small ones go by plain products, which
    were two to three times as fast.

    Args:
        small: Scores (queries times keys) of a small part at most.
    """

    most_keys: int | None = None

    def __init__(self, small: int = 2**16) -> None:
        self._small = small

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See `Kernel`."""
        attend: Any = getattr(torch.ops.aten, _FUSED)
        output, lse = attend(query, key, value, 0.0, causal, scale=scale)
        return output, lse

    def backward(
        self,
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        output: Tensor,
        lse: Tensor,
        *,
        causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Kernel`."""
        if query.shape[-2] * key.shape[-2] <= self._small:
            return _plain_backward(grad, query, key, value, output, lse, causal=causal, scale=scale)
        differentiate: Any = getattr(torch.ops.aten, f"{_FUSED}_backward")
        grads: tuple[Tensor, Tensor, Tensor] = differentiate(
            grad, query, key, value, output, lse, 0.0, causal, scale=scale
        )
        return grads


def kernel_for(query: Tensor) -> Kernel:
    """The fastest kernel here that attends piece by piece."""
    return FusedKernel() if query.device.type == "cpu" and hasattr(torch.ops.aten, _FUSED) else PlainKernel()


def cascade_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    forest: PackedForest,
    *,
    scale: float,
    kernel: Kernel | None = None,
) -> Tensor:
    """Every token's attention to its ancestors and itself (M17), differentiable.

    Args:
        query: ``[1, H, N, D]``.
        key: ``[1, H, N, D]``; heads that share keys are repeated.
        value: ``[1, H, N, E]``, likewise.
        forest: The layout of the N tokens.
        scale: What scores are multiplied with before the softmax.
        kernel: How a part is computed; None takes `kernel_for`.

    Returns:
        ``[1, H, N, E]`` in the dtype of `query`.
    """
    size = value.shape[-1]
    widest = max(size, query.shape[-1])
    query, key, value = (_as_kernels_take_it(tensor, widest) for tensor in (query, key, value))
    plan = _Plan(forest, scale, kernel_for(query) if kernel is None else kernel)
    dtype = computed_in(query)
    attend: Any = _Cascade.apply
    with torch.autocast(query.device.type, enabled=False):
        output: Tensor = attend(query.to(dtype), key.to(dtype), value.to(dtype), plan)
    return output[..., :size]


def _as_kernels_take_it(tensor: Tensor, size: int) -> Tensor:
    """Heads of one size (zeros change no score), each without gaps, which torch's kernel does not check."""
    if tensor.shape[-1] < size:
        return functional.pad(tensor, (0, size - tensor.shape[-1]))
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


class _Plan(NamedTuple):
    """What `cascade_attention` was told."""

    forest: PackedForest
    scale: float
    kernel: Kernel


def _parts(forest: PackedForest, most_keys: int | None) -> Iterator[Part]:
    """Every chain with itself, then what branches off from a chain with the chain up to there.

    A chain of too many keys is taken for several, each below the one before.
    """
    for chain in forest.chains:
        for first, last in _pieces(chain.start, chain.end, most_keys):
            yield Part(slice(first, last), slice(first, last), causal=True)
    for chain in forest.chains:
        for first, last in _pieces(chain.start, chain.end, most_keys):
            if last < chain.end:
                yield Part(slice(last, chain.end), slice(first, last), causal=False)
        for start, end, above in chain.branches():
            for first, last in _pieces(chain.start, above, most_keys):
                yield Part(slice(start, end), slice(first, last), causal=False)


def _pieces(start: int, end: int, most: int | None) -> Iterator[tuple[int, int]]:
    """A range cut into pieces of at most so many."""
    step = most or end - start
    for first in range(start, end, step):
        yield first, min(end, first + step)


class _Cascade(torch.autograd.Function):
    """The parts, merged; sums over parts are kept in float32 at least."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: _Plan) -> Tensor:
        wide = torch.promote_types(query.dtype, torch.float32)
        output = torch.empty(query.shape, dtype=wide, device=query.device)
        lse = torch.empty(query.shape[:3], dtype=wide, device=query.device)
        for queries, keys, causal in _parts(plan.forest, plan.kernel.most_keys):
            part, part_lse = plan.kernel.forward(
                query[:, :, queries], key[:, :, keys], value[:, :, keys], causal=causal, scale=plan.scale
            )
            if causal:
                output[:, :, queries], lse[:, :, queries] = part, part_lse
                continue
            before = lse[:, :, queries]
            merged = torch.logaddexp(before, part_lse)
            output[:, :, queries] *= (before - merged).exp().unsqueeze(-1)
            output[:, :, queries] += part * (part_lse - merged).exp().unsqueeze(-1)
            lse[:, :, queries] = merged
        result = output.to(query.dtype)
        ctx.save_for_backward(query, key, value, result, lse)
        ctx.plan = plan
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, lse = ctx.saved_tensors
        sums = [torch.zeros(t.shape, dtype=lse.dtype, device=t.device) for t in (query, key, value)]
        for queries, keys, causal in _parts(ctx.plan.forest, ctx.plan.kernel.most_keys):
            places = (queries, keys, keys)
            with torch.autocast(query.device.type, enabled=False):
                shares = ctx.plan.kernel.backward(
                    grad[:, :, queries],
                    query[:, :, queries],
                    key[:, :, keys],
                    value[:, :, keys],
                    output[:, :, queries],
                    lse[:, :, queries],
                    causal=causal,
                    scale=ctx.plan.scale,
                )
            for total, place, share in zip(sums, places, shares, strict=True):
                total[:, :, place] += share
        grads = [total.to(t.dtype) for total, t in zip(sums, (query, key, value), strict=True)]
        return (*grads, None)


def _plain_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    *,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`Kernel.backward` with all scores at once, in float32 at least; other products as the inputs are."""
    narrow = query.dtype
    weights = _scores(query, key, causal=causal, scale=scale).sub_(lse.unsqueeze(-1)).exp_()
    wide = weights.dtype
    wide_grad = grad.to(wide)
    grad_scores = wide_grad @ value.to(wide).transpose(-1, -2)
    grad_scores.sub_((wide_grad * output).sum(-1, keepdim=True)).mul_(weights).mul_(scale)
    weights, grad_scores = weights.to(narrow), grad_scores.to(narrow)
    return (
        grad_scores @ key,
        grad_scores.transpose(-1, -2) @ query,
        weights.transpose(-1, -2) @ grad,
    )


def _scores(query: Tensor, key: Tensor, *, causal: bool, scale: float) -> Tensor:
    """Scaled scores ``[1, H, queries, keys]``, float32 at least; minus infinity where a key is not seen."""
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = query.to(wide) @ key.to(wide).transpose(-1, -2) * scale
    if not causal:
        return scores
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    return scores.masked_fill(~seen, -torch.inf)
