"""Pages: their pieces, white space, both ways of writing them, and what can be clicked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webshop_samples import product

from multiturn.envs.webshop import pages
from multiturn.envs.webshop.pages import Kind, Piece

SEP = " [SEP] "


def described(text: str) -> list[str]:
    """What of a description reaches the page."""
    return [piece.text for piece in pages.sub_page("buy", product(description=text), "Description")[4:]]


def test_the_search_page() -> None:
    page = pages.search_page("Find me a lamp")
    assert pages.as_text(page) == "WebShop [SEP] Instruction: [SEP] Find me a lamp [SEP] Search"
    assert pages.as_rich_text(page, url="", visited=()) == (
        "WebShop\nInstruction: \nFind me a lamp\n[button] Search [button_]\n"
    )
    assert list(pages.clickables(page)) == ["search"]


def test_a_page_of_results() -> None:
    found = [product("B000000001"), product("B000000002", title="Rug", price_tag="$1.0 to $2.0")]
    first = pages.results_page("buy", found, page=1, total=12)
    assert pages.as_text(first) == SEP.join(
        (
            *("Instruction:", "buy", "Back to Search", "Page 1 (Total results: 12)", "Next >"),
            *("B000000001", "Oak Lamp", "$19.99", "B000000002", "Rug", "$1.0 to $2.0"),
        )
    )
    assert list(pages.clickables(first)) == ["back to search", "next >", "b000000001", "b000000002"]
    assert pages.as_rich_text(first, url="", visited=["B000000002"]) == (
        "Instruction:\nbuy\n[button] Back to Search [button_]\nPage 1 (Total results: 12)\n"
        "[button] Next > [button_]\n"
        "\n[button] B000000001 [button_]\nOak Lamp\n$19.99\n"
        "\n[clicked button] B000000002 [clicked button_]\nRug\n$1.0 to $2.0\n"
    )


@pytest.mark.parametrize(("number", "turnable"), [(-1, False), (0, False), (1, False), (2, True), (7, True)])
def test_only_later_pages_have_a_way_back(number: int, *, turnable: bool) -> None:
    page = pages.results_page("buy", [], page=number, total=0)
    names = list(pages.clickables(page))
    assert names == ["back to search", *(["< prev"] if turnable else []), "next >"]
    assert f"Page {number} (Total results: 0)" in pages.as_text(page)


def test_a_products_page() -> None:
    options = {"size": ("s", "xl"), "color": ("red",)}
    page = pages.item_page("buy", product(options=options), show_attributes=False)
    texts = ("Instruction:", "buy", "Back to Search", "< Prev", "size", "s", "xl", "color", "red")
    more = ("Oak Lamp", "Price: $19.99", "Rating: N.A.", "Description", "Features", "Reviews", "Buy Now")
    assert pages.as_text(page) == SEP.join((*texts, *more))
    buttons = ["back to search", "< prev", "description", "features", "reviews", "buy now"]
    assert list(pages.clickables(page)) == [*buttons, "s", "xl", "red"]
    shown = pages.item_page("buy", product(options=options), show_attributes=True)
    assert list(pages.clickables(shown)) == [*buttons[:-1], "attributes", "buy now", "s", "xl", "red"]


def test_clicked_options_are_told_backwards() -> None:
    """Clicked is what stands in the address in quotation marks, be it of another kind."""
    options = {"size": ("s", "xl"), "color": ("s", "red"), "shape": ("round\u00e9",)}
    page = pages.item_page("buy", product(options=options), show_attributes=False)
    url = 'http://shop/item_page/0/B1/lamp/1/{"size": "s", "color": "red", "shape": "round\\u00e9"}'
    text = pages.as_rich_text(page, url=url, visited=())
    assert text.startswith(
        "You have clicked red.\nYou have clicked s.\nYou have clicked s.\nInstruction:\nbuy\n"
    )
    assert "size\n  [clicked button] s [clicked button_]\n  [button] xl [button_]\ncolor\n" in text
    assert "  [clicked button] s [clicked button_]\n  [clicked button] red [clicked button_]\n" in text
    assert "  [button] round\u00e9 [button_]\n" in text, "the address has only its escape"
    assert "clicked" not in pages.as_rich_text(page, url="http://shop/s/red/xl", visited=())


def test_pages_below_a_products() -> None:
    lamp = product(bullets=("Warm light.", ""), attributes=("easy clean", "oak"))
    head = "Instruction: [SEP] buy [SEP] Back to Search [SEP] < Prev"
    assert pages.as_text(pages.sub_page("buy", lamp, "Description")) == f"{head} [SEP] A lamp of oak."
    assert pages.as_text(pages.sub_page("buy", lamp, "Features")) == f"{head} [SEP] Warm light. [SEP] "
    assert pages.as_text(pages.sub_page("buy", lamp, "Reviews")) == head
    assert pages.as_text(pages.sub_page("buy", lamp, "Attributes")) == (
        f"{head} [SEP] easy clean [SEP] oak [SEP] garden [SEP] table lamps [SEP] "
        "Home \u203a Lighting \u203a Lamps"
    )
    rich = pages.as_rich_text(pages.sub_page("buy", lamp, "Features"), url="", visited=())
    assert rich.endswith("[button] < Prev [button_]\n Warm light.\n \n")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("", []),
        (" ", [" "]),
        ("\t \f\r", [" "]),
        ("\n", []),
        (" \n\t", []),
        ("\u00a0", ["\u00a0"]),  # a blank to Python, none to HTML
        ("\v", ["\v"]),
        ("  a\nb ", ["  a\nb "]),
    ],
)
def test_texts_of_blanks(text: str, read: list[str]) -> None:
    assert described(text) == read


def test_text_is_stripped_and_rich_text_is_not() -> None:
    page = pages.sub_page("buy", product(description=" \u00a0a "), "Description")
    assert pages.as_text(page).endswith("< Prev [SEP] a")
    assert pages.as_rich_text(page, url="", visited=()).endswith("\n \u00a0a \n")


def test_the_page_after_the_purchase() -> None:
    page = pages.done_page("B1", {"size": "<b>&'\"", "color": "\u00e9"}, 0.75)
    text = pages.as_text(page)
    assert text.startswith(
        "Thank you for shopping with us! [SEP] Your code: [SEP] None [SEP] "
        "(Paste it in your MTurk interface.)"
        ' [SEP] Purchased [SEP] asin [SEP] B1 [SEP] options [SEP] {"color": "\\u00e9", '
        '"size": "\\u003cb\\u003e\\u0026\\u0027\\""} [SEP] attrs [SEP] None'
    )
    assert text.endswith(
        "Reward [SEP] Your score (min 0.0, max 1.0) [SEP] 0.75 [SEP] Reward Details [SEP] None"
    )
    assert pages.clickables(page) == {}


def test_options_hide_what_is_called_alike() -> None:
    """An option takes the place of a button with its name; of two options the later one is clicked."""
    options = {"size": ("buy now", "one"), "color": ("Next >", "one")}
    page = pages.item_page("buy", product(options=options), show_attributes=False)
    found = pages.clickables(page)
    assert list(found) == [
        *("back to search", "< prev", "description", "features", "reviews", "buy now"),
        *("one", "Next >"),
    ]
    assert found["buy now"] == Piece("buy now", Kind.OPTION, "size")
    assert found["one"] == Piece("one", Kind.OPTION, "color")
    assert found["reviews"] == Piece("Reviews", Kind.BUTTON)


def test_an_option_without_a_name_is_not_seen() -> None:
    page = pages.item_page("buy", product(options={"size": ("", "s")}), show_attributes=False)
    assert "size [SEP] s [SEP] Oak Lamp" in pages.as_text(page)
    assert "size\n  [button] s [button_]\nOak Lamp\n" in pages.as_rich_text(page, url="", visited=())


def test_a_product_hides_a_button() -> None:
    page = pages.results_page("buy", [product("NEXT >")], page=1, total=1)
    assert pages.clickables(page)["next >"] == Piece("NEXT >", Kind.PRODUCT)
    assert list(pages.clickables(page)) == ["back to search", "next >"]


TEXTS = st.text(max_size=12)
PIECES = st.lists(st.builds(Piece, TEXTS, st.sampled_from(Kind), TEXTS), max_size=8)


@given(PIECES, TEXTS, st.lists(TEXTS, max_size=3))
def test_no_text_is_lost(page: list[Piece], url: str, visited: list[str]) -> None:
    """Every piece that has a text stands in both observations, in order and apart from the others."""
    shown = [piece for piece in page if piece.text]
    text = pages.as_text(page)
    rich = pages.as_rich_text(page, url=url, visited=visited)
    at, rich_at = 0, sum(len(f"You have clicked {p.text}.\n") for p in shown if is_clicked(p, url))
    for piece in shown:
        bare = piece.text.strip()
        assert text.startswith(bare, at)
        at += len(bare) + len(SEP)
        rich_at = rich.index(piece.text, rich_at) + len(piece.text)
    assert at == (len(text) + len(SEP) if shown else 0)
    assert rich.endswith("\n") or not shown


def is_clicked(piece: Piece, url: str) -> bool:
    return piece.kind is Kind.OPTION and f'"{piece.text}"' in url


@given(TEXTS, TEXTS, st.dictionaries(TEXTS, st.lists(TEXTS, max_size=3).map(tuple), max_size=3))
def test_every_word_of_a_product_is_on_its_page(
    instruction: str, title: str, options: dict[str, tuple[str, ...]]
) -> None:
    lamp = product(title=title, options=options)
    page = pages.item_page(instruction, lamp, show_attributes=True)
    texts = [piece.text for piece in page]
    for text in (instruction, title, lamp.price_tag, *options):
        assert not text.strip() or any(text in each for each in texts)
    chosen = [(piece.name, piece.text) for piece in page if piece.kind is Kind.OPTION]
    assert chosen == [(name, value) for name, values in options.items() for value in values]
