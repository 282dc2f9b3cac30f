"""Sessions in a small shop: what each action leads to, the odd ones too."""

from __future__ import annotations

import copy
import re

import pytest
from webshop_samples import goal, lamps, product, seeded, shop_of

from multiturn.envs.webshop.pages import Kind
from multiturn.envs.webshop.shop import MOST_RESULTS, Session, Shop

SITE = "http://127.0.0.1:3000"
OPTIONS = {"size": ("s", "xl"), "color": ("dark red",)}


def play(shop: Shop, *actions: str, number: int = 0) -> Session:
    """A session after these actions, all of them valid."""
    session = shop.enter(number)
    for action in actions:
        assert shop.act(session, action).valid, action
    return session


def shown(session: Session) -> list[str]:
    return [piece.text for piece in session.pieces if piece.kind is Kind.PRODUCT]


def keys(first: int, last: int) -> list[str]:
    return [f"B{number:09d}" for number in range(first, last + 1)]


@pytest.fixture(scope="module")
def shop() -> Shop:
    """25 lamps that are all alike, found in the order of their keys, and a rug."""
    rug = product("R000000001", title="Wool Rug", description="", query="wool rugs", category="floor")
    return shop_of([*lamps(25, options=OPTIONS), rug], show_attributes=True)


def test_a_session_begins_with_the_search_page(shop: Shop) -> None:
    session = play(shop)
    assert session.text == ("WebShop [SEP] Instruction: [SEP] Find me easy clean table lamps [SEP] Search")
    assert (session.url, session.has_search_bar, session.place) == (f"{SITE}/0", True, "")
    assert (session.keywords, session.page, session.asin) == (None, None, None)


def test_a_search_shows_ten_products(shop: Shop) -> None:
    session = play(shop, "search[Oak LAMP]")
    assert shown(session) == keys(1, 10)
    assert session.found == keys(1, 25)
    assert session.text.startswith(
        "Instruction: [SEP] Find me easy clean table lamps [SEP] Back to Search [SEP] "
        "Page 1 (Total results: 25) [SEP] Next > [SEP] B000000001 [SEP] Oak Lamp [SEP] $19.99 [SEP]"
    )
    assert (session.keywords, session.page) == (["oak", "lamp"], 1)
    assert (session.url, session.has_search_bar) == (f"{SITE}/search_results/0/oak+lamp/1", False)


def test_turning_pages(shop: Shop) -> None:
    turn = "click[next >]"
    assert shown(play(shop, "search[lamp]", turn)) == keys(11, 20)
    assert shown(play(shop, "search[lamp]", turn, turn)) == keys(21, 25)
    beyond = play(shop, "search[lamp]", turn, turn, turn)
    assert (shown(beyond), beyond.page) == ([], 4)
    assert shown(play(shop, "search[lamp]", turn, turn, turn, "click[< Prev]")) == keys(21, 25)
    assert shown(play(shop, "search[lamp]", turn, "click[< Prev]")) == keys(1, 10)


def test_no_results(shop: Shop) -> None:
    session = play(shop, "search[unheard of]")
    assert (shown(session), "Page 1 (Total results: 0)" in session.text) == ([], True)
    assert shown(play(shop, "search[ ]")) == []


def test_a_product_and_what_is_below_it(shop: Shop) -> None:
    opened = ("search[lamp]", "click[next >]", "click[b000000012]")
    session = play(shop, *opened, "click[xl]")
    assert (session.asin, session.visited, session.options) == ("B000000012", ["B000000012"], {"size": "xl"})
    assert session.url == f'{SITE}/item_page/0/B000000012/lamp/2/{{"size": "xl"}}'
    assert "You have clicked xl.\n" in session.rich_text
    shop.act(session, "click[s]")
    shop.act(session, "click[Dark RED]")
    assert session.options == {"size": "s", "color": "dark red"}
    assert session.url.endswith('/{"size": "s", "color": "dark red"}')
    for name in ("Description", "Features", "Reviews", "Attributes"):
        assert shop.act(session, f"click[{name.lower()}]").valid
        assert session.url == (
            f"{SITE}/item_sub_page/0/B000000012/lamp/2/{name}/{{'size': 's', 'color': 'dark red'}}"
        )
        assert list(session.clickables) == ["back to search", "< prev"]
        assert shop.act(session, "click[< prev]").valid
        assert session.options == {"size": "s", "color": "dark red"}, "kept on the way back"
    assert shop.act(session, "click[< prev]").valid
    assert (session.page, shown(session)) == (2, keys(11, 20))
    assert (session.asin, session.options, session.visited) == (None, {}, ["B000000012"])
    assert "[clicked button] B000000012 [clicked button_]" in session.rich_text
    assert shop.act(session, "click[back to search]").valid
    assert (session.visited, session.keywords, session.page, session.found) == ([], None, None, [])


