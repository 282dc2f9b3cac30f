"""How many threads a pass of the model gets on a CPU: the number that has been fastest of late.

A pass of a small model is hundreds of short operators, and each ends when its last thread does. With two
cores to itself a second thread makes it up to twice as fast; beside another program that takes one of them it
makes it four times as slow. Nothing tells the two apart but the time that passes take.
"""

from __future__ import annotations

import collections
import contextlib
import statistics
import time
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["FastestCount", "PassThreads", "thread_counts"]

_REMEMBERED: Final = 3
"""Passes by whose median a number of threads is judged."""
_HOPELESS: Final = 1.5
"""A number of threads with which a pass takes so many times as long gets no second one."""
_RETRY_AFTER: Final = 100
"""Passes after which another number of threads gets one."""
_LEAST_WORK: Final = 1e8
"""Floating-point operations of a pass below which one thread is enough, whatever else there is."""
_BESIDE_TOKENS: Final = 32
"""Tokens that take about as long as what every pass takes, however few tokens it has."""
_MANY: Final = 64
"""Tokens from which on a pass is judged as one that reads; passes that write are judged by themselves."""


def thread_counts(available: int) -> tuple[int, ...]:
    """The numbers of threads worth a try: powers of two, and all that are available."""
    return tuple(sorted({1 << power for power in range(available.bit_length())} | {available}))


class FastestCount:
    """Which of several numbers of threads has been fastest lately.

    It begins with the largest and looks at its neighbours: each gets a few passes, or one where that is much
    slower, and the fastest is the one whose neighbours are looked at next. So a machine with many cores does
    not read a long prompt with one of them to see how long that takes. One pass in a hundred goes to the
    neighbours in turn, so that a change of what else the machine does is noticed.

    Args:
        counts: The numbers to choose from, ascending.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self._counts = tuple(counts)
        self._best = len(self._counts) - 1
        self._seconds = {count: collections.deque[float](maxlen=_REMEMBERED) for count in counts}
        self._passes = 0

    def choose(self) -> int:
        """The number for the next pass."""
        best = self._counts[self._best]
        for count in (best, *self._neighbours()):
            if self._is_worth_a_pass(count, best):
                return count
        best = min((*self._neighbours(), best), key=lambda count: (self._usual(count), count))
        self._best = self._counts.index(best)
        self._passes += 1
        retries, between = divmod(self._passes, _RETRY_AFTER)
        others = self._neighbours()
        return best if between or not others else others[retries % len(others)]

    def took(self, count: int, seconds: float) -> None:
        """Remember what a pass took.

        Args:
            count: The threads that it had.
            seconds: Its time, for a unit of work, so that passes can be compared.
        """
        self._seconds[count].append(seconds)

    def _neighbours(self) -> tuple[int, ...]:
        """The next smaller number, and the next larger one, where there are such."""
        at = self._best
        return (*self._counts[max(0, at - 1) : at], *self._counts[at + 1 : at + 2])

    def _usual(self, count: int) -> float:
        return statistics.median(self._seconds[count])

    def _is_worth_a_pass(self, count: int, best: int) -> bool:
        """Whether too little is known of a number, and that does not rule it out."""
        known = self._seconds[count]
        if not known:
            return True
        return len(known) < _REMEMBERED and (count == best or min(known) <= _HOPELESS * self._usual(best))


class PassThreads:
    """Gives every pass of a model its number of threads.

    Args:
        work_per_token: Floating-point operations of a token.
    """

    def __init__(self, work_per_token: float) -> None:
        self._work_per_token = work_per_token
        self._choices: dict[tuple[int, bool], FastestCount] = {}

    @contextlib.contextmanager
    def running(self, tokens: int) -> Iterator[None]:
        """Bound the threads of torch's operators in the block, a pass over so many tokens, and time it."""
        available = torch.get_num_threads()
        if available == 1:
            yield
            return
        if self._work_per_token * tokens < _LEAST_WORK:
            with _threads(1, available):
                yield
            return
        kind = (available, tokens >= _MANY)
        choice = self._choices.setdefault(kind, FastestCount(thread_counts(available)))
        count = choice.choose()
        began = time.perf_counter()
        with _threads(count, available):
            yield
        choice.took(count, (time.perf_counter() - began) / (tokens + _BESIDE_TOKENS))


@contextlib.contextmanager
def _threads(count: int, available: int) -> Iterator[None]:
    if count == available:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(available)
