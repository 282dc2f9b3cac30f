"""Filling forward passes to a token budget with rows that share what can be shared."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from multiturn.tokens.layout import shared_prefixes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

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
        ends = np.cumsum([len(each) for each in sequences])
        self._places = [range(end - len(each), end) for each, end in zip(sequences, ends, strict=True)]
        self._lengths = np.array([s.scored_length for s in flat])
        self._shared: NDArray[np.int64] | None = shared_prefixes(flat) if share else None

    def of(self, items: Sequence[int]) -> int:
        """The cost of a pass."""
        return self.added([], items)

    def added(self, before: Sequence[int], items: Sequence[int]) -> int:
        """What items add to the cost of a pass that holds others already."""
        there = [place for item in before for place in self._places[item]]
        total = 0
        for place in (place for item in items for place in self._places[item]):
            known = 0 if self._shared is None or not there else int(self._shared[place, there].max())
            total += int(self._lengths[place]) - known
            there.append(place)
        return total


def _fill(order: Sequence[int], costs: _Costs, budget: int) -> list[list[int]]:
    """Passes of consecutive items, each as full as the budget allows."""
    passes: list[list[int]] = []
    used = 0
    for item in order:
        added = costs.added(passes[-1], [item]) if passes else 0
        if not passes or used + added > budget:
            passes.append([])
            used, added = 0, costs.of([item])
        passes[-1].append(item)
        used += added
    return passes
