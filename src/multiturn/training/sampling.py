"""In which order rows are trained on: random, yet with what belongs together in the same pass and process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch
from torch.utils.data import Sampler

from multiturn.tokens import forest_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from multiturn.training.config import TurnTrainingArguments
    from multiturn.training.data import RenderedRows

__all__ = ["StepSampler", "balanced", "by_length", "by_task", "eval_sampler", "train_sampler"]

STEPS_IN_A_GROUP: Final = 16
"""Optimizer steps whose rows are sorted together by `by_length`."""

Draw: TypeAlias = "Callable[[torch.Generator], list[int]]"
"""From a source of randomness to an order of all rows, of which every few make an optimizer step."""
Arrange: TypeAlias = "Callable[[list[int]], list[int]]"
"""From the rows of a step to the order in which they are laid out; that does not change its gradient."""


class StepSampler(Sampler[int]):
    """An order of the rows that depends on seed and epoch alone: a resumed run sees the same one.

    Args:
        draw: Decides which rows make a step.
        arrange: Decides their order within it. It may add fillers (see `balanced`), the same number for the
            same number of rows.
        rows: The number of rows.
        rows_per_step: Rows that make one optimizer step, over all processes.
        seed: The seed.
    """

    def __init__(self, draw: Draw, arrange: Arrange, *, rows: int, rows_per_step: int, seed: int) -> None:
        self._draw = draw
        self._arrange = arrange
        self._rows = rows
        self._rows_per_step = rows_per_step
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0; called by the data loader."""
        self._epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self._rows, self._rows_per_step)
        return whole * self._rows_per_step + len(self._arrange(list(range(rest))))

    def __iter__(self) -> Iterator[int]:
        # One stream for each epoch of each seed: far apart for any seeds and epochs that occur.
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order = self._draw(generator)
        for start in range(0, len(order), self._rows_per_step):
            yield from self._arrange(order[start : start + self._rows_per_step])


def train_sampler(
    rows: RenderedRows[Any], args: TurnTrainingArguments, *, rows_per_step: int, processes: int, share: bool
) -> StepSampler:
    """The sampler that `args` ask for by ``train_sampling_strategy``, ``keep_tasks_together`` and the seeds.

    Args:
        rows: The rows.
        args: The settings.
        rows_per_step: Rows that make one optimizer step, over all processes.
        processes: How many processes train together.
        share: Whether rows of a pass share their prefixes; otherwise they are padded to the longest.
    """
    lengths = rows.lengths
    if args.train_sampling_strategy == "group_by_length":
        draw: Draw = by_length(lengths, rows_per_step=rows_per_step)
    elif args.train_sampling_strategy == "sequential":
        draw = _in_order(len(rows))
    elif args.keep_tasks_together:
        draw = by_task(rows.tasks)
    else:
        draw = by_task([[row] for row in range(len(rows))])

    def kin_first(row: int) -> Any:
        return rows.rows[row].sequences[0].token_ids

    def longest_first(row: int) -> Any:
        return -lengths[row], row

    key = None if args.train_sampling_strategy == "sequential" else kin_first if share else longest_first

    def sort(step: list[int]) -> list[int]:
        return step if key is None else sorted(step, key=key)

    return StepSampler(
        draw,
        sort if processes == 1 else _spread(rows, sort, args.train_batch_size, processes, share=share),
        rows=len(rows),
        rows_per_step=rows_per_step,
        seed=args.seed if args.data_seed is None else args.data_seed,
    )


def eval_sampler(rows: RenderedRows[Any], *, batch_size: int, processes: int, share: bool) -> StepSampler:
    """Every row once and in order, each process with as many passes as any other."""
    return StepSampler(
        _in_order(len(rows)),
        _spread(rows, list, batch_size, processes, share=share),
        rows=len(rows),
        rows_per_step=batch_size * processes,
        seed=0,
    )


