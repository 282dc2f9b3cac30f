"""Make up a shop: products of many kinds in the format of WebShop's data files.

Nothing in it is taken from a real shop: brands, texts and prices are drawn from lists of words. Goals come
out of it by the same rules as out of the real files, so an agent can practise, and tests can run, without
them. What is reached in such a shop says nothing about WebShop.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import string
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["GENERATOR_VERSION", "Catalogue", "generate_catalogue"]

GENERATOR_VERSION: Final = 1
"""Raised whenever the same seed makes another shop."""
_WISHED: Final = 0.85
"""The share of products that someone wants."""
_PRICELESS: Final = 0.03
"""The share of products that come without a price, as some real ones do."""
_PRICED_OPTIONS: Final = 0.25
"""The share of kinds of options, of those a product has, that change its price."""
_HAS_OPTIONS: Final = 0.85
"""How often a product has a kind of options that such products can have."""
_PATH_SEPARATOR: Final = " \u203a "
_BRANDS: Final = 60
_KEY_LETTERS: Final = string.ascii_uppercase + string.digits
_TITLES: Final = (
    ("{brand}", " {look} ", "{material} {name}", " for ", "{use}"),
    ("{brand} {name}", ", {look}, for ", "{use}", ", made with ", "{material}"),
    ("{look} ", "{material} {name}", " for ", "{use}", " by ", "{brand}"),
    ("{brand} {material} {name}", ", {look} and made for ", "{use}"),
)
"""Titles in pieces; words of the pieces that begin with a placeholder of `_NAMING` are nouns."""
_NAMING: Final = ("{brand}", "{material}", "{name}", "{use}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """A shop's products.

    Attributes:
        items: The products, each as in WebShop's ``items_shuffle.json``.
        attributes: For each product's key its properties, and where someone wants it the wish, as in
            ``items_ins_v2.json``.
        nouns: For each product's title its nouns in order, lower-case, with repetitions. They follow from how
            titles are made; a tagger would also take some of the capitalised adjectives for nouns.
    """

    items: list[dict[str, Any]]
    attributes: dict[str, dict[str, Any]]
    nouns: dict[str, tuple[str, ...]]


def generate_catalogue(*, seed: int, products: int = 300) -> Catalogue:
    """Make up a shop.

    The same arguments give the same shop on every machine, and a larger shop begins with the products of a
    smaller one. 300 products lead to more than 3,000 goals.

    Args:
        seed: Another seed, another shop.
        products: How many products, at least 1.

    Raises:
        ConfigError: If ``products`` is below 1.
    """
    if products < 1:
        raise ConfigError(f"a shop of {products} products has nothing to sell: ask for at least 1")
    words = _words()
    rng = _rng(seed, "shop")
    brands = _brands(words["brands"], rng)
    kinds = rng.sample(words["kinds"], len(words["kinds"]))
    catalogue = Catalogue(items=[], attributes={}, nouns={})
    for number in range(products):
        _add_product(catalogue, kinds[number % len(kinds)], brands, (seed, number))
    return catalogue


@functools.cache
def _words() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("generator_words.json").read_text("ascii")
    words: dict[str, Any] = json.loads(text)
    return words


def _rng(*key: object) -> random.Random:
    return random.Random(f"webshop/{GENERATOR_VERSION}/{'/'.join(map(str, key))}")  # noqa: S311 - goods, not secrets


def _brands(syllables: Mapping[str, Sequence[str]], rng: random.Random) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < _BRANDS:
        names["".join(rng.choice(syllables[part]) for part in ("first", "second", "third")).title()] = None
    return list(names)


def _add_product(
    catalogue: Catalogue, kind: Mapping[str, Any], brands: Sequence[str], key: tuple[int, int]
) -> None:
    """Draw products until one has a title and a key that no other has."""
    attempt = 0
    while True:
        rng = _rng(*key, attempt)
        parts = {
            "brand": rng.choice(brands),
            "look": rng.choice(kind["looks"]),
            "material": rng.choice(kind["materials"]),
            "name": rng.choice(kind["names"]),
            "use": rng.choice(kind["uses"]),
        }
        title, nouns = _title(parts, rng)
        asin = "G" + "".join(rng.choices(_KEY_LETTERS, k=9))
        if title not in catalogue.nouns and asin not in catalogue.attributes:
            break
        attempt += 1
    known = _words()["attributes"]
    attributes = rng.sample(kind["attributes"], rng.randint(2, 6))
    catalogue.nouns[title] = nouns
    catalogue.items.append(_item(kind, parts, title, asin, attributes, rng))
    catalogue.attributes[asin] = {"attributes": attributes}
    if rng.random() < _WISHED:
        wished = rng.sample(attributes, rng.randint(1, min(4, len(attributes))))
        form = rng.choice(_words()["wishes"])
        forms = {attribute: known[attribute]["form"] for attribute in wished}
        catalogue.attributes[asin] |= {
            "instruction": form.format(_wish(kind["query"], forms)),
            "instruction_attributes": wished,
        }


def _title(parts: Mapping[str, str], rng: random.Random) -> tuple[str, tuple[str, ...]]:
    """A title and its nouns."""
    title, nouns = "", []
    for piece in rng.choice(_TITLES):
        text = piece.format(**parts)
        title += text
        if piece.startswith(_NAMING):
            nouns += [word.removesuffix("'s") for word in text.lower().split()]
    return title, tuple(nouns)


def _item(
    kind: Mapping[str, Any],
    parts: Mapping[str, str],
    title: str,
    asin: str,
    attributes: Sequence[str],
    rng: random.Random,
) -> dict[str, Any]:
    words = _words()
    sentences = [words["attributes"][attribute]["sentence"] for attribute in attributes]
    plain = {name: text if name == "brand" else text.lower() for name, text in parts.items()}
    said = [text.format(**plain) for text in rng.sample(words["descriptions"][kind["category"]], 3)]
    said = [text[0].upper() + text[1:] for text in said]
    # Search sees the description and the first feature only: not all that a product is can be searched for.
    described = rng.randint(1, len(sentences))
    bullets = [*sentences[described:], said.pop()]
    rng.shuffle(bullets)
    price = min(rng.randrange(kind["price"][0] * 100, kind["price"][1] * 100) for _ in range(2)) / 100
    options, prices = _options(kind["options"], price, rng)
    pricing = "".join(f"${each:.2f}" for each in sorted({min(prices), max(prices)}))
    return {
        "name": title,
        "full_description": " ".join([said[0], *sentences[:described], said[1]]),
        "pricing": "" if rng.random() < _PRICELESS else pricing,
        "images": [],
        "product_category": _PATH_SEPARATOR.join(kind["path"]),
        "average_rating": rng.randint(30, 50) / 10,
        "small_description": bullets,
        "customization_options": options,
        "asin": asin,
        "category": kind["category"],
        "query": kind["query"],
        "page": 1,
    }


def _options(
    offered: Sequence[str], price: float, rng: random.Random
) -> tuple[dict[str, list[dict[str, Any]]] | str, list[float]]:
    """A product's options, empty text where it has none, and all prices that it can have."""
    options: dict[str, list[dict[str, Any]]] = {}
    prices = [price]
    for name in offered:
        pool = _words()["options"][name]
        if rng.random() >= _HAS_OPTIONS:
            continue
        count = rng.randint(2, min(7, len(pool["values"])))
        chosen = sorted(rng.sample(range(len(pool["values"])), count))
        own = [0.0] * count
        if len(prices) == 1 and rng.random() < _PRICED_OPTIONS:
            own = [round(price * (1 + step / 10), 2) for step in range(count)]
            prices = own
        options[pool["name"]] = [
            {
                "value": pool["values"][place],
                "is_selected": position == 0,
                "price": own[position],
                "price_string": f"${own[position]:.2f}" if own[position] else "",
            }
            for position, place in enumerate(chosen)
        ]
    return options or "", prices


def _wish(query: str, forms: Mapping[str, str]) -> str:
    """``"easy clean console tables with solid wood for living room"``."""
    said = {
        form: ", ".join(attribute for attribute, own in forms.items() if own == form)
        for form in ("is", "with", "for")
    }
    pieces = (
        said["is"],
        query,
        said["with"] and f"with {said['with']}",
        said["for"] and f"for {said['for']}",
    )
    return " ".join(piece for piece in pieces if piece)
