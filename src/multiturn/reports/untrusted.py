"""Text that models and environments wrote, made fit to be read: nothing in it acts, and nothing in it hides.

Escaping keeps text from becoming markup, but not from misleading: a right-to-left override turns a line
around, zero-width characters hide, control characters vanish. Here each of these is shown by its code point.
"""

from __future__ import annotations

import re
from typing import Final

from markupsafe import Markup, escape

__all__ = ["clip", "reveal", "reveal_html"]

# Line feed and tab lay text out; zero-width joiner and non-joiner (U+200C, U+200D) are part of how Persian,
# Hindi and emoji are spelled. They stay.
_HIDDEN: Final = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls
    "\u00ad\u034f\u115f\u1160\u180e\u3164\uffa0"  # soft hyphen, joiners and fillers without a shape
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # writing direction
    "\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"  # zero width, annotations
    "\u2028\u2029"  # line and paragraph separators
    "\ud800-\udfff"  # lone surrogates; UTF-8 cannot hold them
    "\ue000-\uf8ff\U000f0000-\U0010ffff"  # private use: whatever a font makes of it
    "\ufdd0-\ufdef\ufffe\uffff"  # noncharacters
    "\U000e0000-\U000e0fff"  # tags, and variation selectors that can smuggle text
    "]"
)


def reveal(text: str) -> str:
    """The text with every control, direction, zero-width or otherwise hidden character as ``⟨U+202E⟩``.

    Carriage returns that belong to a line break go. The result can be encoded in UTF-8 (lone surrogates too
    are shown by code point).
    """
    return _HIDDEN.sub(_code_point, text.replace("\r\n", "\n"))


def reveal_html(text: str) -> Markup:
    """The text escaped for HTML, with hidden characters as `reveal` shows them, set off by an element."""
    parts = []
    end = 0
    text = text.replace("\r\n", "\n")
    for match in _HIDDEN.finditer(text):
        parts.append(escape(text[end : match.start()]))
        parts.append(Markup('<span class="hidden-character">{}</span>').format(_code_point(match)))
        end = match.end()
    parts.append(escape(text[end:]))
    return Markup("").join(parts)


def clip(text: str, limit: int) -> tuple[str, int]:
    """The first ``limit`` characters of a text, and how many more there are."""
    return text[:limit], max(0, len(text) - limit)


def _code_point(match: re.Match[str]) -> str:
    return f"⟨U+{ord(match.group()):04X}⟩"
