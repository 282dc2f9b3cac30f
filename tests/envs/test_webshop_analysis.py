"""The English analyzer of WebShop's search: against Lucene's grammar, hand-worked words and recordings."""

from __future__ import annotations

import json
import lzma
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.envs.webshop.analysis import STOP_WORDS, analyze
from multiturn.envs.webshop.stemmer import stem
from multiturn.envs.webshop.words import LONGEST, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    Rule = Callable[[str, int], set[int]]

# A character for each class that the grammar tells apart.
SAMPLES = {
    "letter": "a",
    "hebrew": "\u05d0",
    "number": "1",
    "katakana": "\u30ab",
    "joiner": "_",
    "mid_letter": ":",
    "mid_number": ",",
    "mid_both": ".",
    "quote": "'",
    "double_quote": '"',
    "flag": "\U0001f1e9",
    "extend": "\u0301",
    "zwj": "\u200d",
    "emoji_style": "\ufe0f",
    "text_style": "\ufe0e",
    "skin": "\U0001f3fd",
    "keycap": "\u20e3",
    "tag": "\U000e0067",
    "tag_end": "\U000e007f",
    "complex": "\u0e01",
    "complex_extend": "\u0e31",
    "ideograph": "\u6f22",
    "picture": "\U0001f600",
    "picture_letter": "\u24c2",
    "keycap_base": "#",
    "none": " ",
}


def one(*names: str) -> Rule:
    members = {SAMPLES[name] for name in names}
    return lambda text, at: {at + 1} if at < len(text) and text[at] in members else set()


def chain(*rules: Rule) -> Rule:
    def ends(text: str, at: int) -> set[int]:
        reached = {at}
        for rule in rules:
            reached = {end for start in reached for end in rule(text, start)}
        return reached

    return ends


def either(*rules: Rule) -> Rule:
    return lambda text, at: set().union(*(rule(text, at) for rule in rules))


def maybe(rule: Rule) -> Rule:
    return lambda text, at: {at} | rule(text, at)


def any_number(rule: Rule) -> Rule:
    def ends(text: str, at: int) -> set[int]:
        reached, fresh = {at}, {at}
        while fresh:
            fresh = {end for start in fresh for end in rule(text, start)} - reached
            reached |= fresh
        return reached

    return ends


def some(rule: Rule) -> Rule:
    return chain(rule, any_number(rule))


def lucene_grammar() -> Rule:
    """Every end that a word may have: the rules as Lucene combines them, with all their choices left open."""
    plain = ("extend", "zwj", "skin", "keycap", "tag", "tag_end", "complex_extend")
    plain_extend = any_number(one(*plain))
    extend = any_number(one(*plain, "emoji_style", "text_style"))

    def with_extend(*names: str) -> Rule:
        return chain(one(*names), extend)

    zwj, style, joiner = one("zwj"), one("emoji_style"), with_extend("joiner")
    letter, hebrew = with_extend("letter", "hebrew", "picture_letter"), with_extend("hebrew")
    number, katakana = with_extend("number"), with_extend("katakana")
    mid_letter, mid_number = (
        with_extend("mid_letter", "mid_both", "quote"),
        with_extend("mid_number", "mid_both", "quote"),
    )
    joiners = any_number(joiner)
    run = either(
        chain(katakana, any_number(chain(joiners, katakana))),
        some(
            either(
                chain(hebrew, either(with_extend("quote"), chain(with_extend("double_quote"), hebrew))),
                chain(number, any_number(chain(either(joiners, mid_number), number))),
                chain(letter, any_number(chain(either(joiners, mid_letter), letter))),
            )
        ),
    )
    word = chain(joiners, run, any_number(chain(some(joiner), run)), joiners)

    picture = chain(one("picture", "picture_letter"), plain_extend)
    emoji = either(
        chain(any_number(zwj), picture, maybe(style)),
        chain(maybe(chain(any_number(zwj), picture)), one("skin"), plain_extend),
    )
    sequence = chain(emoji, either(any_number(chain(zwj, emoji)), chain(some(one("tag")), one("tag_end"))))
    keycap = chain(one("number", "keycap_base"), plain_extend, maybe(style), one("keycap"), plain_extend)
    return either(
        sequence,
        keycap,
        chain(with_extend("flag"), with_extend("flag")),
        word,
        some(with_extend("complex", "complex_extend")),
        with_extend("ideograph"),
    )


GRAMMAR = lucene_grammar()


