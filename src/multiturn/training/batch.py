"""Rows to one batch of tensors, and back to what the model is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from multiturn.tokens import PaddedBatch, collate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from multiturn.training.data import RenderedRow
    from multiturn.training.objectives import Task
    from multiturn.training.reference import Reference

__all__ = ["PASS_COST", "collate_rows", "length_groups", "logps_by_length", "token_batch"]

PASS_COST: Final = 64
"""What one more forward and backward pass costs on a CPU, in tokens: it reads and writes every weight."""


def collate_rows(rows: Sequence[RenderedRow], task: Task, reference: Reference | None) -> dict[str, Any]:
    """One batch of rows.

    Args:
        rows: B rows with K sequences each.
        task: Says what each row counts for.
        reference: Where there is one, its stored sums become part of the batch.

    Returns:
        ``input_ids``, ``attention_mask`` and ``turns`` ``[K * B, L]``; ``lengths``, ``num_turns`` and
        ``num_tokens``, one number for each sequence; ``ids`` of the rows; ``items``, what they count for
        together; and ``reference`` ``[K * B, T]`` where it is stored. The sequences are ordered by side:
        every chosen one, then every rejected one.
    """
    sequences = [s for side in zip(*(row.sequences for row in rows), strict=True) for s in side]
    tokens = collate(sequences)
    batch: dict[str, Any] = {
        "input_ids": tokens.input_ids,
        "attention_mask": tokens.attention_mask,
        "turns": tokens.turns,
        # Plain integers: they are read on the CPU, and reading them must not wait for an accelerator.
        "lengths": [s.scored_length for s in sequences],
        "num_turns": [s.num_turns for s in sequences],
        "num_tokens": [s.scored_tokens for s in sequences],
        "ids": [row.id for row in rows],
        "items": sum(task.count(row) for row in rows),
    }
    stored = None if reference is None else reference.stored(sequences)
    if stored is not None:
        batch["reference"] = stored
    return batch


def token_batch(inputs: Mapping[str, Any]) -> PaddedBatch:
    """The part of a batch that the model is given, wherever its tensors are; `num_turns` is on the CPU."""
    return PaddedBatch(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        turns=inputs["turns"],
        num_turns=torch.tensor(inputs["num_turns"]),
    )


def length_groups(lengths: Sequence[int]) -> list[list[int]]:
    """The cheapest way to run sequences in several passes, each padded to its longest.

    Args:
        lengths: The tokens of each sequence, at least one.

    Returns:
        The indices of each pass, the longest sequences first. Tokens, padding included, plus `PASS_COST` for
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
    run: Callable[[PaddedBatch], Tensor], batch: PaddedBatch, lengths: Sequence[int]
) -> Tensor:
    """What `run` says of a batch, computed in several forward passes without much padding.

    On a CPU the time of a forward and backward pass goes with the tokens, padding included, however they are
    spread over rows.

    Args:
        run: From a batch of S' rows to ``[S', T]``.
        batch: S rows.
        lengths: The tokens of each row.

    Returns:
        ``[S, T]``, in the order of the batch.
    """
    groups = length_groups(lengths)
    if len(groups) == 1:
        return run(batch)
    parts = []
    for group in groups:
        end = lengths[group[0]]
        part = PaddedBatch(
            input_ids=batch.input_ids[group, :end],
            attention_mask=batch.attention_mask[group, :end],
            turns=batch.turns[group, :end],
            num_turns=batch.num_turns[group],
        )
        parts.append(run(part))
    order = [index for group in groups for index in group]
    return torch.cat(parts)[sorted(range(len(order)), key=order.__getitem__)]
