"""WebShop's search: BM25 worked by hand, against a plain reference, and against recordings of Lucene."""

from __future__ import annotations

import json
import lzma
import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.envs.webshop import bm25
from multiturn.envs.webshop.ranker import Hit, MemoryRanker
from multiturn.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

WORDS = ("red", "blue", "hat", "shoe", "size", "big", "oak", "lamp")
CATALOGUES = st.dictionaries(
    st.text("ABC0123456789", min_size=1, max_size=4),
    st.lists(st.sampled_from(WORDS), max_size=12),
    max_size=25,
)
QUERIES = st.lists(st.sampled_from((*WORDS, "absent")), max_size=8)


def plain_search(catalogue: Mapping[str, Sequence[str]], query: Sequence[str], most: int) -> list[Hit]:
    """BM25 as its formula stands there, in 32 bits, for documents of fewer than 40 words."""
    f = np.float32
    filled = [terms for terms in catalogue.values() if terms]
    mean = f(sum(map(len, filled)) / max(1, len(filled)))
    hits = []
    for key, terms in catalogue.items():
        score = 0.0
        for term, count in Counter(query).items():
            holders = sum(term in other for other in filled)
            if term in terms:
                weight = f(count) * f(math.log(1 + (len(filled) - holders + 0.5) / (holders + 0.5)))
                inverse = f(1) / (f(0.9) * ((f(1) - f(0.4)) + f(0.4) * f(len(terms)) / mean))
                score += float(weight - weight / (f(1) + f(terms.count(term)) * inverse))
        if score:
            hits.append(Hit(key, float(f(score))))
    return sorted(hits, key=lambda hit: (-hit.score, hit.key))[:most]


def test_scores_worked_by_hand() -> None:
    """Two documents hold red, of 2 and 3 words; a third one holds nothing and does not count.

    The mean length is 2.5, the weight of red is ln(1 + 0.5/2.5) = 0.182322.
    B: s = 1 / (0.9 (0.6 + 0.4 * 2/2.5)) = 1 / 0.828 = 1.207729; 0.182322 (1 - 1/2.207729) = 0.099738.
    A: s = 1 / (0.9 (0.6 + 0.4 * 3/2.5)) = 1 / 0.972 = 1.028807; red occurs twice: 1 + 2s = 3.057613;
    0.182322 (1 - 1/3.057613) = 0.122693.
    Asked for twice, it weighs twice: 0.199477 and 0.245387.
    """
    ranker = MemoryRanker([("B", "Red shoe"), ("A", "red, red hat!"), ("C", "the ...")])
    assert len(ranker) == 3
    once = ranker.search("RED")
    assert [hit.key for hit in once] == ["A", "B"]
    assert [hit.score for hit in once] == pytest.approx([0.122693, 0.099738], abs=1e-6)
    assert [hit.score for hit in ranker.search("red the red")] == pytest.approx(
        [0.245387, 0.199477], abs=2e-6
    )


def test_equal_scores_are_in_the_order_of_keys() -> None:
    ranker = MemoryRanker((key, "red hat") for key in ("B2", "A9", "C1", "A1"))
    hits = ranker.search("hat", 3)
    assert [hit.key for hit in hits] == ["A1", "A9", "B2"]
    assert len({hit.score for hit in hits}) == 1


def test_lengths_fit_into_a_byte() -> None:
    """Exact up to 40, then by twos up to 56, then by fours: 41 counts as 40, 59 as 56, and 57 as 56 too."""
    lengths = np.array([0, 1, 39, 40, 41, 42, 55, 56, 57, 59, 60])
    stored = np.array([0, 1, 39, 40, 40, 42, 54, 56, 56, 56, 60], dtype=np.float32)
    one = np.float32(1)
    wanted = one / (np.float32(0.9) * ((one - np.float32(0.4)) + np.float32(0.4) * stored / np.float32(7)))
    assert bm25.norms(lengths, 7.0).tolist() == wanted.tolist()


def test_a_search_for_nothing() -> None:
    ranker = MemoryRanker([("A", "red")])
    assert ranker.search("") == ranker.search("the ?!") == ranker.search("unheard \ud800") == []
    assert MemoryRanker([]).search("red") == []
    with pytest.raises(ConfigError, match="at least 1"):
        ranker.search("red", 0)


def test_a_key_may_occur_once() -> None:
    with pytest.raises(DataError, match="'A'"):
        MemoryRanker([("A", "red"), ("B", "red"), ("A", "hat")])


@settings(max_examples=200, deadline=None)
@given(CATALOGUES, QUERIES, st.integers(1, 30))
def test_it_finds_what_the_formula_says(catalogue: dict[str, list[str]], query: list[str], most: int) -> None:
    found = MemoryRanker.from_tokens(catalogue.items()).search(" ".join(query), most)
    assert found == plain_search(catalogue, query, most)


@pytest.mark.parametrize("sample", [1, 40, 1 << 14])
def test_looking_through_a_sample_first_changes_nothing(sample: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words of very different rarity, and many documents that are equal."""
    rng = np.random.default_rng(sample)
    names = [f"w{number}" for number in range(60)]
    share = 1 / np.arange(1, 61)
    share /= share.sum()
    catalogue = {
        f"B{number:04d}": [names[index] for index in rng.choice(60, size=rng.integers(0, 6), p=share)]
        for number in range(600)
    }
    monkeypatch.setattr(bm25, "_SAMPLE", sample)
    ranker = MemoryRanker.from_tokens(catalogue.items())
    for _ in range(8):
        query = [names[index] for index in rng.choice(60, size=4, p=share)]
        whole = plain_search(catalogue, query, 1000)
        for most in (1, 10, 50, 1000):
            assert ranker.search(" ".join(query), most) == whole[:most]


def test_recorded_rankings(shared_data: Path) -> None:
    """Lucene's own: 50 products for each query.

    The recorder rounds scores to four decimals and takes a millionth more off each further one of equals.
    """
    folder = shared_data / "golden" / "webshop"
    paths = folder / "ws_lucene_tokens.jsonl.xz", folder / "ws_search.jsonl.xz"
    if not all(path.is_file() for path in paths):
        pytest.skip(f"no recordings of searches in {folder}")
    with lzma.open(paths[0], "rt", encoding="utf-8") as file:
        ranker = MemoryRanker.from_tokens((row["asin"], row["tokens"]) for row in map(json.loads, file))
    with lzma.open(paths[1], "rt", encoding="utf-8") as file:
        recorded = [json.loads(line) for line in file]
    assert len(recorded) == 300
    for row in recorded:
        hits = ranker.search(row["query"])
        assert [hit.key for hit in hits] == row["asins"], row["query"]
        assert recorded_scores(hits) == pytest.approx(row["scores"], abs=3e-6)


def recorded_scores(hits: Sequence[Hit]) -> list[float]:
    scores: list[float] = []
    equals = 0
    for position, hit in enumerate(hits):
        rounded = round(hit.score, 4)
        equals = equals + 1 if position and rounded == round(hits[position - 1].score, 4) else 0
        scores.append(rounded - equals * 1e-6)
    return scores
