"""Filling forward passes to a token budget with rows that share what can be shared."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from multiturn.tokens.layout import runs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from multiturn.tokens.rendered import Rendered

__all__ = ["fill_passes"]

T = TypeVar("T")


def fill_passes(
    items: Sequence[T],
    sequences: Callable[[T], Sequence[Rendered]],
    *,
    max_tokens: int,
    share: bool,
    at_least: int = 1,
) -> list[list[T]]:
    """Split items into as few passes as a token budget allows, of like size.

    Items are taken in the lexicographic order of their first sequences, so those of one task stand side by
    side. A pass costs the tokens of its forest, or without sharing those of all its sequences.

    Args:
        items: What is to be run, at least one.
        sequences: The token sequences of an item.
        max_tokens: Tokens of a pass at most; an item that is longer gets a pass of its own.
        share: Whether the sequences of a pass share their prefixes.
        at_least: The number of passes at least; as many as there are items at most.

    Returns:
        The items of each pass; none is empty.

    Raises:
        ValueError: There are fewer items than passes.
    """
    if len(items) < max(at_least, 1):
        raise ValueError(f"{len(items)} items cannot fill {at_least} passes")
    costs = _Costs([sequences(item) for item in items], share=share)
    order = sorted(range(len(items)), key=lambda index: sequences(items[index])[0].token_ids)
    best = _fill(order, costs, max_tokens)
    # The smallest budget that needs no more passes makes them nearly equal, and the peak memory low.
    low, high = max(costs.of([index]) for index in order), max_tokens
    while low < high:
        middle = (low + high) // 2
        attempt = _fill(order, costs, middle)
        if len(attempt) <= len(best):
            best, high = attempt, middle
        else:
            low = middle + 1
    while len(best) < at_least:
        several = [index for index, each in enumerate(best) if len(each) > 1]
        largest = max(several, key=lambda index: costs.of(best[index]))
        half = len(best[largest]) // 2
        best[largest : largest + 1] = [best[largest][:half], best[largest][half:]]
    return [[items[index] for index in each] for each in best]


class _Costs:
    """The tokens that items need together.

    Args:
        sequences: The sequences of each item.
        share: Whether shared prefixes count once.
    """

    def __init__(self, sequences: Sequence[Sequence[Rendered]], *, share: bool) -> None:
        flat = [s for each in sequences for s in each]
        runs = list(runs_of(flat, share=share))
        # A sequence goes by its rank in the order of the layout, where those that share most are neighbours.
        ranks = np.empty(len(flat), dtype=np.int64)
        ranks[[run.row for run in runs]] = np.arange(len(runs))
        ends = np.cumsum([len(each) for each in sequences])
        self._ranks = [each.tolist() for each in np.split(ranks, ends[:-1])]
        self._lengths = [flat[run.row].scored_length for run in runs]
        self._depths = np.array([run.depth for run in runs])

    def of(self, items: Sequence[int]) -> int:
        """The cost of a pass."""
        there: list[int] = []
        return sum(self.add(item, there) for item in items)

    def add(self, item: int, there: list[int]) -> int:
        """What an item adds to the cost of a pass.

        Args:
            item: The item.
            there: The sorted ranks of what the pass holds; those of the item join them.
        """
        added = 0
        for rank in self._ranks[item]:
            at = bisect.bisect(there, rank)
            known = max(
                self._shared(there[at - 1], rank) if at > 0 else 0,
                self._shared(rank, there[at]) if at < len(there) else 0,
            )
            there.insert(at, rank)
            added += self._lengths[rank] - known
        return added

    def _shared(self, first: int, second: int) -> int:
        """The length of the prefix that two ranks share."""
        return int(self._depths[first + 1 : second + 1].min())


def _fill(order: Sequence[int], costs: _Costs, budget: int) -> list[list[int]]:
    """Passes of consecutive items, each as full as the budget allows."""
    passes: list[list[int]] = []
    there: list[int] = []
    used = 0
    for item in order:
        used += costs.add(item, there)
        if not passes or used > budget:
            passes.append([])
            there = []
            used = costs.add(item, there)
        passes[-1].append(item)
    return passes
