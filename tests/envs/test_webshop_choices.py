"""The choice of options, against trying everything in the shop, and the queries of the oracle."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shop_helpers import goal, product, shop

from multiturn.envs.webshop.choices import best_choice
from multiturn.envs.webshop.queries import queries_from_instruction, queries_from_title

if TYPE_CHECKING:
    from collections.abc import Mapping


def test_the_very_option_can_miss() -> None:
    """Titanium holds "tan", to which purchased options are reduced; the pair that is asked for is not.

    So titanium is worth nothing against ("color", "titanium"), which shares no word with "tan". Nothing else
    pays either, and the customer's own value is chosen all the same: 2 of 3 wishes, property and price.
    """
    wanted = product("A", "Red Lamp", options={"color": ("titanium", "slate")})
    wish = goal(wanted, "lamps", ("color", "titanium"))
    choice = best_choice(shop([wanted], [wish]), wish, wanted)
    assert choice.options == {"color": "titanium"}
    assert choice.reward == pytest.approx(2 / 3)


def test_another_option_can_stand_for_it() -> None:
    """Sandalwood becomes "sand"; ("color", "sandalwood sand") has that word, so sand alone pays."""
    wanted = product("A", "Red Lamp", options={"color": ("sand", "oak")})
    wish = goal(wanted, "lamps", ("color", "sandalwood sand"))
    choice = best_choice(shop([wanted], [wish]), wish, wanted)
    assert (choice.options, choice.reward) == ({"color": "sand"}, 1.0)


@pytest.mark.parametrize("value", ["buy now", "< prev", "a [b]", "search", "features"])
def test_options_that_no_click_chooses_are_left(value: str) -> None:
    wanted = product("A", "Red Lamp", options={"color": (value, "oak")})
    wish = goal(wanted, "lamps", ("color", value))
    assert best_choice(shop([wanted], [wish]), wish, wanted).options == {}


values = st.sampled_from(
    ["red", "dark red", "tan", "titanium", "x-large", "large", "2 pack", "buy now", "a[b]"]
)
shelves = st.dictionaries(
    st.sampled_from(["color", "size", "style"]),
    st.lists(values, min_size=1, max_size=4).map(tuple),
    max_size=3,
)


@given(options=shelves, other=shelves)
@settings(max_examples=60, deadline=None)
def test_no_other_choice_pays_more(
    options: Mapping[str, tuple[str, ...]], other: Mapping[str, tuple[str, ...]]
) -> None:
    """Against all combinations of what clicks can choose, tried in the shop itself."""
    own = product("A", "Red Lamp", options=options)
    wish = goal(own, "lamps", *((name, chosen[0]) for name, chosen in other.items()))
    store = shop([own], [wish])
    choice = best_choice(store, wish, own)
    best = 0.0
    for clicks in itertools.product(*([None, *chosen] for chosen in options.values())):
        session = store.enter(0)
        for action in ("search[lamp]", "click[a]", *(f"click[{value}]" for value in clicks if value)):
            store.act(session, action)
        if session.asin == "A" and session.purchase is None:
            store.act(session, "click[buy now]")
        best = max(best, session.purchase.total if session.purchase else 0.0)
    assert choice.reward == best


RED = product("RED0000001", "Red Lamp", options={"color": ("ruby", "scarlet"), "size": ("tall", "low")})
WISH = (
    "Find me lamps with glass shade with color: scarlet, and size: tall, and price lower than 30.00 dollars"
)
WANTED = goal(RED, WISH, ("color", "scarlet"), ("size", "tall"))


def test_queries_hold_words_of_the_instruction_only() -> None:
    texts = [query.text for query in queries_from_instruction(WANTED)]
    assert texts == [
        "lamps glass shade scarlet tall",
        "lamps scarlet tall",
        "glass shade scarlet tall",
        "lamps glass shade",
        "lamps",
    ]
    assert [query.text for query in queries_from_title(WANTED, RED)] == [
        "lamps glass shade scarlet tall red",
        "lamps glass shade scarlet tall red lamp",
        "red lamp",
        "red lamp color ruby scarlet and size tall low",
    ]


@given(instruction=st.text(max_size=60), query=st.text(max_size=12), title=st.text(max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_text_can_be_searched_for(instruction: str, query: str, title: str) -> None:
    wanted = product("A", title, query=query)
    wish = goal(wanted, instruction)
    store = shop([wanted], [wish])
    for made in (*queries_from_instruction(wish), *queries_from_title(wish, wanted)):
        session = store.enter(0)
        assert store.act(session, f"search[{made.text}]").valid
        assert session.keywords == made.text.split(" ")


def test_options_of_people_are_values_without_a_kind() -> None:
    wanted = product("A", "Red Lamp", options={"color": ("ruby", "oak"), "size": ("tall", "low")})
    wish = dataclasses.replace(goal(wanted, "A low lamp. Glass shade, please!"), options=("low",))
    choice = best_choice(shop([wanted], [wish]), wish, wanted)
    assert (choice.options, choice.reward) == ({"size": "low"}, 1.0)
    # "lamps", the kind, is not a word of the instruction.
    assert [query.text for query in queries_from_instruction(wish)] == [
        "low lamp glass shade",
        "low",
        "glass shade low",
        "glass shade",
    ]
