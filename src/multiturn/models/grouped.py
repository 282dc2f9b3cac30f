"""Attention over a forest in as few kernel launches as it has levels, for GPUs.

The parts are those of `multiturn.models.cascade` (M17). Here all chains, each with itself, are one call of a
kernel for sequences of varying lengths, and all that branches off from the chains of one level, with those
chains, another: on a GPU a hundred small launches would cost more than they compute.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from multiturn.models.autocast import computed_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.tokens.layout import PackedForest

__all__ = ["FlashKernel", "Group", "GroupKernel", "grouped_attention", "groups_of", "takes_groups"]

_LARGEST_HEAD: Final = 256

Range = tuple[int, int]
"""A first place, and the one after the last."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parts of an attention that one kernel call computes, on the kernel's device.

    Attributes:
        queries: ``[Q]`` int64, the places of the queries, part after part; None for all places in order.
        keys: ``[K]`` int64, the places of the keys, likewise; a place may be a key of several parts.
        query_ends: ``[parts + 1]`` int32, where the queries of each part begin, and the end.
        key_ends: ``[parts + 1]`` int32, the same for the keys.
        most_queries: Queries of the largest part.
        most_keys: Keys of the largest part.
        causal: Whether a query sees the keys up to itself only; queries and keys are the same places then.
    """

    queries: Tensor | None
    keys: Tensor | None
    query_ends: Tensor
    key_ends: Tensor
    most_queries: int
    most_keys: int
    causal: bool


class GroupKernel(Protocol):
    """Several attentions at once: queries ``[Q, H, D]``, keys and values ``[K, G, D]`` with G dividing H."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, group: Group, scale: float
    ) -> tuple[Tensor, Tensor]:
        """The outputs ``[Q, H, D]`` and the log-sum-exps ``[H, Q]`` float32 of the scores, in nats."""

    def backward(
        self, grad: Tensor, tensors: tuple[Tensor, ...], lse: Tensor, group: Group, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of query, key and value.

        Args:
            grad: ``[Q, H, D]``.
            tensors: Query, key, value and the whole attention's output.
            lse: ``[H, Q]``, the whole attention's.
            group: The parts.
            scale: What scores are multiplied with.
        """


class FlashKernel:
    """The flash attention that torch has for CUDA; `takes_groups` says when it runs."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, group: Group, scale: float
    ) -> tuple[Tensor, Tensor]:
        """See `GroupKernel`."""
        attend: Any = torch.ops.aten._flash_attention_forward
        output, lse, *_ = attend(
            query,
            key,
            value,
            group.query_ends,
            group.key_ends,
            group.most_queries,
            group.most_keys,
            0.0,
            group.causal,
            return_debug_mask=False,
            scale=scale,
        )
        return output, lse

    def backward(
        self, grad: Tensor, tensors: tuple[Tensor, ...], lse: Tensor, group: Group, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `GroupKernel`."""
        differentiate: Any = torch.ops.aten._flash_attention_backward
        # What dropout would have drawn; there is none.
        random_state = torch.zeros(2, dtype=torch.uint64, device=grad.device)
        unused = torch.empty(0, device=grad.device)
        grads: tuple[Tensor, Tensor, Tensor] = differentiate(
            grad.contiguous(),
            *(tensor.contiguous() for tensor in tensors),
            lse.contiguous(),
            group.query_ends,
            group.key_ends,
            group.most_queries,
            group.most_keys,
            0.0,
            group.causal,
            random_state,
            unused,
            scale=scale,
        )
        return grads


def groups_of(forest: PackedForest, device: torch.device | str) -> tuple[Group, ...]:
    """The kernel calls that attention over a forest takes: one, and one for each level with branches."""
    chains = forest.chains
    bounds = _int32([0, *(chain.end for chain in chains)], device)
    longest = max(chain.end - chain.start for chain in chains)
    groups = [
        Group(
            queries=None,
            keys=None,
            query_ends=bounds,
            key_ends=bounds,
            most_queries=longest,
            most_keys=longest,
            causal=True,
        )
    ]
    levels: dict[int, list[tuple[Range, Range]]] = {}
    for chain in chains:
        parts = [((first, last), (chain.start, above)) for first, last, above in chain.branches()]
        if parts:
            levels.setdefault(chain.level, []).extend(parts)
    for _, parts in sorted(levels.items()):
        below, above = [queries for queries, _ in parts], [keys for _, keys in parts]
        groups.append(
            Group(
                queries=_places(below, device),
                keys=_places(above, device),
                query_ends=_ends(below, device),
                key_ends=_ends(above, device),
                most_queries=max(last - first for first, last in below),
                most_keys=max(last - first for first, last in above),
                causal=False,
            )
        )
    return tuple(groups)


def grouped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    groups: Sequence[Group],
    *,
    scale: float,
    kernel: GroupKernel | None = None,
) -> Tensor:
    """Every token's attention to its ancestors and itself (M17), differentiable.

    Args:
        query: ``[1, H, N, D]``.
        key: ``[1, G, N, D]``, G dividing H.
        value: ``[1, G, N, D]``.
        groups: What `groups_of` says of the layout of the N tokens.
        scale: What scores are multiplied with before the softmax.
        kernel: How a group is computed; None takes `FlashKernel`.

    Returns:
        ``[1, H, N, D]`` in the dtype of `query`.
    """
    plan = _Plan(tuple(groups), scale, FlashKernel() if kernel is None else kernel)
    attend: Any = _Grouped.apply
    dtype = computed_in(query)
    rows = [tensor[0].transpose(0, 1).to(dtype).contiguous() for tensor in (query, key, value)]
    with torch.autocast(query.device.type, enabled=False):
        output: Tensor = attend(*rows, plan)
    return output.transpose(0, 1).unsqueeze(0)


def takes_groups(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether `FlashKernel` takes these ``[1, H, N, D]``, ``[1, G, N, D]`` and ``[1, G, N, D]``."""
    half = computed_in(query) in (torch.bfloat16, torch.float16)
    size = query.shape[-1]
    sizes = size == key.shape[-1] == value.shape[-1] and size <= _LARGEST_HEAD and size % 8 == 0
    return (
        half and sizes and query.shape[1] % key.shape[1] == 0 and query.is_cuda and _has_flash(query.device)
    )


@functools.cache
def _has_flash(device: torch.device) -> bool:
    """Whether torch's flash attention runs on a GPU: NVIDIA's from Ampere on."""
    built = torch.version.cuda is not None and torch.backends.cuda.is_flash_attention_available()
    return built and torch.cuda.get_device_capability(device) >= (8, 0)


class _Plan(NamedTuple):
    """What `grouped_attention` was told."""

    groups: tuple[Group, ...]
    scale: float
    kernel: GroupKernel


class _Grouped(torch.autograd.Function):
    """Queries ``[N, H, D]``, keys and values ``[N, G, D]``; sums over groups are kept in float32 at least."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: _Plan) -> Tensor:
        own, *levels = plan.groups
        first, lse = plan.kernel.forward(query, key, value, own, plan.scale)
        output = first.to(lse.dtype)
        for group in levels:
            part, part_lse = plan.kernel.forward(
                query[group.queries], key[group.keys], value[group.keys], group, plan.scale
            )
            before = lse[:, group.queries]
            merged = torch.logaddexp(before, part_lse)
            kept = output[group.queries] * _per_row(before - merged)
            output[group.queries] = kept + part * _per_row(part_lse - merged)
            lse[:, group.queries] = merged
        result = output.to(query.dtype)
        ctx.save_for_backward(query, key, value, result, lse)
        ctx.plan = plan
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, lse = ctx.saved_tensors
        own, *levels = ctx.plan.groups
        kernel, scale = ctx.plan.kernel, ctx.plan.scale
        first = kernel.backward(grad, (query, key, value, output), lse, own, scale)
        if not levels:
            return (*first, None)
        sums = [share.to(lse.dtype) for share in first]
        for group in levels:
            tensors = (query[group.queries], key[group.keys], value[group.keys], output[group.queries])
            shares = kernel.backward(grad[group.queries], tensors, lse[:, group.queries], group, scale)
            for total, places, share in zip(
                sums, (group.queries, group.keys, group.keys), shares, strict=True
            ):
                total.index_add_(0, places, share.to(total.dtype))
        grads = [total.to(tensor.dtype) for total, tensor in zip(sums, (query, key, value), strict=True)]
        return (*grads, None)


def _per_row(log_factor: Tensor) -> Tensor:
    """Factors ``[Q, H, 1]`` from their logarithms ``[H, Q]``."""
    return log_factor.exp().transpose(0, 1).unsqueeze(-1)


def _places(ranges: Sequence[Range], device: torch.device | str) -> Tensor:
    return torch.cat([torch.arange(first, last) for first, last in ranges]).to(device)


def _ends(ranges: Sequence[Range], device: torch.device | str) -> Tensor:
    return _int32([0, *itertools.accumulate(last - first for first, last in ranges)], device)


def _int32(values: Sequence[int], device: torch.device | str) -> Tensor:
    return torch.tensor(values, dtype=torch.int32).to(device)
