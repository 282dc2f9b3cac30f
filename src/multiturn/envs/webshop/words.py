"""Words of a text, as Lucene's standard tokenizer (9.1 and later) finds them.

The tokenizer follows the word boundaries of Unicode Standard Annex #29 and the emoji sequences of Unicode
Technical Standard #51, for Unicode 12.1. It does so by longest match with a grammar of its own; where that
and the annex differ (Hebrew quotation marks, South East Asian scripts, flags, keycaps) the grammar counts.
What is in no word is left out.

A text is first turned into a string of classes, a letter for each character; the grammar is a regular
expression over that string.
"""

from __future__ import annotations

import bisect
import json
import re
from importlib import resources
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LONGEST", "words"]

LONGEST: Final = 255
"""The most UTF-16 units in a word; longer ones are cut."""

_NONE: Final = "-"
_LETTERS: Final = {
    "letter": "a",
    "hebrew": "h",
    "number": "n",
    "katakana": "k",
    "joiner": "_",
    "mid_letter": ":",
    "mid_number": ",",
    "mid_both": ".",
    "quote": "'",
    "double_quote": '"',
    "flag": "F",
    "extend": "x",
    "zwj": "z",
    "emoji_style": "v",
    "text_style": "t",
    "skin": "s",
    "keycap": "c",
    "tag": "g",
    "tag_end": "G",
    "complex": "S",
    "complex_extend": "m",
    "ideograph": "I",
    "picture": "P",
    "picture_letter": "Q",
    "keycap_base": "#",
}
"""Class in word_classes.json -> its letter in a string of classes."""

_PLAIN: Final = "[xzscgGm]"
"""What clings to the character before it and chooses no style."""
_CLINGING: Final = "[xzscgGmvt]"
"""What clings to the character before it."""
_EXTEND: Final = f"{_CLINGING}*+"


class _Classes(dict[int, str]):
    """Code point -> letter of its class, for `str.translate`; looked up when first met."""

    def __init__(self) -> None:
        super().__init__()
        data = json.loads(resources.files(__package__).joinpath("word_classes.json").read_text("ascii"))
        ranges = []
        for name, members in data["classes"].items():
            for span in members.split():
                first, _, last = span.partition("-")
                ranges.append((int(first, 16), int(last or first, 16), _LETTERS[name]))
        self._ranges = sorted(ranges)
        self._starts = [first for first, _, _ in self._ranges]

    def __missing__(self, code: int) -> str:
        position = bisect.bisect_right(self._starts, code) - 1
        known = position >= 0 and code <= self._ranges[position][1]
        letter = self._ranges[position][2] if known else _NONE
        self[code] = letter
        return letter


def _word_rule() -> str:
    """Letters and numbers, and what joins them; the leftmost choice always leads to the longest match."""
    extend = _EXTEND
    part = "|".join(
        (
            # A Hebrew letter takes a quotation mark after it, or two with another Hebrew letter behind them.
            f"h{extend}(?:'{extend}|\"{extend}h{extend})",
            f"n{extend}(?:[,.']{extend}n{extend})*+",
            f"[ahQ]{extend}(?:[:.']{extend}[ahQ]{extend})*+",
        )
    )
    run = f"(?:(?:k{extend})++|(?:{part})++)"
    joiner = f"_{extend}"
    return f"(?:{joiner})*+{run}(?:(?:{joiner})++{run})*+(?:{joiner})*+"


def _emoji_rules() -> tuple[str, str]:
    """Emoji with skins, joined ones and tags: the rule for those that a word could begin like, and the rest.

    Pictures that are letters too (a circled M) belong to a word unless the emoji is the longer match: unless
    it reaches a picture that is no letter.
    """
    extend = f"{_PLAIN}*+"
    link = f"(?:(?<=z)|v(?:z++|zs{extend}(?<=z)))"
    longer = f"Q{extend}(?:{link}Q{extend})*{link}(?=P)"
    picture = f"[PQ]{extend}(?:(?<=z)[PQ]{extend})*"
    skin = f"s{extend}"
    joined = f"(?:v(?:z++{picture}|z{skin}(?<=z){picture}))*(?:v(?:z{skin})?)?"
    tagged = f"z*+[PQ]{extend}vg+G"
    return f"{longer}{picture}{joined}", f"{tagged}|(?:z*+{picture}|{skin}(?<=z){picture}){joined}|{skin}"


def _grammar() -> re.Pattern[str]:
    emoji_before_words, emoji = _emoji_rules()
    rules = (
        emoji_before_words,
        _word_rule(),
        emoji,
        f"F{_EXTEND}F{_EXTEND}",
        f"[Sm](?:S|{_CLINGING})*+",
        f"I{_EXTEND}",
        f"#(?:{_PLAIN}*vc|{_PLAIN}*c){_PLAIN}*",
    )
    # Runs that come to nothing are taken in one go: each of their characters would look as far ahead.
    return re.compile(f"({'|'.join(rules)})|_[_xcgGvt]*+|z++")


_CLASSES: Final = _Classes()
_GRAMMAR: Final = _grammar()


def words(text: str) -> list[str]:
    """The words of a text, in order, as they are written there.

    Args:
        text: Any text.

    Returns:
        The words. A word longer than `LONGEST` UTF-16 units is cut, and the rest of it is read on.
    """
    classes = text.translate(_CLASSES)
    spans = [match.span(1) for match in _GRAMMAR.finditer(classes)]
    # Two units at the most for a character, so no shorter word needs a count.
    if any(end - start > LONGEST // 2 for start, end in spans) and any(
        _units(text[start:end]) > LONGEST for start, end in spans
    ):
        spans = list(_windowed(text, classes))
    return [text[start:end] for start, end in spans if end > start]


def _windowed(text: str, classes: str) -> Iterator[tuple[int, int]]:
    """The spans of the words where no match may see further than `LONGEST` UTF-16 units from its start."""
    start = 0
    while start < len(text):
        end = min(len(text), start + LONGEST)
        while _units(text[start:end]) > LONGEST:
            end -= 1
        match = _GRAMMAR.match(classes, start, end)
        if match is None or match.start(1) < 0:
            start += 1
        else:
            yield match.span(1)
            start = match.end()


def _units(text: str) -> int:
    return len(text) + sum(letter > "\uffff" for letter in text)