def longest_matches(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        end = max(GRAMMAR(text, at), default=at)
        if end > at:
            yield text[at:end]
        at = max(end, at + 1)


@settings(max_examples=500, deadline=None)
@given(st.text(st.sampled_from(list(SAMPLES.values())), max_size=14))
def test_the_expression_finds_what_the_open_grammar_finds(text: str) -> None:
    assert words(text) == list(longest_matches(text))


NARROW = st.sampled_from(
    [
        [SAMPLES[name] for name in names]
        for names in (
            ["picture", "picture_letter", "zwj", "emoji_style", "skin", "tag", "tag_end", "letter"],
            [
                "hebrew",
                "letter",
                "number",
                "quote",
                "double_quote",
                "mid_both",
                "extend",
                "joiner",
                "katakana",
            ],
            [
                "keycap_base",
                "number",
                "keycap",
                "emoji_style",
                "zwj",
                "picture",
                "extend",
                "flag",
                "text_style",
            ],
            ["complex", "complex_extend", "extend", "zwj", "ideograph", "skin", "letter"],
        )
    ]
)


@settings(max_examples=500, deadline=None)
@given(NARROW.flatmap(lambda samples: st.text(st.sampled_from(samples), max_size=12)))
def test_likely_neighbours_are_found_as_the_open_grammar_finds_them(text: str) -> None:
    assert words(text) == list(longest_matches(text))


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters()))
def test_any_text_has_terms(text: str) -> None:
    found = words(text)
    position = 0
    for word in found:
        position = text.index(word, position) + len(word)
    assert all(analyze(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('solid-wood 5.5" x 3,000mm', ["solid", "wood", "5.5", "x", "3,000mm"]),
        ("description:solid e.g. a..b", ["description:solid", "e.g", "a", "b"]),
        ("don't 'quoted' rock'n'roll", ["don't", "quoted", "rock'n'roll"]),
        ("snake_case __a_1__ ___ 3:45", ["snake_case", "__a_1__", "3", "45"]),
        ("acme\u2122 \u00ae \u00a92020", ["acme", "\u2122", "\u00ae", "\u00a9", "2020"]),
        ("caf\u00e9 cafe\u0301", ["caf\u00e9", "cafe\u0301"]),
        ("\u3072\u3089\u30ab\u30bf\u6f22\u5b57", ["\u3072", "\u3089", "\u30ab\u30bf", "\u6f22", "\u5b57"]),
        ("\ud55c\uad6d\uc5b4", ["\ud55c\uad6d\uc5b4"]),
        ("\u2764\ufe0f\U0001f44d\U0001f3fd!", ["\u2764\ufe0f", "\U0001f44d\U0001f3fd"]),
        ("\U0001f468\u200d\U0001f469 #\ufe0f\u20e3", ["\U0001f468\u200d\U0001f469", "#\ufe0f\u20e3"]),
        ("\U0001f1e9\U0001f1ea\U0001f1eb", ["\U0001f1e9\U0001f1ea"]),
        ('\u05e6\u05d4"\u05dc', ['\u05e6\u05d4"\u05dc']),
        (" \t\r\n-/&()+$\ufffd", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("x" * 300, [255, 45]),
        # Two units each: 127 fit, and half of the next does not count.
        ("\U0001d400" * 130, [127, 3]),
        # No letter is in reach until 254 signs are left before it.
        ("_" * 300 + "a", [LONGEST]),
        ("a " + "1" * 510 + " b", [1, 255, 255, 1]),
    ],
)
def test_long_words_are_cut(text: str, lengths: list[int]) -> None:
    assert [len(word) for word in words(text)] == lengths


STEMS = (
    # The examples of Porter's paper, taken through all steps.
    "caresses=caress ponies=poni ties=ti cats=cat feed=feed agreed=agre plastered=plaster bled=bled "
    "motoring=motor sing=sing conflated=conflat troubled=troubl sized=size hopping=hop falling=fall "
    "hissing=hiss fizzed=fizz failing=fail filing=file happy=happi sky=sky relational=relat "
    "conditional=condit rational=ration digitizer=digit operator=oper feudalism=feudal "
    "decisiveness=decis hopefulness=hope formality=formal sensibiliti=sensibl triplicate=triplic "
    "formative=form electrical=electr goodness=good revival=reviv allowance=allow adjustable=adjust "
    "replacement=replac adoption=adopt communism=commun probate=probat rate=rate cease=ceas "
    "controll=control roll=roll "
    # Two letters stay; the departures; other signs are consonants; a y after a vowel is one.
    "as=as us=us is=is ies=i analogies=analog possibly=possibl trekking=trek toys=toi buys=bui "
    "3d=3d 5pcs=5pc caf\u00e9s=caf\u00e9 r\u00e9sing=r\u00e9sing \U0001d400s=\U0001d400 s=s"
)


@pytest.mark.parametrize("pair", STEMS.split())
def test_stems(pair: str) -> None:
    word, expected = pair.split("=")
    assert stem(word) == expected


def test_terms() -> None:
    """Possessives go before letters become small, stop words after that, and before stems."""
    assert analyze("The WOMEN'S dogs\u2019S dress's THIS's ISSUES") == ["women", "dog", "dress", "issu"]
    assert analyze("\u0130stanbul \u03a3\u0391\u03a3") == ["istanbul", "\u03c3\u03b1\u03c3"]
    assert len(STOP_WORDS) == 33
    assert analyze(" ".join(sorted(STOP_WORDS))) == []


def rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        pytest.skip(f"no recording {path.name}")
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def indexed_text(item: dict[str, Any]) -> str:
    """What the original indexes of an item, for items without oddities."""
    bullets = item["small_description"]
    first = bullets if isinstance(bullets, str) else (bullets or [""])[0]
    options = ", and ".join(
        f"{name.lower()}: " + ", ".join(value["value"].strip().replace("/", " | ") for value in values)
        for name, values in (item["customization_options"] or {}).items()
        if values
    )
    return " ".join([item["name"], item["full_description"], first, options]).lower()


def test_recorded_queries_and_texts(shared_data: Path) -> None:
    for row in rows(shared_data / "golden" / "webshop" / "ws_search.jsonl.xz"):
        assert analyze(row["query"]) == row["tokens"], row["query"]
    recorded = {
        row["asin"]: row["tokens"]
        for row in rows(shared_data / "golden" / "webshop" / "ws_lucene_tokens.jsonl.xz")
    }
    items = json.loads((shared_data / "webshop" / "items_shuffle_1000.json").read_text("utf-8"))
    found = {item["asin"]: analyze(indexed_text(item)) for item in items}
    assert len(recorded) == 1000
    assert found == recorded
