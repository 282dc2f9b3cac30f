"""In which order rows are trained on: random, yet with rows of like length in the same forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import torch
from torch.utils.data import Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from multiturn.training.config import TurnTrainingArguments

__all__ = ["LengthAwareSampler", "sampler_for"]

STEPS_IN_A_GROUP: Final = 16
"""Optimizer steps whose rows are sorted together by ``"across-steps"``."""


class LengthAwareSampler(Sampler[int]):
    """A permutation of the rows that depends on seed and epoch alone: a resumed run sees the same one.

    ``"within-step"`` draws which rows make an optimizer step uniformly at random and then sorts each step's
    rows by length. The step's gradient is the same in any order, so this changes nothing but the padding of
    its micro-batches. ``"across-steps"`` also groups rows of like length into the same step, which pads still
    less but correlates what a step sees; the groups themselves come in random order.

    Args:
        lengths: Tokens of each row.
        rows_per_step: Rows that make one optimizer step, over all processes.
        seed: The seed.
        grouping: ``"within-step"`` or ``"across-steps"``.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        rows_per_step: int,
        seed: int,
        grouping: Literal["within-step", "across-steps"] = "within-step",
    ) -> None:
        self._lengths = lengths
        self._rows_per_step = rows_per_step
        self._seed = seed
        self._grouping = grouping
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0; called by the data loader."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        # One stream for each epoch of each seed: far apart for any seeds and epochs that occur.
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order: list[int] = torch.randperm(len(self._lengths), generator=generator).tolist()
        if self._grouping == "across-steps":
            order = self._grouped(order, generator)
        size = self._rows_per_step
        for start in range(0, len(order), size):
            yield from sorted(order[start : start + size], key=lambda row: (-self._lengths[row], row))

    def _grouped(self, order: list[int], generator: torch.Generator) -> list[int]:
        """Sort within large groups, cut them into steps and shuffle the steps; a short step stays last."""
        size = self._rows_per_step
        group = size * STEPS_IN_A_GROUP
        ordered = [
            row
            for start in range(0, len(order), group)
            for row in sorted(order[start : start + group], key=lambda row: (-self._lengths[row], row))
        ]
        full = len(ordered) // size
        shuffled: list[int] = torch.randperm(full, generator=generator).tolist()
        steps = [ordered[step * size : (step + 1) * size] for step in shuffled]
        return [row for step in [*steps, ordered[full * size :]] for row in step]


def sampler_for(
    lengths: Sequence[int], args: TurnTrainingArguments, *, rows_per_step: int
) -> LengthAwareSampler:
    """The sampler that `args` ask for by ``train_sampling_strategy`` and the seeds."""
    return LengthAwareSampler(
        lengths,
        rows_per_step=rows_per_step,
        seed=args.seed if args.data_seed is None else args.data_seed,
        grouping="across-steps" if args.train_sampling_strategy == "group_by_length" else "within-step",
    )
