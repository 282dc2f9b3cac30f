"""Search over products as WebShop has it: Lucene's BM25 over the text of each product, exactly.

A ranker answers with the keys (ASINs) of the best products. Equal scores are in the order of the keys.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from multiturn.envs.webshop.analysis import analyze
from multiturn.envs.webshop.bm25 import Postings, best, damping, norms
from multiturn.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Hit", "MemoryRanker", "Ranker", "answer", "check_unique"]


@dataclasses.dataclass(frozen=True, slots=True)
class Hit:
    """A product that was found.

    Attributes:
        key: Its key, an ASIN.
        score: Its BM25 score, above 0; a 32-bit float.
    """

    key: str
    score: float


class Ranker(Protocol):
    """Finds products."""

    def search(self, query: str, most: int = 50) -> list[Hit]:
        """The best products for a query, the best first.

        Args:
            query: Any text; each of its words counts as often as it occurs.
            most: The most products to return, at least 1.

        Raises:
            ConfigError: If `most` is below 1.
        """


def answer(
    query: str,
    most: int,
    *,
    postings: Postings,
    term_number: Callable[[str], int | None],
    key: Callable[[int], str],
) -> list[Hit]:
    """Answer a query from postings; what the rankers have in common.

    Args:
        query: The query.
        most: The most hits.
        postings: The documents.
        term_number: Gives the number of a term, None where no document holds it.
        key: Gives the key of a document.

    Raises:
        ConfigError: If `most` is below 1.
    """
    if most < 1:
        raise ConfigError(f"a search for {most} products finds none: ask for at least 1")
    counts: dict[int, int] = {}
    for term, count in Counter(analyze(query)).items():
        number = term_number(term)
        if number is not None:
            counts[number] = count
    numbers, scores = best(postings, counts, most)
    return [Hit(key(int(number)), float(score)) for number, score in zip(numbers, scores, strict=True)]


def check_unique(sorted_keys: Sequence[str]) -> None:
    """See that no key occurs twice.

    Raises:
        DataError: If one does.
    """
    for key, following in itertools.pairwise(sorted_keys):
        if key == following:
            raise DataError(f"two products have the key {key!r}: leave one of them out of the search")


class MemoryRanker:
    """A ranker that holds everything in memory.

    Args:
        documents: (key, text) of each product, in any order.

    Raises:
        DataError: If a key occurs twice.
    """

    def __init__(self, documents: Iterable[tuple[str, str]]) -> None:
        self._keys, self._terms, self._postings = _gathered((key, analyze(text)) for key, text in documents)

    @classmethod
    def from_tokens(cls, documents: Iterable[tuple[str, Sequence[str]]]) -> MemoryRanker:
        """A ranker over texts that were analyzed before.

        Args:
            documents: (key, terms) of each product, in any order.
        """
        ranker = cls(())
        ranker._keys, ranker._terms, ranker._postings = _gathered(documents)
        return ranker

    def __len__(self) -> int:
        return len(self._keys)

    def search(self, query: str, most: int = 50) -> list[Hit]:
        """The best products for a query; see `Ranker.search`."""
        return answer(
            query,
            most,
            postings=self._postings,
            term_number=self._terms.get,
            key=self._keys.__getitem__,
        )


def _gathered(
    documents: Iterable[tuple[str, Sequence[str]]],
) -> tuple[list[str], Mapping[str, int], Postings]:
    """Keys, term numbers and postings of analyzed documents."""
    ordered = sorted(((key, Counter(terms)) for key, terms in documents), key=lambda document: document[0])
    keys = [key for key, _ in ordered]
    check_unique(keys)
    numbers: dict[str, int] = {}
    terms, holders, frequencies = [], [], []
    for holder, (_, counts) in enumerate(ordered):
        for term, frequency in counts.items():
            terms.append(numbers.setdefault(term, len(numbers)))
            holders.append(holder)
            frequencies.append(frequency)
    lengths = np.array([counts.total() for _, counts in ordered], dtype=np.int64)
    postings = _postings(
        np.array(terms, dtype=np.int64),
        np.array(holders, dtype=np.int64),
        np.array(frequencies, dtype=np.int64),
        lengths,
        len(numbers),
    )
    return keys, numbers, postings


def _postings(
    terms: NDArray[np.int64],
    holders: NDArray[np.int64],
    frequencies: NDArray[np.int64],
    lengths: NDArray[np.int64],
    vocabulary: int,
) -> Postings:
    order = np.argsort(terms, kind="stable")
    terms, holders, frequencies = terms[order], holders[order], frequencies[order]
    filled = int(np.count_nonzero(lengths))
    mean = float(lengths.sum() / filled) if filled else 1.0
    dampings = damping(frequencies, norms(lengths, mean)[holders])
    starts = np.searchsorted(terms, np.arange(vocabulary + 1))
    return Postings(
        documents=len(lengths),
        filled=filled,
        starts=starts.astype(np.int64),
        numbers=holders.astype(np.int32),
        dampings=dampings,
    )
