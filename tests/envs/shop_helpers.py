"""A shop small enough to work out by hand, and how to play the oracle in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import webshop_samples

from multiturn.envs.webshop.expert import Oracle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.envs.webshop.goals import Goal
    from multiturn.envs.webshop.products import Product
    from multiturn.envs.webshop.ranker import Ranker
    from multiturn.envs.webshop.shop import Session, Shop


def product(asin: str, title: str, *, query: str = "lamps", **given: object) -> Product:
    bare: dict[str, object] = {
        "product_category": "Home \u203a Lamps",
        "description": "",
        "bullets": ("",),
        "pricing": (20.0,),
        "price_tag": "$20.0",
        "attributes": ("glass shade",),
    }
    return webshop_samples.product(asin, title=title, query=query, **(bare | given))


def goal(wanted: Product, instruction: str, *options: tuple[str, str]) -> Goal:
    return webshop_samples.goal(wanted, instruction=instruction, attributes=("glass shade",), options=options)


def shop(products: Sequence[Product], goals: Sequence[Goal], ranker: Ranker | None = None) -> Shop:
    return webshop_samples.shop_of(products, goals, nouns=str.split, ranker=ranker)


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