def by_task(tasks: Sequence[Sequence[int]]) -> Draw:
    """Draws tasks at random, and the rows of each at random, one task after the other.

    Rows of a task share at least their prompt, often a whole side, so they are cheapest in one pass.

    Args:
        tasks: The rows of each task.
    """

    def draw(generator: torch.Generator) -> list[int]:
        order: list[int] = []
        for task in torch.randperm(len(tasks), generator=generator).tolist():
            rows = tasks[task]
            if len(rows) > 1:
                rows = [rows[i] for i in torch.randperm(len(rows), generator=generator).tolist()]
            order += rows
        return order

    return draw


def by_length(lengths: Sequence[int], *, rows_per_step: int) -> Draw:
    """Draws steps at random whose rows are of like length, which correlates what a step sees.

    Args:
        lengths: The tokens of each row.
        rows_per_step: Rows that make one step; a shorter one stays last.
    """

    def draw(generator: torch.Generator) -> list[int]:
        order: list[int] = torch.randperm(len(lengths), generator=generator).tolist()
        group = rows_per_step * STEPS_IN_A_GROUP
        ordered = [
            row
            for start in range(0, len(order), group)
            for row in sorted(order[start : start + group], key=lambda row: (-lengths[row], row))
        ]
        full = len(ordered) // rows_per_step
        shuffled: list[int] = torch.randperm(full, generator=generator).tolist()
        steps = [ordered[step * rows_per_step : (step + 1) * rows_per_step] for step in shuffled]
        return [row for step in [*steps, ordered[full * rows_per_step :]] for row in step]

    return draw


def balanced(
    groups: Sequence[Sequence[int]], costs: Sequence[float], *, processes: int, room: int
) -> list[list[int]]:
    """Deal groups of rows out to processes: equal room, nearly equal cost, groups kept whole where they fit.

    Args:
        groups: The rows of each group.
        costs: What each group costs.
        processes: The number of processes.
        room: Rows that a process takes at most; all rows fit.

    Returns:
        The rows of each process.
    """
    dealt: list[list[int]] = [[] for _ in range(processes)]
    load = [0.0] * processes
    for index in sorted(range(len(groups)), key=lambda i: -costs[i]):
        rest = list(groups[index])
        each = costs[index] / len(rest)
        while rest:
            fits = [p for p in range(processes) if len(dealt[p]) + len(rest) <= room]
            some = [p for p in range(processes) if len(dealt[p]) < room]
            chosen = min(fits or some, key=lambda p: load[p])
            part = rest[: room - len(dealt[chosen])]
            dealt[chosen] += part
            load[chosen] += each * len(part)
            rest = rest[len(part) :]
    return dealt


def _in_order(rows: int) -> Draw:
    return lambda _: list(range(rows))


def _spread(
    rows: RenderedRows[Any], sort: Arrange, batch_size: int, processes: int, *, share: bool
) -> Arrange:
    """Arranges a step so that the data loaders of several processes each get a fair part of it.

    Loaders take turns by batches. A row that only makes the parts equal is a filler: its index is the row's
    plus the number of rows, and it counts for nothing.
    """
    task_of = {row: index for index, task in enumerate(rows.tasks) for row in task}

    def cost(group: Sequence[int]) -> int:
        sequences = [s for row in group for s in rows.rows[row].sequences]
        return forest_size(sequences, share=share)

    def arrange(step: list[int]) -> list[int]:
        if not step:
            return []
        groups: dict[int, list[int]] = {}
        for row in step:
            groups.setdefault(task_of[row], []).append(row)
        room = -(-len(step) // (batch_size * processes)) * batch_size
        dealt = balanced(
            list(groups.values()), [cost(g) for g in groups.values()], processes=processes, room=room
        )
        shortest = min(step, key=lambda row: rows.lengths[row])
        for index, part in enumerate(dealt):
            filler = len(rows) + (part[-1] if part else shortest)
            dealt[index] = sort(part) + [filler] * (room - len(part))
        return [
            row
            for start in range(0, room, batch_size)
            for part in dealt
            for row in part[start : start + batch_size]
        ]

    return arrange
