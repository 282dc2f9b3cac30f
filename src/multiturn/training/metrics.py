"""Means of the objectives' metrics over rows, however these are split into micro-batches and processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from multiturn.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accelerate import Accelerator
    from torch import Tensor

    from multiturn.objective import ObjectiveOutput

__all__ = ["MetricMeans", "refuse_non_finite"]


class MetricMeans:
    """Sums of metrics and of what their rows count for; on the device until they are asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, output: ObjectiveOutput) -> None:
        """Take in a micro-batch."""
        counts = output.counts.detach()
        values = {"loss": output.losses.detach(), **output.metrics}
        for name, rows in values.items():
            both = torch.stack([(rows * counts).sum(), counts.sum()]).to(sum_dtype(rows.device))
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


def sum_dtype(device: torch.device) -> torch.dtype:
    """What long sums are kept in on a device: float64, which Apple's GPUs do not have."""
    return torch.float32 if device.type == "mps" else torch.float64


def refuse_non_finite(
    output: ObjectiveOutput, reference: Tensor | None, ids: Sequence[str], *, name: str, when: str
) -> None:
    """Stop where a row's loss or any of its metrics is not finite.

    The metrics count too: an infinite margin can hide behind a loss of exactly 0.

    Args:
        output: The objective's word on B rows.
        reference: The reference's per-turn sums that it read, if any; they may be to blame.
        ids: The ids of the rows.
        name: The objective's name.
        when: The moment, for example ``"step 3"``.

    Raises:
        TrainingError: A value is not finite; the message names the rows.
    """
    finite = torch.isfinite(torch.stack([output.losses.detach(), *output.metrics.values()])).all(dim=0)
    if bool(finite.all()):
        return
    bad = [row_id for row_id, is_finite in zip(ids, finite.tolist(), strict=True) if not is_finite]
    advice = "Lower the learning rate, or look at these rows"
    if reference is not None and not bool(torch.isfinite(reference).all()):
        advice = (
            "The reference's own log-probabilities are not finite: look at its weights, or compute them in "
            "another precision"
        )
    raise TrainingError(
        f"the {name} loss is not finite in {when} for {', '.join(bad)}; no weight was changed by this step. "
        f"{advice}"
    )
