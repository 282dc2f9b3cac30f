"""What the tests of WebShop share: products and shops to play in, and the recordings of the original."""

from __future__ import annotations

import functools
import json
import lzma
import random
from typing import TYPE_CHECKING, Any

import pytest

from multiturn.cache import replace_folder
from multiturn.envs.webshop.goals import Goal
from multiturn.envs.webshop.products import Product
from multiturn.envs.webshop.ranker import MemoryRanker
from multiturn.envs.webshop.shelf import MemoryShelf
from multiturn.envs.webshop.shop import Shop
from multiturn.envs.webshop.world import NOUNS_FILE, DataFiles, prepared_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

    from multiturn.envs.webshop.ranker import Ranker

SIZES: Any = {"customization_options": {"Size": [{"value": str(size)} for size in range(40)]}}
WISH: Any = {
    "attributes": ["easy clean"],
    "instruction": "Find me easy clean lamps",
    "instruction_attributes": ["easy clean"],
}
SAID: Any = {
    "instruction": "a red lamp.",
    "instruction_attributes": ["easy clean"],
    "instruction_options": ["red"],
}


def record(asin: str = "B000000001", **changes: Any) -> dict[str, Any]:
    """A product as it stands in items_shuffle.json."""
    return {
        "asin": asin,
        "name": "Oak Lamp",
        "category": "garden",
        "query": "table lamps",
        "product_category": "Home \u203a Lighting \u203a Lamps",
        "full_description": "A lamp of oak.",
        "small_description": ["Warm light.", "Easy to clean."],
        "pricing": "$19.99",
        "customization_options": {},
    } | changes


def product(asin: str = "B000000001", **changes: Any) -> Product:
    """A product."""
    fields: dict[str, Any] = {
        "asin": asin,
        "category": "garden",
        "query": "table lamps",
        "product_category": "Home \u203a Lighting \u203a Lamps",
        "title": "Oak Lamp",
        "description": "A lamp of oak.",
        "bullets": ("Warm light.", "Easy to clean."),
        "pricing": (19.99,),
        "price_tag": "$19.99",
        "options": {},
        "attributes": ("easy clean",),
    }
    return Product(**(fields | changes))


def goal(made_from: Product | None = None, **changes: Any) -> Goal:
    """A goal, made from a product."""
    source = made_from or product()
    fields: dict[str, Any] = {
        "asin": source.asin,
        "category": source.category,
        "query": source.query,
        "name": source.title,
        "product_category": source.product_category,
        "instruction": "Find me easy clean table lamps",
        "attributes": ("easy clean",),
        "price_upper": 30.0,
        "options": (),
    }
    return Goal(**(fields | changes))


def words(title: str) -> tuple[str, ...]:
    """Every word of a title, as if all were nouns."""
    return tuple(title.lower().split())


def seeded(seed: int) -> random.Random:
    """Python's generator, whose draws the original's are."""
    return random.Random(seed)  # noqa: S311 - no secrets


def shop_of(
    products: Iterable[Product],
    goals: Iterable[Goal] | None = None,
    *,
    nouns: Callable[[str], Collection[str]] = words,
    ranker: Ranker | None = None,
    show_attributes: bool = False,
) -> Shop:
    """A shop with these products, whose prices are the lower ones; by default with a goal for the first."""
    shelf = MemoryShelf(products)
    first = next(iter(shelf.values()))
    return Shop(
        shelf=shelf,
        goals=[goal(first)] if goals is None else list(goals),
        prices={asin: each.pricing[0] for asin, each in shelf.items()},
        ranker=ranker or MemoryRanker((asin, each.indexed_text) for asin, each in shelf.items()),
        nouns=nouns,
        rng=seeded(0),
        show_attributes=show_attributes,
    )


def lamps(count: int, **changes: Any) -> list[Product]:
    """Products that a search for a lamp finds in the order of their keys."""
    return [product(f"B{number:09d}", **changes) for number in range(1, count + 1)]


def write_data(
    folder: Path,
    records: Iterable[Mapping[str, Any]],
    attributes: Mapping[str, Any],
    human: Mapping[str, Any] | None = None,
) -> Path:
    """Data files as the original has them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "items_shuffle.json").write_text(json.dumps(list(records)), encoding="utf-8")
    (folder / "items_ins_v2.json").write_text(json.dumps(attributes), encoding="utf-8")
    if human is not None:
        (folder / "items_human_ins.json").write_text(json.dumps(human), encoding="utf-8")
    return folder


def prepare_nouns(data: Path, nouns: Mapping[str, Iterable[str]]) -> None:
    """Put a table of nouns for these data files into the cache, as if spaCy had been asked."""
    table = {
        "spacy": "none",
        "complete": True,
        "nouns": {title: list(of_title) for title, of_title in nouns.items()},
    }

    def build(folder: Path) -> None:
        (folder / NOUNS_FILE).write_text(json.dumps(table), encoding="utf-8")

    replace_folder(prepared_folder(DataFiles.find(data).digest()), build)


@functools.cache
def recorded(shared: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a recording."""
    path = shared / "golden" / "webshop" / f"{name}.jsonl.xz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not among the benchmark data")
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def recorded_nouns(shared: Path) -> dict[str, tuple[str, ...]]:
    """The nouns of the titles of the 1,000 products."""
    return {
        row["name"]: tuple(
            token.lower()
            for token, tag in zip(row["tokens"], row["pos"], strict=True)
            if tag in ("NOUN", "PROPN")
        )
        for row in recorded(shared, "ws_title_pos")
    }


def keys(count: int) -> list[str]:
    """The keys of so many `lamps`."""
    return [f"B{number:09d}" for number in range(1, count + 1)]


def lamp_data(folder: Path) -> Path:
    """Data files with 50 lamps, each of 40 sizes, all asked for: 2,000 goals, and 2 that people wrote.

    Their nouns are in the cache.
    """
    records = [record(asin, **SIZES) for asin in keys(50)]
    write_data(folder, records, dict.fromkeys(keys(50), WISH), {asin: [SAID] for asin in keys(2)})
    prepare_nouns(folder, {"Oak Lamp": words("Oak Lamp")})
    return folder
