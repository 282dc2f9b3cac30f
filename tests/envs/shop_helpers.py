"""A shop small enough to work out by hand, and how to play the oracle in it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from multiturn.envs.webshop.expert import Oracle
from multiturn.envs.webshop.goals import Goal
from multiturn.envs.webshop.products import Product
from multiturn.envs.webshop.ranker import MemoryRanker
from multiturn.envs.webshop.shelf import MemoryShelf
from multiturn.envs.webshop.shop import Session, Shop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.envs.webshop.ranker import Ranker


def product(asin: str, title: str, *, query: str = "lamps", **given: object) -> Product:
    fields: dict[str, Any] = {
        "asin": asin,
        "category": "garden",
        "query": query,
        "product_category": "Home \u203a Lamps",
        "title": title,
        "description": "",
        "bullets": ("",),
        "pricing": (20.0,),
        "price_tag": "$20.0",
        "options": {},
        "attributes": ("glass shade",),
        "instruction": None,
    }
    return Product(**(fields | given))


def goal(wanted: Product, instruction: str, *options: tuple[str, str]) -> Goal:
    return Goal(
        asin=wanted.asin,
        category=wanted.category,
        query=wanted.query,
        name=wanted.title,
        product_category=wanted.product_category,
        instruction=instruction,
        attributes=("glass shade",),
        price_upper=30.0,
        options=options,
    )


def shop(products: Sequence[Product], goals: Sequence[Goal], ranker: Ranker | None = None) -> Shop:
    return Shop(
        shelf=MemoryShelf(products),
        goals=goals,
        prices={each.asin: each.pricing[0] for each in products},
        ranker=ranker or MemoryRanker((each.asin, each.indexed_text) for each in products),
        nouns=str.split,
        rng=random.Random(0),  # noqa: S311 - the shop's own
    )


def play(store: Shop, session: Session, most: int = 10) -> list[str]:
    """What the oracle does until it buys; thoughts are never empty, and every action is possible."""
    oracle = Oracle(store, session)
    actions: list[str] = []
    while session.purchase is None and len(actions) < most:
        decision = oracle.act()
        assert decision is not None
        assert decision.thought.endswith(".")
        actions.append(decision.action)
        assert store.act(session, decision.action).valid, decision.action
    assert session.purchase is not None
    assert oracle.act() is None
    return actions