def test_searching_works_on_every_page(shop: Shop) -> None:
    opened = ("search[rug]", "click[r000000001]")
    for actions in (opened, (*opened, "click[features]"), (*opened, "click[buy now]")):
        session = play(shop, *actions, "search[lamp]")
        assert shown(session) == keys(1, 10)
        assert (session.asin, session.visited) == (None, ["R000000001"])


def test_a_purchase(shop: Shop) -> None:
    """The goal asks for one property and a price: two wishes, both met."""
    session = play(shop, "search[lamp]", "click[b000000003]", "click[xl]")
    answer = shop.act(session, "click[buy now]")
    assert answer.purchase is not None
    assert answer.purchase is session.purchase
    assert answer.purchase.total == 1.0
    assert session.url == f"{SITE}/done/0/B000000003/{{'size': 'xl'}}"
    assert ' [SEP] options [SEP] {"size": "xl"} [SEP] ' in session.text
    assert "Your score (min 0.0, max 1.0) [SEP] 1.0 [SEP]" in session.text
    assert session.clickables == {}
    assert not shop.act(session, "click[back to search]").valid


def test_a_purchase_that_misses_the_goal(shop: Shop) -> None:
    """No word of the title is shared, which alone makes it worth nothing."""
    session = play(shop, "search[rug]", "click[R000000001]", "click[Buy Now]")
    assert session.purchase is not None
    assert (session.purchase.total, session.purchase.parts["r_price"]) == (0.0, True)


@pytest.mark.parametrize(
    "action",
    [
        *("", "search", "search[]", "search[lamp", "search lamp]", "[lamp]", "Search[lamp]", "buy[lamp]"),
        *(
            "click[search]",
            "click[]",
            "click[unheard of]",
            "click[next >]",
            "click[buy now]",
            "CLICK[search]",
        ),
        *(
            "\nsearch[lamp]",
            "search\n[lamp]",
            "search[la\nmp]",
            " search[lamp]",
            "click[a][b]",
            "\x00",
            "\ud800",
        ),
        *("click[b000000001]", "click[description]", "click[back to search]"),
    ],
)
def test_what_is_not_understood_changes_nothing(shop: Shop, action: str) -> None:
    session = play(shop)
    before = copy.deepcopy(session)
    answer = shop.act(session, action)
    assert (answer.valid, answer.purchase, answer.complaint) == (False, None, "")
    assert session == before


@pytest.mark.parametrize(
    "action", ["search[lamp] and so on", "search[LAMP]", "search[lamp]\nclick[x]", "search[lamp]]"]
)
def test_what_is_understood_all_the_same(shop: Shop, action: str) -> None:
    assert shown(play(shop, action)) == keys(1, 10)


def test_pages_before_the_first() -> None:
    """A search for `search_results` misleads the way back from a product: it leads to page 0.

    That is empty. Page -1 would hold what slices of lists from -20 to -10 do: of 25, those from 6 to 15.
    """
    shop = shop_of(lamps(25, options=OPTIONS))
    session = play(shop, "search[lamp search_results]", "click[b000000001]")
    assert session.place == "search_results"
    assert shop.act(session, "click[< prev]").valid
    assert (session.page, shown(session)) == (0, [])
    assert "Page 0 (Total results: 25) [SEP] Next >" in session.text
    assert not shop.act(session, "click[< prev]").valid, "no way back before the second page"
    assert shop.act(session, "click[next >]").valid
    assert shown(session) == keys(1, 10)
    session.page = 0
    shop.act(session, "click[next >]")
    session.page = -2
    shop.act(session, "click[next >]")
    assert (session.page, shown(session)) == (-1, keys(6, 15))


