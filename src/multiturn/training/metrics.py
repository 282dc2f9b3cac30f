"""Means of the objectives' metrics over rows, however these are split into micro-batches and processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accelerate import Accelerator
    from torch import Tensor

    from multiturn.objective import ObjectiveOutput

__all__ = ["MetricMeans", "non_finite_rows"]


class MetricMeans:
    """Sums of metrics and of what their rows count for; on the device until they are asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, output: ObjectiveOutput) -> None:
        """Take in a micro-batch."""
        counts = output.counts.detach()
        values = {"loss": output.losses.detach(), **output.metrics}
        for name, rows in values.items():
            both = torch.stack([(rows * counts).sum(), counts.sum()]).to(torch.float64)
            self._sums[name] = self._sums[name] + both if name in self._sums else both

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over all rows and processes since the last call, by name; starts afresh."""
        if not self._sums:
            return {}
        names = list(self._sums)
        sums = torch.stack([self._sums[name] for name in names])
        if accelerator.num_processes > 1:
            sums = accelerator.reduce(sums, reduction="sum")
        self.clear()
        return {name: total / count for name, (total, count) in zip(names, sums.tolist(), strict=True)}

    def clear(self) -> None:
        """Forget what was taken in."""
        self._sums.clear()


def non_finite_rows(output: ObjectiveOutput, ids: Sequence[str]) -> list[str]:
    """The ids of the rows whose loss or any metric is not finite.

    The metrics count too: an infinite margin can hide behind a loss of exactly 0.
    """
    finite = torch.isfinite(torch.stack([output.losses.detach(), *output.metrics.values()])).all(dim=0)
    if bool(finite.all()):
        return []
    return [row_id for row_id, is_finite in zip(ids, finite.tolist(), strict=True) if not is_finite]
