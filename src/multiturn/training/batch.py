"""Rows to one batch of tensors, and back to what the model is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from multiturn.tokens import TokenBatch, collate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from multiturn.training.data import RenderedRow
    from multiturn.training.objectives import Task
    from multiturn.training.reference import Reference

__all__ = ["collate_rows", "token_batch"]


def collate_rows(rows: Sequence[RenderedRow], task: Task, reference: Reference | None) -> dict[str, Any]:
    """One batch of rows.

    Args:
        rows: B rows with K sequences each.
        task: Says what each row counts for.
        reference: Where there is one, its stored sums become part of the batch.

    Returns:
        ``input_ids``, ``attention_mask`` and ``turns`` ``[K * B, L]``; ``num_turns`` and ``num_tokens``, one
        number for each sequence; ``ids`` of the rows; ``items``, what they count for together; and
        ``reference`` ``[K * B, T]`` where it is stored. The sequences are ordered by side: every chosen one,
        then every rejected one.
    """
    sequences = [s for side in zip(*(row.sequences for row in rows), strict=True) for s in side]
    tokens = collate(sequences)
    batch: dict[str, Any] = {
        "input_ids": tokens.input_ids,
        "attention_mask": tokens.attention_mask,
        "turns": tokens.turns,
        # Plain integers: they are read on the CPU, and reading them must not wait for an accelerator.
        "num_turns": [s.num_turns for s in sequences],
        "num_tokens": [s.scored_tokens for s in sequences],
        "ids": [row.id for row in rows],
        "items": sum(task.count(row) for row in rows),
    }
    stored = None if reference is None else reference.stored(sequences)
    if stored is not None:
        batch["reference"] = stored
    return batch


def token_batch(inputs: Mapping[str, Any]) -> TokenBatch:
    """The part of a batch that the model is given, wherever its tensors are; `num_turns` is on the CPU."""
    return TokenBatch(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        turns=inputs["turns"],
        num_turns=torch.tensor(inputs["num_turns"]),
    )
