"""The reward of a purchase, with the original's arithmetic and its peculiarities."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from rapidfuzz import fuzz, utils

from multiturn.envs.webshop.products import CATEGORY_SEPARATOR

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from multiturn.envs.webshop.goals import Goal
    from multiturn.envs.webshop.products import Product

__all__ = ["COLOURS", "Reward", "option_matches", "purchase_reward"]

_SIMILAR: Final = 85
"""Texts of a greater similarity (0 to 100) count as the same."""

# fmt: off
COLOURS: Final = (
    "alabaster", "apricot", "aqua", "ash", "asphalt", "azure", "banana", "beige", "black", "blue",
    "blush", "bordeaux", "bronze", "brown", "burgundy", "camel", "camo", "caramel", "champagne",
    "charcoal", "cheetah", "chestnut", "chocolate", "christmas", "coffee", "cognac", "copper", "coral",
    "cranberry", "cream", "crystal", "dark", "denim", "eggplant", "elephant", "espresso", "fuchsia",
    "gold", "granite", "grape", "graphite", "grass", "gray", "green", "grey", "heather", "indigo",
    "ivory", "ivy", "khaki", "lavender", "lemon", "leopard", "light", "lilac", "lime", "magenta",
    "maroon", "mauve", "merlot", "midnight", "mint", "mocha", "multicolor", "mushroom", "mustard",
    "natural", "navy", "nude", "olive", "orange", "peach", "pewter", "pink", "plum", "purple",
    "rainbow", "red", "rose", "royal", "rust", "sand", "sapphire", "seashell", "silver", "skull",
    "slate", "steel", "stone", "stonewash", "sunflower", "tan", "taupe", "teal", "tiger", "turquoise",
    "violet", "walnut", "wheat", "white", "wine", "yellow",
)
# fmt: on
"""What an option is reduced to where it contains one of them; the first in this order counts."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """What a purchase is worth, and why.

    Attributes:
        total: In [0, 1].
        parts: The original's names and figures: ``r_type``, ``r_att``, ``r_option``, ``r_price``, the weights
            ``w_att``, ``w_option``, ``w_price``, and what the type was judged by.
        attribute_matches: How many of the wanted properties it has.
        option_matches: How many of the wanted options were chosen.
    """

    total: float
    parts: Mapping[str, Any]
    attribute_matches: int
    option_matches: int


def purchase_reward(
    product: Product,
    goal: Goal,
    *,
    price: float,
    options: Mapping[str, str],
    nouns: Callable[[str], Collection[str]],
) -> Reward:
    """The reward for buying a product.

    Args:
        product: What was bought.
        goal: What was wanted.
        price: What it costs, in dollars.
        options: The options that were chosen, by their kind.
        nouns: The nouns of a title, lower-case.
    """
    kind = _kind(product, goal, nouns)
    attribute_matches = sum(_has(product, wanted) for wanted in goal.attributes)
    chosen_matches = option_matches(list(options.values()), goal.options)
    affordable = price <= goal.price_upper
    wishes = len(goal.attributes) + len(goal.options) + 1
    parts: dict[str, Any] = {
        "r_type": kind["r_type"],
        "r_att": attribute_matches / len(goal.attributes),
        "w_att": len(goal.attributes) / wishes,
        "query_match": kind["query_match"],
        "category_match": kind["category_match"],
        "title_score": kind["title_score"],
    }
    if goal.options:
        parts |= {"r_option": chosen_matches / len(goal.options), "w_option": len(goal.options) / wishes}
    parts |= {"r_price": affordable, "w_price": 1 / wishes}
    total = (attribute_matches + chosen_matches + affordable) / wishes * kind["r_type"]
    return Reward(
        total=total, parts=parts, attribute_matches=attribute_matches, option_matches=chosen_matches
    )


def _kind(product: Product, goal: Goal, nouns: Callable[[str], Collection[str]]) -> dict[str, Any]:
    """Whether it is the kind of thing that was wanted: by its kind, its categories and its title."""
    query_match = product.query == goal.query
    common = _categories(product.product_category) & _categories(goal.product_category)
    category_match = len(common) >= 2
    wanted = list(nouns(goal.name))
    shared = len(set(wanted) & set(nouns(product.title)))
    title_score = shared / len(wanted) if wanted else 0.2
    r_type = 1.0 if query_match or category_match or title_score > 0.2 else 0.5
    # A title without any common noun outweighs even a kind that is the same.
    if title_score < 0.1:
        r_type = 0.1
    if title_score == 0.0:
        r_type = 0.0
    return {
        "r_type": r_type,
        "query_match": query_match,
        "category_match": category_match,
        "title_score": title_score,
    }


def _categories(path: str) -> set[str]:
    return {part.strip() for part in path.split(CATEGORY_SEPARATOR)}


def _has(product: Product, wanted: str) -> bool:
    """Whether a product has a property: among its own, or somewhere in its texts."""
    if any(_similarity(own, wanted) > _SIMILAR for own in product.attributes):
        return True
    texts = (product.title, " ".join(product.bullets), product.description)
    return any(wanted in text.lower() for text in texts)


def option_matches(chosen: Sequence[str], wanted: Sequence[str | tuple[str, str]]) -> int:
    """How many of the wanted options some chosen one stands for.

    Args:
        chosen: Values of chosen options.
        wanted: Values, or (kind, value) pairs, as in `Goal.options`.
    """
    own = [_colour_or_itself(option) for option in chosen]
    return sum(
        any(_similarity(option, wish) > _SIMILAR for option in own)
        for wish in (_colour_or_itself(option) for option in wanted)
    )


def _colour_or_itself(option: str | tuple[str, str]) -> str | tuple[str, str]:
    """The first colour in an option; of a (kind, value) pair, only one that is the whole value counts."""
    return next((colour for colour in COLOURS if colour in option), option)


def _similarity(first: object, second: object) -> int:
    """How similar two texts are, 0 to 100: the ratio of their sets of words, as thefuzz computes it."""
    return round(fuzz.token_set_ratio(_plain(first), _plain(second)))


def _plain(text: object) -> str:
    """Lower-case, without the upper half of Latin-1 and signs; a pair goes by its Python text."""
    return utils.default_process(str(text).translate(_UPPER_HALF))


_UPPER_HALF: Final = dict.fromkeys(range(128, 256))
