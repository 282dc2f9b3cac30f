"""Any text as an action: how it is read, and that a session keeps the rules whatever comes."""

from __future__ import annotations

import copy
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webshop_samples import lamps, product, shop_of

from multiturn.envs.webshop.pages import Kind
from multiturn.envs.webshop.shop import parse_action

if TYPE_CHECKING:
    from multiturn.envs.webshop.shop import Answer, Session, Shop


@given(st.text(alphabet="[]\n aB\u0130\u2028\r", max_size=12) | st.text(max_size=20))
def test_actions_are_read_as_the_original_reads_them(action: str) -> None:
    match = re.match(r"(.+)\[(.+)\]", action)
    wanted = (action, None) if match is None else (match[1], match[2].lower())
    assert parse_action(action) == wanted


@pytest.mark.parametrize("action", ["[" * 200_000, "search" + "[" * 200_000 + "]", "x[" * 100_000])
def test_long_actions_are_read_at_once(action: str) -> None:
    """The original's pattern looks at each pair of characters: minutes."""
    began = time.process_time()
    parse_action(action)
    assert time.process_time() - began < 0.5


def odd_shop() -> Shop:
    """Products with names, options and texts that make trouble."""
    odd = {
        "kind": ("", "[x]", "a]b", "buy now", "back to search", "next >", "line\nbreak", "\u0130", "s", "s")
    }
    products = lamps(12, options=odd)
    products += [product("lower", title="lamp", options={"a": ("s",), "b": ("s", "b000000001")})]
    products += [product("BLANK", title=" ", description="lamp \n ", bullets=("",), options={})]
    return shop_of(products, show_attributes=True)


ODD = odd_shop()
SEARCHES = st.sampled_from(
    [
        *("lamp", "oak", " ", "<c> garden", "<c>", "<q> table lamps", "<r>", "<a>", "search_results lamp"),
        *("item_page lamp", "item_sub_page lamp", "done lamp", "\ud800", "\x00", "a" * 600, "+ / %20"),
    ]
)
ACTIONS = (
    SEARCHES.map("search[{}]".format)
    | st.integers(0, 30)  # a click on what is there
    | st.sampled_from(["click[< prev]", "click[next >]", "click[description]", "click[buy now]"])
    | st.text(max_size=30)
    | st.text(max_size=12).map("click[{}]".format)
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ACTIONS, max_size=25))
def test_any_actions_keep_the_rules(actions: list[str | int]) -> None:
    shop = ODD
    session = shop.enter(0)
    for chosen in actions:
        there = list(session.clickables)
        if isinstance(chosen, int):
            action = f"click[{there[chosen % len(there)]}]" if there else "click[x]"
        else:
            action = chosen
        before = copy.deepcopy(session)
        check(shop, session, before, action, shop.act(session, action))


def check(shop: Shop, session: Session, before: Session, action: str, answer: Answer) -> None:
    verb, argument = parse_action(action)
    clickable = verb == "click" and argument in before.clickables and argument != "search"
    if not answer.valid:
        assert session == before
        assert not clickable
        assert (verb == "search" and argument is not None) == bool(answer.complaint)
        return
    assert answer.complaint == ""
    assert clickable or verb == "search"
    assert (answer.purchase is not None) == (clickable and argument == "buy now")
    if answer.purchase is not None:
        assert 0.0 <= answer.purchase.total <= 1.0
    assert session.has_search_bar == (clickable and argument == "back to search")
    assert session.asin is None or session.asin in shop.shelf
    assert set(session.visited) <= set(shop.shelf)
    assert {piece.text for piece in session.pieces if piece.kind is Kind.PRODUCT} <= set(session.found)
    known: dict[str, Any] = {} if session.asin is None else dict(shop.shelf[session.asin].options)
    assert all(value in known[name] for name, value in session.options.items())
    assert session.purchase is answer.purchase or answer.purchase is None
    assert session.text
    assert session.rich_text
