"""Keys and values of many conversations at once, each at its own length.

The rows of the cache are conversations. A forward pass is *ragged*: its tokens belong to any rows, one
token of a row that is being decoded beside fifty of a row that is being filled, in one flat sequence
without padding: the model sees a batch of one. Only attention has to know better, so it is ours (`attend`),
registered under `ATTENTION`; everything else in the model works token by token anyway.

Layout per layer: keys ``[rows, heads, room, head_dim]``, values alike. `room` is about an eighth more than
the longest row needs when it changes, since moving everything for every few tokens would cost more. Products
run over all of it: a slice of it would not be contiguous, and a CPU's matrix product copies what is not,
which costs more than the columns that are computed in vain.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache
from transformers.masking_utils import AttentionMaskInterface

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["ATTENTION", "RaggedPass", "RowCache", "attend", "plan_pass"]

ATTENTION: Final = "multiturn_rows"
"""The name of this attention in transformers' registry."""
_BLOCK: Final = 64
"""The room is a multiple of this many tokens."""
_SPARE: Final = 8
"""One part in so many of what is needed is added when the room changes."""

_QUERIES: Final = 64
"""Tokens of one row that attend at a time: their scores stay in a processor's cache."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RaggedPass:
    """One forward pass over ``T`` tokens.

    Attributes:
        rows: ``[T]`` the row of each token. Rows with a single token come first, in ascending order.
        positions: ``[T]`` each token's place in its row, counted from 0.
        singles: The number of rows with a single token.
        span: The first and one past the last of those rows.
        chunks: For each of the other rows ``(row, first token, one past the last token, length afterwards)``.
        length: The longest row's length after this pass.
        last: ``[rows with tokens]`` the index of each row's last token, in the pass's order.
        order: For each entry of `last`, its row's place in the argument of `plan_pass`.
    """

    rows: torch.Tensor
    positions: torch.Tensor
    singles: int
    span: tuple[int, int]
    chunks: tuple[tuple[int, int, int, int], ...]
    length: int
    last: torch.Tensor
    order: tuple[int, ...]


def plan_pass(work: Sequence[tuple[int, int, int]], device: torch.device) -> RaggedPass:
    """Lay out a pass.

    Args:
        work: For each row that takes part ``(row, length so far, new tokens)``; every row once, every count
            positive.
        device: Where the indices live.
    """
    order = sorted(range(len(work)), key=lambda i: (work[i][2] > 1, work[i][0]))
    rows: list[int] = []
    positions: list[int] = []
    last: list[int] = []
    chunks = []
    for i in order:
        row, length, count = work[i]
        if count > 1:
            chunks.append((row, len(rows), len(rows) + count, length + count))
        rows += [row] * count
        positions += range(length, length + count)
        last.append(len(rows) - 1)
    single = [work[i][0] for i in order if work[i][2] == 1]
    return RaggedPass(
        rows=torch.tensor(rows, device=device),
        positions=torch.tensor(positions, device=device),
        singles=len(single),
        span=(single[0], single[-1] + 1) if single else (0, 0),
        chunks=tuple(chunks),
        length=max(length + count for _, length, count in work),
        last=torch.tensor(last, device=device),
        order=tuple(order),
    )


_PASS: contextvars.ContextVar[RaggedPass] = contextvars.ContextVar("multiturn_ragged_pass")


class RowCache(Cache):
    """A transformers cache whose rows have their own lengths.

    Args:
        rows: The number of conversations.
        max_length: Tokens in a row at most.
    """

    def __init__(self, rows: int, max_length: int) -> None:
        super().__init__(layers=[])
        self.rows = rows
        self.max_length = max_length
        self.room = 0
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}

    @contextlib.contextmanager
    def running(self, ragged: RaggedPass, longest: int) -> Iterator[None]:
        """Make `ragged` the pass that the model is running.

        Args:
            ragged: The pass.
            longest: The length of the longest row that is of use, whether it takes part or not. Longer ones
                may be cut to this.

        Raises:
            ValueError: A row would become longer than `max_length`.
        """
        needed = max(ragged.length, longest)
        if needed > self.max_length:
            raise ValueError(f"a row of {needed} tokens does not fit; the limit is {self.max_length}")
        room = min(-(-(needed + needed // _SPARE) // _BLOCK) * _BLOCK, self.max_length)
        if needed > self.room or 2 * needed <= self.room > room:
            self._resize(room)
        token = _PASS.set(ragged)
        try:
            yield
        finally:
            _PASS.reset(token)

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *args: object,  # noqa: ARG002 - the signature is transformers'
        **kwargs: object,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values ``[1, heads, T, head_dim]``; returns the whole storage of the layer."""
        ragged = _PASS.get()
        keys = self._storage(self._keys, layer_idx, key_states)
        values = self._storage(self._values, layer_idx, value_states)
        keys[ragged.rows, :, ragged.positions] = key_states[0].transpose(0, 1)
        values[ragged.rows, :, ragged.positions] = value_states[0].transpose(0, 1)
        return keys, values

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Overwrite the beginning of row `target` by that of row `source`."""
        for stored in (*self._keys.values(), *self._values.values()):
            stored[target, :, :length] = stored[source, :, :length]

    def free(self) -> None:
        """Free the memory."""
        self._keys.clear()
        self._values.clear()
        self.room = 0

    @property
    def nbytes(self) -> int:
        """The memory that is allocated, in bytes."""
        return sum(t.nbytes for store in (self._keys, self._values) for t in store.values())

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002 - the signature is transformers'
        """The columns that are visible in this pass, without its own tokens: none that all rows share."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:  # noqa: ARG002
        """The mask's columns and the first column's position."""
        return self.room, 0

    def _storage(self, store: dict[int, torch.Tensor], layer: int, states: torch.Tensor) -> torch.Tensor:
        if layer not in store:
            _, heads, _, dim = states.shape
            # Zeros, not garbage: a masked column's weight is 0, and 0 times NaN would still be NaN.
            store[layer] = states.new_zeros(self.rows, heads, self.room, dim)
        return store[layer]

    def _resize(self, room: int) -> None:
        """Change the room; one layer after the other, so that no second copy of everything is needed."""
        common = min(room, self.room)
        self.room = room
        for store in (self._keys, self._values):
            for layer, old in store.items():
                rows, heads, _, dim = old.shape
                store[layer] = old.new_empty(rows, heads, room, dim)
                store[layer][:, :, :common] = old[:, :, :common]
                store[layer][:, :, common:] = 0  # see `_storage`


