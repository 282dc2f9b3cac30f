"""Text to search terms, as Anserini 0.25 has Lucene do it by default.

Words, then: an English possessive ending is dropped, letters become small ones, stop words go, and the Porter
stemmer reduces what is left. Terms keep the order and the number of the words they come from.
"""

from __future__ import annotations

import functools
from typing import Final

from multiturn.envs.webshop.stemmer import stem
from multiturn.envs.webshop.words import words

__all__ = ["ANALYSIS_VERSION", "STOP_WORDS", "analyze", "term_of"]

ANALYSIS_VERSION: Final = 1
"""Goes up with every change that gives other terms; a stored index holds it."""

_STOP_TEXT: Final = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these "
    "they this to was will with"
)
STOP_WORDS: Final = frozenset(_STOP_TEXT.split())
"""The words that are not searched for: Lucene's default for English."""

_APOSTROPHES: Final = "'\u2019\uff07"
_REMEMBERED: Final = 1 << 17
"""Words whose terms are kept, some 20 MB; a word in a catalogue returns hundreds of times."""


def analyze(text: str) -> list[str]:
    """The terms of a text or a query.

    Args:
        text: Any text.

    Returns:
        A term for each word that is no stop word, in order.
    """
    return [term for word in words(text) if (term := term_of(word)) is not None]


@functools.lru_cache(maxsize=_REMEMBERED)
def term_of(word: str) -> str | None:
    """The term of one word, or None for a stop word."""
    if len(word) > 1 and word[-1] in "sS" and word[-2] in _APOSTROPHES:
        word = word[:-2]
    word = _lower(word)
    return None if word in STOP_WORDS else stem(word)


def _lower(word: str) -> str:
    """Each character in lower case by itself, as Java does; Python's `str.lower` looks at its neighbours."""
    if not word.isascii():
        # The two characters that Python treats otherwise: a capital I with a dot, and sigma at a word's end.
        word = word.replace("\u0130", "i").replace("\u03a3", "\u03c3")
    return word.lower()
