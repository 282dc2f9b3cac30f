"""The reward of a purchase, part by part, worked by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webshop_samples import goal, product, words

from multiturn.envs.webshop.reward import COLOURS, Reward, purchase_reward

if TYPE_CHECKING:
    from multiturn.envs.webshop.goals import Goal
    from multiturn.envs.webshop.products import Product

TEN = "a b c d e f g h i j"
ELEVEN = f"{TEN} k"


def reward(
    bought: Product | None = None,
    wanted: Goal | None = None,
    *,
    price: float = 19.99,
    options: dict[str, str] | None = None,
) -> Reward:
    return purchase_reward(
        bought or product(), wanted or goal(), price=price, options=options or {}, nouns=words
    )


def attributes_met(own: tuple[str, ...], wanted: str, **changes: Any) -> bool:
    bought = product(attributes=own, **changes)
    return reward(bought, goal(attributes=(wanted,))).attribute_matches == 1


def options_met(chosen: str, wanted: str | tuple[str, str]) -> bool:
    return reward(wanted=goal(options=(wanted,)), options={"kind": chosen}).option_matches == 1


def test_everything_that_was_wanted() -> None:
    found = reward(wanted=goal(options=(("color", "red"),)), options={"color": "red"})
    assert found == Reward(
        total=1.0,
        parts={
            "r_type": 1.0,
            "r_att": 1.0,
            "w_att": 1 / 3,
            "query_match": True,
            "category_match": True,
            "title_score": 1.0,
            "r_option": 1.0,
            "w_option": 1 / 3,
            "r_price": True,
            "w_price": 1 / 3,
        },
        attribute_matches=1,
        option_matches=1,
    )


def test_the_sum_worked_by_hand() -> None:
    """3 properties, 2 options and the price are 6 wishes; met are 1 property, 1 option and not the price.

    So 2/6, and half of that where the kind does not match at all: 1/6.
    """
    wanted = goal(
        attributes=("easy clean", "solid gold", "usb port"), options=("red", "extra large"), price_upper=10.0
    )
    chosen = {"color": "red", "size": "small"}
    found = reward(wanted=wanted, options=chosen)
    assert found.total == pytest.approx(2 / 6, abs=1e-15)
    assert (found.attribute_matches, found.option_matches) == (1, 1)
    shares = {key: found.parts[key] for key in ("r_att", "w_att", "r_option", "w_option", "w_price")}
    assert shares == pytest.approx(
        {"r_att": 1 / 3, "w_att": 3 / 6, "r_option": 1 / 2, "w_option": 2 / 6, "w_price": 1 / 6}
    )
    assert found.parts["r_price"] is False
    other = product(query="rugs", product_category="", title=TEN)
    wanted = goal(
        product(title="a b x1 x2 x3 x4 x5 x6 x7 x8"),
        attributes=wanted.attributes,
        options=wanted.options,
        price_upper=10.0,
    )
    halved = reward(other, wanted, options=chosen)
    assert halved.parts["title_score"] == 0.2
    assert halved.total == pytest.approx(1 / 6, abs=1e-15)


def test_without_options_there_is_no_part_for_them() -> None:
    found = reward()
    assert found.parts.keys().isdisjoint({"r_option", "w_option"})
    assert (found.parts["w_att"], found.parts["w_price"], found.total) == (0.5, 0.5, 1.0)


@pytest.mark.parametrize(("price", "fine"), [(29.99, True), (30.0, True), (30.01, False)])
def test_the_limit_itself_is_affordable(price: float, *, fine: bool) -> None:
    found = reward(price=price)
    assert (found.parts["r_price"], found.total) == (fine, 1.0 if fine else 0.5)


@pytest.mark.parametrize(
    ("query", "path", "wanted", "title", "score", "r_type"),
    [
        ("table lamps", "", TEN, "a b c d e", 0.5, 1.0),
        ("rugs", "", TEN, "a b c", 0.3, 1.0),
        ("rugs", "", TEN, "a b", 0.2, 0.5),
        ("rugs", "", TEN, "a", 0.1, 0.5),
        ("rugs", "Lamps \u203a Home", TEN, "a b", 0.2, 1.0),
        # However well kind and categories match, the title has the last word.
        ("table lamps", "Lamps \u203a Home", ELEVEN, "a", 1 / 11, 0.1),
        ("table lamps", "Lamps \u203a Home", TEN, "z", 0.0, 0.0),
        ("table lamps", "", "", "a", 0.2, 1.0),
        ("rugs", "", "", "a", 0.2, 0.5),
        # What the wanted title repeats counts again below the line only.
        ("rugs", "", "a a a b", "a b b", 0.5, 1.0),
        ("rugs", "", "a a a a a", "a", 0.2, 0.5),
    ],
)
def test_the_kind_of_product(
    query: str, path: str, wanted: str, title: str, score: float, r_type: float
) -> None:
    bought = product(query=query, product_category=path, title=title)
    found = reward(bought, goal(product(title=wanted)))
    assert found.parts["title_score"] == pytest.approx(score, abs=1e-15)
    assert found.parts["r_type"] == r_type
    assert found.parts["query_match"] is (query == "table lamps")
    assert found.total == r_type, "all wishes are met"


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        ("A \u203a B \u203a C", "C\u203aX\u203a  A ", True),
        ("A \u203a B", "A \u203a C", False),
        ("A \u203a A", "A \u203a A", False),
        ("A > B", "A > B", False),
        ("", "", False),
        (" \u203a A", "A \u203a", True),
    ],
)
def test_two_categories_have_to_be_the_same(first: str, second: str, *, match: bool) -> None:
    found = reward(product(product_category=first), goal(product_category=second))
    assert found.parts["category_match"] is match


@pytest.mark.parametrize(
    ("own", "wanted", "same"),
    [
        ("machine wash", "wash machine", True),
        ("Machine-Wash!", "machine wash", True),
        ("machine wash cold", "wash", True),  # all words of one are among the other's
        # 6 of 7 letters: 2 * 6 / 14 = 85.7, rounded 86.
        ("abcdefg", "abcdefx", True),
        # 17 of 20 letters: 2 * 17 / 40 = 85 and no more.
        ("abcdefghijklmnopqrst", "abcdefghijklmnopqxyz", False),
        # 47 letters of 55: 2 * 47 / 110 = 85.45, rounded 85.
        ("a" * 47 + "b" * 8, "a" * 47 + "c" * 8, False),
        ("caf\u00e9", "caf", True),  # the upper half of Latin-1 is dropped
        ("\u0142ap", "ap", False),  # beyond it letters count: 2 * 2 / 5
        ("", "", False),
        ("!?", "!?", False),
    ],
)
def test_what_counts_as_the_same_property(own: str, wanted: str, *, same: bool) -> None:
    bare = {"title": "Oak", "bullets": ("",), "description": ""}
    if wanted not in {"", "!?"}:
        assert attributes_met((own,), wanted, **bare) is same
    assert options_met(own, wanted) is same


def test_properties_are_looked_for_in_the_texts_too() -> None:
    """There letter by letter, and across features; the texts in lower case, the wish as it is."""
    assert attributes_met(("x",), "oak la", title="OAK Lamp")
    assert attributes_met(("x",), "light. easy", bullets=("Warm LIGHT.", "Easy to clean."))
    assert attributes_met(("x",), "of oa", description="A lamp of OAK.")
    assert not attributes_met(("x",), "OAK", title="OAK Lamp")
    assert not attributes_met(("x",), "oak lamp a lamp", title="Oak Lamp", description="A lamp")


def test_the_placeholder_meets_nothing_by_itself() -> None:
    bare = {"title": "Oak", "bullets": ("",), "description": ""}
    assert not attributes_met(("DUMMY_ATTR",), "easy clean", **bare)
    assert attributes_met(("DUMMY_ATTR",), "easy clean", title="Easy clean oak")
    assert attributes_met(("DUMMY_ATTR",), "dummy_attr", **bare)


@pytest.mark.parametrize(
    ("chosen", "wanted", "met"),
    [
        ("navy blue", "sky blue", True),  # both are blue, which comes before navy
        ("navy", "navy blue", False),
        ("dark red", "dark green", True),  # dark comes before both
        ("red tan", "tan", False),
        ("rosewood", "rose gold", False),  # rose, but gold comes before it
        ("infrared", "red", True),
        ("x-large", "large", True),
        ("10", "11", False),
    ],
)
def test_options_are_reduced_to_their_first_colour(chosen: str, wanted: str, *, met: bool) -> None:
    assert options_met(chosen, wanted) is met


@pytest.mark.parametrize(
    ("chosen", "wanted", "met"),
    [
        ("red", ("color", "red"), True),
        ("dark red", ("color", "dark red"), True),  # dark is a word of "color dark red"
        ("1877black", ("color", "1877black"), False),  # black against "color 1877black": 2 * 5 / 20
        ("black", ("color", "black/white"), True),
        ("10.5", ("size", "10.5"), True),
        ("color", ("color", "mauve green"), True),  # the kind's name is a word of the pair too
        ("charcoal", ("charcoal", "7"), True),  # and may itself be the colour
        ("small", ("size", "large"), False),
    ],
)
def test_pairs_are_compared_as_texts(chosen: str, wanted: tuple[str, str], *, met: bool) -> None:
    assert options_met(chosen, wanted) is met


def test_one_choice_can_meet_several_wishes_and_a_wish_counts_once() -> None:
    wanted = goal(options=(("a", "red"), ("b", "red")))
    assert reward(wanted=wanted, options={"x": "red"}).option_matches == 2
    assert reward(wanted=goal(options=("red",)), options={"x": "red", "y": "red"}).option_matches == 1
    assert reward(wanted=wanted).option_matches == 0


def test_the_colours_are_in_order() -> None:
    assert list(COLOURS) == sorted(set(COLOURS))


WORDS = st.lists(st.sampled_from(["oak", "lamp", "red", "blue", "wash", "easy", "10", "\u00e9", "_"])).map(
    " ".join
)
PRODUCTS = st.builds(
    product,
    query=st.sampled_from(["rugs", "table lamps"]),
    title=WORDS,
    description=WORDS,
    attributes=st.lists(WORDS, max_size=3).map(tuple),
)
GOALS = st.builds(
    goal,
    PRODUCTS,
    attributes=st.lists(WORDS, min_size=1, max_size=3).map(tuple),
    options=st.lists(WORDS, max_size=3).map(tuple) | st.lists(st.tuples(WORDS, WORDS), max_size=3).map(tuple),
    price_upper=st.floats(0, 50),
)


@settings(max_examples=200, deadline=None)
@given(PRODUCTS, GOALS, st.dictionaries(WORDS, WORDS, max_size=3), st.floats(0, 50))
def test_the_total_is_the_share_of_wishes_that_are_met(
    bought: Product, wanted: Goal, options: dict[str, str], price: float
) -> None:
    found = reward(bought, wanted, price=price, options=options)
    parts = found.parts
    assert 0.0 <= found.total <= 1.0
    weighted = parts["r_att"] * parts["w_att"] + parts["r_price"] * parts["w_price"]
    weighted += parts.get("r_option", 0.0) * parts.get("w_option", 0.0)
    assert found.total == pytest.approx(weighted * parts["r_type"], abs=1e-12)
    assert parts["w_att"] + parts["w_price"] + parts.get("w_option", 0.0) == pytest.approx(1.0)
    more = reward(bought, wanted, price=price, options=options | {"one more": "red"})
    assert more.total >= found.total