def attend(
    module: torch.nn.Module,  # noqa: ARG001 - the signature is transformers'
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of the running pass over a `RowCache`.

    Args:
        module: The model's attention module; unused.
        query: ``[1, query heads, T, head_dim]``.
        key: The layer's keys ``[rows, heads, room, head_dim]``.
        value: The layer's values ``[rows, heads, room, value_dim]``.
        attention_mask: ``[T, room]``, true where a column of its row is hidden from a token, from `_mask`.
        scaling: The factor on the scores; by default one over the root of head_dim.
        softcap: The scores are squashed to plus or minus this, where the model does so.
        **kwargs: Of no consequence here (dropout, the sliding window that the mask holds already), except
            what would change the result.

    Returns:
        ``[1, T, query heads, value_dim]`` and None.

    Raises:
        NotImplementedError: The model wants something of attention that is not implemented here.
    """
    if kwargs.get("s_aux") is not None or kwargs.get("position_bias") is not None:
        raise NotImplementedError("attention sinks and position biases are not implemented")
    ragged = _PASS.get()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])
    if ragged.singles:
        out[: ragged.singles] = _attend_singles(query, key, value, attention_mask, scale, softcap)
    for row, begin, end, length in ragged.chunks:
        for start in range(begin, end, _QUERIES):
            stop = min(start + _QUERIES, end)
            # What comes after a token is not seen by it.
            columns = length - (end - stop)
            hidden = attention_mask[start:stop, :columns]
            keys, values = key[row, :, :columns], value[row, :, :columns]
            out[start:stop] = _attend_chunk(query[0, :, start:stop], keys, values, hidden, scale, softcap)
    return out[None], None


def _attend_singles(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    hidden: torch.Tensor,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """``[singles, query heads, value_dim]``: one token to a row, all of the span's rows in one product.

    Rows in between that do not take part get a zero query: cheaper than gathering the others' keys and
    values.
    """
    ragged = _PASS.get()
    (low, high), n = ragged.span, ragged.singles
    queries, hidden = query[0, :, :n].transpose(0, 1), hidden[:n]
    if n < high - low:
        at = ragged.rows[:n] - low
        queries = queries.new_zeros(high - low, *queries.shape[1:]).index_copy_(0, at, queries)
        hidden = hidden.new_zeros(high - low, hidden.shape[1]).index_copy_(0, at, hidden)
    queries = queries.reshape(high - low, key.shape[1], -1, queries.shape[-1])
    result = _weighted(queries, key[low:high], value[low:high], hidden[:, None, None], scale, softcap)
    result = result.reshape(high - low, query.shape[1], -1)
    return result if n == high - low else result[at]


def _attend_chunk(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    hidden: torch.Tensor,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """``[n, query heads, value_dim]``: n tokens of one row."""
    # The query heads that share a key head stand below each other, as if they were more tokens.
    heads, count, _ = query.shape
    queries = query.reshape(key.shape[0], -1, query.shape[-1])
    hidden = hidden.repeat(queries.shape[1] // count, 1)
    result = _weighted(queries, key, value, hidden, scale, softcap)
    return result.reshape(heads, count, -1).transpose(0, 1)


def _weighted(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    hidden: torch.Tensor,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """``softmax(query @ key * scale) @ value`` over what is not hidden; the softmax in float32 at least."""
    scores = torch.matmul(query, key.transpose(-1, -2))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).mul_(scale)
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    weights = scores.masked_fill_(hidden, -torch.inf).softmax(dim=-1)
    return torch.matmul(weights.to(value.dtype), value)


def _mask(
    *,
    kv_length: int,
    mask_function: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    **kwargs: Any,  # noqa: ARG001 - the signature is transformers'
) -> torch.Tensor:
    """The mask ``[T, room]`` of the running pass: which columns of its own row a token does not see.

    Args:
        kv_length: The room.
        mask_function: The layer's rule (causal, sliding window, ...) on batch, head, query and key indices.
        **kwargs: What other kinds of attention need.
    """
    query = _PASS.get().positions[:, None]
    key = torch.arange(kv_length, device=query.device)[None]
    zero = torch.zeros_like(query)
    return ~mask_function(zero, zero, query, key)


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, _mask)