def test_addresses_that_are_taken_for_others(shop: Shop) -> None:
    below = ("click[b000000001]", "click[description]", "click[< prev]")
    plain = play(shop, "search[lamp]", *below)
    assert (plain.place, plain.asin) == ("item_page", "B000000001")
    to_results = play(shop, "search[lamp item_page]", *below)
    assert (to_results.asin, to_results.page) == (None, 1), (
        "taken for a product's page, which leads to results"
    )
    as_ever = play(shop, "search[lamp item_sub_page done]", *below)
    assert (as_ever.place, as_ever.asin) == ("item_page", "B000000001")
    page_before = play(shop, "search[lamp search_results]", "click[next >]", "click[b000000011]")
    shop.act(page_before, "click[description]")
    shop.act(page_before, "click[< prev]")
    assert (page_before.page, shown(page_before)) == (1, keys(1, 10))


def test_searches_by_category_and_by_kind(shop: Shop) -> None:
    assert shop.found(["<c>", "floor"]) == ["R000000001"]
    assert shop.found(["<c>", " garden ", "floor"]) == keys(1, 25), "one word, in the order of the files"
    assert shop.found(["<q>", "wool", "rugs"]) == ["R000000001"]
    assert shop.found(["<q>"]) == shop.found(["<q>", "wool"]) == shop.found(["<c>", "Floor"]) == []
    assert shown(play(shop, "search[<C> Floor]")) == ["R000000001"]
    assert shop.found(["lamp", "<c>"]) == keys(1, 25), "a mark stands first"


def test_a_search_at_random_draws_anew_on_every_page() -> None:
    shop = shop_of(lamps(MOST_RESULTS + 10))
    shop.rng.seed(5)
    session = play(shop, "search[<r> whatever]", "click[next >]")
    rng = seeded(5)
    rng.sample(keys(1, 60), 50)
    assert shown(session) == rng.sample(keys(1, 60), 50)[10:20]


@pytest.mark.parametrize(
    ("action", "complaint"),
    [
        ("search[<a> red]", "<a> does not work"),
        ("search[<c>]", "needs a category"),
        ("search[<r>]", "50 products"),
    ],
)
def test_where_the_original_breaks_down(shop: Shop, action: str, complaint: str) -> None:
    session = play(shop, "search[lamp]", "click[b000000001]", "click[xl]")
    before = copy.deepcopy(session)
    answer = shop.act(session, action)
    assert not answer.valid
    assert complaint in answer.complaint
    assert session == before


def test_options_that_are_called_like_buttons() -> None:
    """They hide the button, and a click on them still does what the button does."""
    names = ("buy now", "back to search", "< prev", "description", "search", "next >", "attributes")
    shop = shop_of(lamps(1, options={"kind": names}))
    opened = ("search[lamp]", "click[b000000001]")
    assert play(shop, *opened, "click[buy now]").purchase is not None
    assert play(shop, *opened, "click[back to search]").has_search_bar
    assert play(shop, *opened, "click[< prev]").asin is None
    assert "item_sub_page" in play(shop, *opened, "click[description]").url
    assert "easy clean" in play(shop, *opened, "click[attributes]").text
    assert play(shop, *opened, "click[next >]").options == {"kind": "next >"}
    assert not shop.act(play(shop, *opened), "click[search]").valid


def test_of_two_options_alike_the_later_is_chosen() -> None:
    shop = shop_of(lamps(1, options={"size": ("one", "two"), "fit": ("one",)}))
    assert play(shop, "search[lamp]", "click[b000000001]", "click[one]").options == {"fit": "one"}


def test_keys_may_have_small_letters() -> None:
    shop = shop_of([product("b00abc")])
    assert play(shop, "search[lamp]", "click[B00ABC]").asin == "b00abc"


def test_sessions_of_goals(shop: Shop) -> None:
    two = shop_of(lamps(2), [goal(instruction="first"), goal(instruction="second")])
    assert (two.enter(1).goal.instruction, two.enter(1).url) == ("second", f"{SITE}/1")
    session, number = two.enter_at_random()
    assert re.fullmatch("[a-z]{10}", session.name)
    assert (number, session.goal.instruction) == (1, "second"), "the first goal is never drawn"
