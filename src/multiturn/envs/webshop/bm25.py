"""BM25 with Lucene's arithmetic: 32-bit floats, document lengths in one byte, its order of operations.

A term adds ``w - w / (1 + f * s)`` to the score of a document that holds it ``f`` times. ``w`` is the term's
inverse document frequency, ``ln(1 + (N - n + 0.5) / (n + 0.5))`` for n of N documents, times how often the
query holds the term; ``s``, which falls with the length L of the document, is
``1 / (k1 (1 - b + b L / mean L))``. ``1 + f * s`` depends on no query: it is the *damping*, and what is
stored for each document of a term. Terms add up in 64 bits, and the sum is rounded to 32.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["K1", "B", "Postings", "best", "damping", "norms"]

K1: Final = 0.9
"""How late the frequency of a term in a document saturates; Anserini's default."""
B: Final = 0.4
"""How much the length of a document counts, from 0 to 1; Anserini's default."""

_SAMPLE: Final = 1 << 14
"""How many documents to look through for a bound of the best scores."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Postings:
    """Which documents hold which terms. Documents are numbered in the order of their keys.

    Attributes:
        documents: The number of documents, those without terms too.
        filled: The number of documents with a term, which is what BM25 counts.
        starts: int64 (terms + 1): where each term's documents begin in the next two.
        numbers: int32 (postings): the documents of each term, ascending.
        dampings: float32 (postings): see the module's text.
    """

    documents: int
    filled: int
    starts: NDArray[np.int64]
    numbers: NDArray[np.int32]
    dampings: NDArray[np.float32]


def _byte_lengths() -> NDArray[np.int64]:
    """The document lengths that Lucene's one byte can hold: 0 to 39 exactly, then three bits of precision."""
    exact = 24
    rest = [index if index < 8 else (8 | index & 7) << (index >> 3) - 1 for index in range(256 - exact)]
    return np.array([*range(exact), *(exact + value for value in rest)], dtype=np.int64)


_LENGTHS: Final = _byte_lengths()


def norms(lengths: NDArray[np.int64], mean: float) -> NDArray[np.float32]:
    """The factor ``s`` of documents.

    Args:
        lengths: The number of terms in each document.
        mean: The mean of the lengths over the documents with a term.

    Returns:
        float32, of the shape of `lengths`.
    """
    one, k1, b = np.float32(1), np.float32(K1), np.float32(B)
    stored = _LENGTHS.astype(np.float32)
    factors = one / (k1 * ((one - b) + b * stored / np.float32(mean)))
    return factors[np.searchsorted(_LENGTHS, lengths, side="right") - 1]


def damping(frequencies: NDArray[np.int64], factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The damping of terms that documents hold so many times.

    Args:
        frequencies: How often; one entry for a term in a document.
        factors: The `norms` of the same documents.
    """
    return np.float32(1) + frequencies.astype(np.float32) * factors


def best(
    postings: Postings, query: Mapping[int, int], most: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The documents that score highest.

    Args:
        postings: The documents.
        query: Term -> how often the query holds it.
        most: The most documents to return, at least 1.

    Returns:
        Their numbers and scores, by falling score; of equal scores the lower number comes first. Documents
        without any of the terms are not among them.
    """
    totals = np.zeros(postings.documents)
    holders = []
    for term, count in query.items():
        start, end = int(postings.starts[term]), int(postings.starts[term + 1])
        rarity = math.log(1 + (postings.filled - (end - start) + 0.5) / (end - start + 0.5))
        weight = np.float32(count) * np.float32(rarity)
        holders.append(postings.numbers[start:end])
        totals[holders[-1]] += weight - weight / postings.dampings[start:end]
    numbers = np.flatnonzero(totals >= _bound(totals, holders, most))
    return _ranked(numbers, totals[numbers], most)


def _bound(totals: NDArray[np.float64], holders: list[NDArray[np.int32]], most: int) -> float:
    """A score above 0 that none of the best is below: the last of the best of some documents.

    The holders of the rarest term that is common enough are mostly good ones. To look through these few is
    much quicker than to look through all.
    """
    enough = [numbers for numbers in holders if len(numbers) >= most]
    if not enough:
        return float(np.finfo(np.float64).tiny)
    some = totals[min(enough, key=len)[: max(most, _SAMPLE)]]
    last = np.float32(np.partition(some, len(some) - most)[len(some) - most])
    # One step of 32 bits less: what is a little lower in 64 bits may be an equal in 32.
    return float(np.nextafter(last, np.float32(0)))


def _ranked(
    numbers: NDArray[np.int64], totals: NDArray[np.float64], most: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    scores = totals.astype(np.float32)
    if len(scores) > most:
        last = np.partition(scores, len(scores) - most)[len(scores) - most]
        kept = scores >= last
        numbers, scores = numbers[kept], scores[kept]
    order = np.lexsort((numbers, -scores))[:most]
    return numbers[order], scores[order]
