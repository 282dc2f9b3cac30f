"""Text from outside: it neither acts nor hides."""

from __future__ import annotations

import html
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.reports.untrusted import clip, reveal, reveal_html


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("right\u202eleft", "right⟨U+202E⟩left"),
        ("a\u2066b\u2069", "a⟨U+2066⟩b⟨U+2069⟩"),
        ("bell\x07 null\x00 escape\x1b[31m", "bell⟨U+0007⟩ null⟨U+0000⟩ escape⟨U+001B⟩[31m"),
        ("line\r\nbreak\rreturn", "line\nbreak⟨U+000D⟩return"),
        ("zero\u200bwidth\ufeff", "zero⟨U+200B⟩width⟨U+FEFF⟩"),
        ("lone \ud83d surrogate", "lone ⟨U+D83D⟩ surrogate"),
        ("tag \U000e0041", "tag ⟨U+E0041⟩"),
        ("separator\u2028", "separator⟨U+2028⟩"),
        (
            "\u062e\u0627\u0646\u0647\u200c\u0647\u0627 \U0001f469\u200d\U0001f373",
            "\u062e\u0627\u0646\u0647\u200c\u0647\u0627 \U0001f469\u200d\U0001f373",
        ),  # Persian with a non-joiner, a cook
    ],
)
def test_what_hides_is_shown_by_its_code_point(text: str, shown: str) -> None:
    assert reveal(text) == shown


def test_markup_is_text_and_hidden_characters_are_set_off() -> None:
    shown = reveal_html('<script>alert("x")</script>\u202e&')
    assert shown == (
        '&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;<span class="hidden-character">⟨U+202E⟩</span>&amp;'
    )


def test_long_texts_are_cut_and_counted() -> None:
    assert clip("abcdef", 4) == ("abcd", 2)
    assert clip("abc", 4) == ("abc", 0)


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)


@settings(deadline=None, max_examples=300)
@given(ANY_TEXT)
def test_any_text_becomes_harmless(text: str) -> None:
    """UTF-8 holds it; nothing of it is markup; no control or direction character is left."""
    shown = str(reveal_html(text))
    shown.encode("utf-8")
    bare = re.sub(r'<span class="hidden-character">(⟨U\+[0-9A-F]{4,6}⟩)</span>', r"\1", shown)
    assert not set(bare) & set("<>\"'")
    assert html.unescape(bare) == reveal(text)
    left = {unicodedata.category(c) for c in bare if c not in "\n\t"}
    assert not left & {"Cc", "Cs", "Co", "Zl", "Zp"}
    assert not any(
        unicodedata.bidirectional(c) in {"RLO", "LRO", "RLE", "LRE", "RLI", "LRI", "FSI"} for c in bare
    )
