"""Goals: what the customer wants, made from products as the original makes them.

The original draws prices and price limits from Python's global random numbers. Here they come from a
generator of their own in the same order, so the seed that a world was recorded with gives that world again.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping, Sequence

    from multiturn.envs.webshop.products import Product

__all__ = ["Goal", "draw_goal", "draw_prices", "human_goals", "shuffled", "synthetic_goals"]

_LIMITS: Final = tuple(10.0 * tens for tens in range(1, 100))
"""What a goal may cost at most, in dollars."""
_NEAREST: Final = 4
"""From how many of the next higher limits one is drawn."""
NO_LIMIT: Final = 1_000_000.0
"""The limit of goals whose product costs nearly as much as the highest limit, or more."""
_SHUFFLING_SEED: Final = 233


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the customer wants.

    Attributes:
        asin: The product it was made from.
        category: That product's large category.
        query: That product's kind.
        name: That product's title.
        product_category: That product's path of categories.
        instruction: What the customer says.
        attributes: The properties that are asked for, at least one.
        price_upper: What it may cost at most, in dollars.
        options: The options that are asked for: values, or (kind, value) in a synthetic goal.
        weight: How often it comes where goals are drawn, relative to others.
    """

    asin: str
    category: str
    query: str
    name: str
    product_category: str
    instruction: str
    attributes: tuple[str, ...]
    price_upper: float
    options: tuple[str, ...] | tuple[tuple[str, str], ...]
    weight: float = 1.0


def draw_prices(pricings: Iterable[tuple[str, tuple[float, ...]]], rng: random.Random) -> dict[str, float]:
    """What each product costs, in dollars: its price, or one drawn between its two prices.

    Args:
        pricings: The key and the prices of each product.
        rng: Draws.
    """
    return {asin: prices[0] if len(prices) == 1 else rng.uniform(*prices) for asin, prices in pricings}


def synthetic_goals(
    products: Iterable[Product], prices: Mapping[str, float], rng: random.Random
) -> list[Goal]:
    """A goal for each combination of options of each product that has an instruction."""
    goals: list[Goal] = []
    for product in products:
        if product.instruction is None:
            continue
        limit, limit_text = _draw_limit(prices[product.asin], rng)
        names = sorted(product.options)
        for values in itertools.product(*(product.options[name] for name in names)):
            options = tuple(zip(names, values, strict=True))
            wanted = ", and ".join(f"{name}: {value}" for name, value in options)
            text = f"{product.instruction} with {wanted}" if wanted else product.instruction
            goals.append(
                _goal(product, f"{text}{limit_text}", product.instruction_attributes, limit, options)
            )
    asked = Counter(attribute for goal in goals for attribute in goal.attributes)
    return [
        dataclasses.replace(
            goal, weight=sum(1.0 / asked[each] for each in goal.attributes) / len(goal.attributes)
        )
        for goal in goals
    ]


def human_goals(products: Iterable[Product], prices: Mapping[str, float], rng: random.Random) -> list[Goal]:
    """A goal for each instruction that a person wrote and that asks for a property."""
    goals = []
    for product in products:
        for said in product.human_instructions:
            if said.attributes:
                limit, limit_text = _draw_limit(prices[product.asin], rng)
                text = f"{said.text.strip('.')}{limit_text}"
                goals.append(_goal(product, text, said.attributes, limit, said.options))
    return goals


def shuffled(goals: Sequence[Goal], rng: random.Random) -> list[Goal]:
    """The goals in the original's order, by which they are numbered; the generator is seeded for it."""
    rng.seed(_SHUFFLING_SEED)
    order = list(goals)
    rng.shuffle(order)
    return order


def draw_goal(goals: Sequence[Goal], rng: random.Random) -> int:
    """The number of a goal, drawn by the goals' weights as the original does."""
    ends = [0.0, *itertools.accumulate(goal.weight for goal in goals)]
    # Places between two ends belong to the later one there, so the first goal is never drawn.
    return min(bisect.bisect(ends, rng.uniform(0, ends[-1])), len(goals) - 1)


def _goal(
    product: Product,
    instruction: str,
    attributes: tuple[str, ...],
    limit: float,
    options: tuple[str, ...] | tuple[tuple[str, str], ...],
) -> Goal:
    return Goal(
        asin=product.asin,
        category=product.category,
        query=product.query,
        name=product.title,
        product_category=product.product_category,
        instruction=instruction,
        attributes=attributes,
        price_upper=limit,
        options=options,
    )


def _draw_limit(price: float, rng: random.Random) -> tuple[float, str]:
    """The larger of two of the next higher limits, and how the customer says it."""
    above = [limit for limit in _LIMITS if limit > price][:_NEAREST]
    if len(above) < 2:
        return NO_LIMIT, ""
    limit = max(rng.sample(above, 2))
    return limit, f", and price lower than {limit:.2f} dollars"
