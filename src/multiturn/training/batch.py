"""Rows as what the model is given: a padded batch or a packed forest."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import torch

from multiturn.tokens import PackedForest, PaddedBatch, lay_out

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from multiturn.tokens import Layout, Rendered
    from multiturn.training.data import RenderedRow

__all__ = ["PASS_COST", "MicroBatch", "length_groups", "logps_by_length", "micro_batch"]

PASS_COST: Final = 64
"""What one more forward and backward pass costs on a CPU, in tokens: it reads and writes every weight."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """B rows of K sequences each for one forward and backward pass.

    The sequences are ordered by side: every chosen one, then every rejected one; S is ``K * B``.

    Attributes:
        batch: The sequences as the model takes them.
        groups: Of padded rows, the sequences of each forward pass, each padded to its first; None where there
            is one forward pass for all.
        ids: The rows' names.
        weights: ``[B]`` float32, what a row's count is multiplied with: 1, or 0 for a filler.
        lengths: The tokens of each sequence.
        num_turns: ``[S]`` int64 scored turns, on the CPU, where reading them waits for no accelerator.
        num_tokens: ``[S]`` int64 scored tokens, on the CPU.
        reference: ``[S, T]`` the reference's stored per-turn sums in nats; None where there are none.
    """

    batch: PaddedBatch | PackedForest
    groups: tuple[tuple[int, ...], ...] | None
    ids: tuple[str, ...]
    weights: Tensor
    lengths: tuple[int, ...]
    num_turns: Tensor
    num_tokens: Tensor
    reference: Tensor | None

    @property
    def total_tokens(self) -> int:
        """The tokens of all sequences, shared or not, without padding and fillers."""
        weights = self.weights.tolist()
        return sum(int(weights[i % len(weights)]) * length for i, length in enumerate(self.lengths))

    @property
    def computed_tokens(self) -> int:
        """The tokens that the model is given, padding included."""
        if self.groups is None:
            return self.batch.input_ids.numel()
        return sum(len(group) * self.lengths[group[0]] for group in self.groups)

    @property
    def budget_tokens(self) -> int:
        """The tokens that count against a budget: shared ones once, padding not."""
        return sum(self.lengths) if isinstance(self.batch, PaddedBatch) else self.batch.input_ids.numel()

    def to(self, device: torch.device | str) -> MicroBatch:
        """The same with what the model reads on `device`."""
        reference = None if self.reference is None else self.reference.to(device)
        return dataclasses.replace(
            self, batch=self.batch.to(device), weights=self.weights.to(device), reference=reference
        )


def micro_batch(
    rows: Sequence[RenderedRow],
    layout: Layout,
    *,
    weights: Sequence[float] | None = None,
    split: Callable[[Sequence[int]], list[list[int]]] | None = None,
    reference: Callable[[Sequence[Rendered]], Tensor | None] | None = None,
) -> MicroBatch:
    """Make one batch of rows.

    Args:
        rows: B rows with K sequences each.
        layout: How they are laid out.
        weights: What each row's count is multiplied with; None for 1.
        split: How padded rows are split into forward passes by the lengths of their sequences, such as
            `length_groups`; None does not.
        reference: The stored sums ``[S, T]`` of sequences, or None where they are computed live.
    """
    sequences = [s for side in zip(*(row.sequences for row in rows), strict=True) for s in side]
    lengths = tuple(s.scored_length for s in sequences)
    groups = None if split is None or layout != "padded" else tuple(map(tuple, split(lengths)))
    return MicroBatch(
        batch=lay_out(sequences, layout),
        groups=groups,
        ids=tuple(row.id for row in rows),
        weights=torch.ones(len(rows)) if weights is None else torch.tensor(weights),
        lengths=lengths,
        num_turns=torch.tensor([s.num_turns for s in sequences]),
        num_tokens=torch.tensor([s.scored_tokens for s in sequences]),
        reference=None if reference is None else reference(sequences),
    )


def length_groups(lengths: Sequence[int]) -> list[list[int]]:
    """The cheapest way to run sequences in several passes, each padded to its longest.

    Args:
        lengths: The tokens of each sequence, at least one.

    Returns:
        The indices of each pass, its longest sequence first. Tokens, padding included, plus `PASS_COST` for
        each pass are as few as can be.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    # best[n]: the least cost of the n longest sequences, and where the last pass among them begins.
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(order) + 1):
        costs = ((best[s][0] + (end - s) * lengths[order[s]] + PASS_COST, s) for s in range(end))
        best.append(min(costs))
    groups: list[list[int]] = []
    end = len(order)
    while end:
        start = best[end][1]
        groups.append(order[start:end])
        end = start
    return groups[::-1]


def logps_by_length(
    run: Callable[[PaddedBatch, int], Tensor],
    batch: PaddedBatch,
    lengths: Sequence[int],
    groups: Sequence[Sequence[int]],
) -> Tensor:
    """What `run` says of a batch, computed in several forward passes without much padding.

    On a CPU the time of a forward and backward pass goes with the tokens, padding included, however they are
    spread over rows.

    Args:
        run: From a batch of S' rows, and the number of such passes, to ``[S', T]``.
        batch: S rows.
        lengths: The tokens of each row.
        groups: The rows of each pass, its longest first.

    Returns:
        ``[S, T]``, in the order of the batch.
    """
    if len(groups) == 1:
        return run(batch, 1)
    parts = []
    for group in groups:
        end, rows = lengths[group[0]], list(group)  # a tuple would index dimensions
        part = PaddedBatch(
            input_ids=batch.input_ids[rows, :end],
            attention_mask=batch.attention_mask[rows, :end],
            turns=batch.turns[rows, :end],
            num_turns=batch.num_turns[rows],
        )
        parts.append(run(part, len(groups)))
    order = [index for group in groups for index in group]
    return torch.cat(parts)[sorted(range(len(order)), key=order.__getitem__)]
