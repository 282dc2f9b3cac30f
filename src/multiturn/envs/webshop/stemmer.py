"""The Porter stemmer, with the departures that Lucene's has from the published algorithm.

M. F. Porter, "An algorithm for suffix stripping", Program 14(3), 1980. The departures: words of one or two
letters are left alone, ``bli`` becomes ``ble`` (the paper: ``abli`` becomes ``able``), and ``logi`` becomes
``log``.

The vowels are a, e, i, o, u, and y after a consonant; everything else (digits, signs, letters with accents)
counts as a consonant. The *measure* of a stem is how often a vowel is followed by a consonant in it.
"""

from __future__ import annotations

from typing import Final

__all__ = ["stem"]

_SHORTEST: Final = 3
"""Words with fewer UTF-16 units are left alone."""

_DOUBLE_SUFFIXES: Final = (
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("logi", "log"),
)
_LONG_SUFFIXES: Final = (
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
)
_LAST_TEXT: Final = "al ance ence er ic able ible ant ement ment ent sion tion ou ism ate iti ous ive ize"
_LAST_SUFFIXES: Final = tuple(_LAST_TEXT.split())
"""No suffix before another that it ends in; of sion and tion the first letter belongs to the stem."""


def stem(word: str) -> str:
    """The stem of a word.

    Args:
        word: A word in lower case. It may hold anything; what is no ASCII letter counts as a consonant.

    Returns:
        The stem; it has at least one letter where the word has.
    """
    if word.isascii() or max(word) <= "\uffff":
        return _stem(word)
    # Lucene counts UTF-16 units, of which such a character has two.
    raw = word.encode("utf-16-le", "surrogatepass")
    units = "".join(chr(raw[i] | raw[i + 1] << 8) for i in range(0, len(raw), 2))
    return _stem(units).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _stem(word: str) -> str:
    if len(word) < _SHORTEST:
        return word
    word = _without_participle(_without_plural(word))
    if word.endswith("y") and "v" in _shape(word[:-1]):
        word = word[:-1] + "i"
    word = _replaced(word, _DOUBLE_SUFFIXES)
    word = _replaced(word, _LONG_SUFFIXES)
    return _without_final_letter(_without_last_suffix(word))


def _shape(word: str) -> str:
    """The word with ``v`` for every vowel and ``c`` for every consonant."""
    shape = ""
    for letter in word:
        vowel = letter in "aeiou" or (letter == "y" and shape.endswith("c"))
        shape += "v" if vowel else "c"
    return shape


def _measure(word: str) -> int:
    return _shape(word).count("vc")


def _doubled(word: str) -> bool:
    """Whether the word ends in the same consonant twice."""
    return len(word) > 1 and word[-1] == word[-2] and _shape(word)[-1] == "c"


def _short_syllable(word: str) -> bool:
    """Whether the word ends in consonant, vowel, consonant, the last not w, x or y."""
    return _shape(word).endswith("cvc") and word[-1] not in "wxy"


def _without_plural(word: str) -> str:
    if word.endswith(("sses", "ies")):
        return word[:-2]
    if word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word


def _without_participle(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for suffix in ("ed", "ing"):
        root = word.removesuffix(suffix)
        if root != word:
            return _completed(root) if "v" in _shape(root) else word
    return word


def _completed(root: str) -> str:
    """What is left of a participle, as a word again: hop(p), fil(e), conflat(e)."""
    if root.endswith(("at", "bl", "iz")):
        return root + "e"
    if _doubled(root):
        return root if root[-1] in "lsz" else root[:-1]
    if _measure(root) == 1 and _short_syllable(root):
        return root + "e"
    return root


def _replaced(word: str, suffixes: tuple[tuple[str, str], ...]) -> str:
    """The word with the first suffix that fits replaced, if something measurable comes before it."""
    for suffix, other in suffixes:
        if word.endswith(suffix):
            root = word[: -len(suffix)]
            return root + other if _measure(root) > 0 else word
    return word


def _without_last_suffix(word: str) -> str:
    for suffix in _LAST_SUFFIXES:
        if word.endswith(suffix):
            root = word[: -len(suffix)] + (suffix[0] if suffix.endswith("ion") else "")
            return root if _measure(root) > 1 else word
    return word


def _without_final_letter(word: str) -> str:
    measure = _measure(word)
    if word.endswith("e"):
        root = word[:-1]
        if measure > 1 or (measure == 1 and not _short_syllable(root)):
            word = root
    return word[:-1] if word.endswith("ll") and measure > 1 else word
