"""The shop's pages: what stands on each, how an agent sees it, and what can be clicked.

A page is a list of pieces of text, in the order in which they stand. The original renders HTML and reads the
texts back out of it; what that does to white space is done here as well.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from multiturn.envs.webshop.products import Product

__all__ = [
    "ATTRIBUTES",
    "BACK",
    "BUY",
    "NEXT",
    "PREVIOUS",
    "RESULTS_PER_PAGE",
    "SUB_PAGES",
    "Kind",
    "Piece",
    "as_rich_text",
    "as_text",
    "clickables",
    "done_page",
    "item_page",
    "results_page",
    "search_page",
    "sub_page",
]

BACK: Final = "Back to Search"
NEXT: Final = "Next >"
PREVIOUS: Final = "< Prev"
BUY: Final = "Buy Now"
ATTRIBUTES: Final = "Attributes"
SUB_PAGES: Final = ("Description", "Features", "Reviews", ATTRIBUTES)
RESULTS_PER_PAGE: Final = 10

_SEPARATOR: Final = " [SEP] "
_BLANKS: Final = " \n\t\f\r"
_RATING: Final = "N.A."  # the files have no ratings


class Kind(enum.Enum):
    """What a piece of a page is."""

    TEXT = "text"
    BUTTON = "button"
    PRODUCT = "product"
    OPTION = "option"


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a page.

    Attributes:
        text: Its text.
        kind: What it is.
        name: Of an option, its kind (``"color"``).
    """

    text: str
    kind: Kind = Kind.TEXT
    name: str = ""


def search_page(instruction: str) -> list[Piece]:
    """The page with the search bar, where a session begins."""
    return [*_texts("WebShop", "Instruction: ", instruction), _button("Search")]


def results_page(instruction: str, products: Iterable[Product], *, page: int, total: int) -> list[Piece]:
    """A page of results.

    Args:
        instruction: What the customer says.
        products: The products of this page.
        page: Its number, from 1. Odd searches lead to lower ones.
        total: How many products were found.
    """
    pieces = [*_head(instruction), *_texts(f"Page {page} (Total results: {total})")]
    pieces += [_button(PREVIOUS)] if page > 1 else []
    pieces.append(_button(NEXT))
    for product in products:
        pieces.append(Piece(product.asin, Kind.PRODUCT))
        pieces += _texts(product.title, product.price_tag)
    return pieces


def item_page(instruction: str, product: Product, *, show_attributes: bool) -> list[Piece]:
    """A product's page, with its options."""
    pieces = [*_head(instruction), _button(PREVIOUS)]
    for name, values in product.options.items():
        pieces += [*_texts(name), *(Piece(value, Kind.OPTION, name) for value in values)]
    pieces += _texts(product.title, f"Price: {product.price_tag}", f"Rating: {_RATING}")
    shown = SUB_PAGES if show_attributes else [name for name in SUB_PAGES if name != ATTRIBUTES]
    return pieces + [_button(name) for name in (*shown, BUY)]


def sub_page(instruction: str, product: Product, name: str) -> list[Piece]:
    """A page below a product's: one of `SUB_PAGES`. There are no reviews."""
    content: Sequence[str] = ()
    if name == "Description":
        content = (product.description,)
    elif name == "Features":
        content = [f" {bullet}" for bullet in product.bullets]
    elif name == ATTRIBUTES:
        own = [f" {attribute}" for attribute in product.attributes]
        content = (*own, product.category, product.query, product.product_category)
    return [*_head(instruction), _button(PREVIOUS), *_texts(*content)]


def done_page(asin: str, options: Mapping[str, str], reward: float) -> list[Piece]:
    """The page after a purchase; hidden parts of the original's page are read as well, most of them empty."""
    chosen = json.dumps(options, sort_keys=True)
    for mark in "<>&'":  # as they are written where JSON stands in a page
        chosen = chosen.replace(mark, f"\\u{ord(mark):04x}")
    purchased = ["Purchased", "asin", asin, "options", chosen, "attrs", "None", "category", "None"]
    purchased += ["query", "None", "product category", "None"]
    wanted = ["Target", "asin", "options", "attrs", "price upper", "instuction text", "category"]
    wanted += ["product category", "query", "Goal ", "None"]
    return _texts(
        *("Thank you for shopping with us!", "Your code: ", "None", " (Paste it in your MTurk interface.)"),
        *purchased,
        *wanted,
        *("Reward", "Your score (min 0.0, max 1.0)", str(reward), "Reward Details ", "None"),
    )


def as_text(pieces: Iterable[Piece]) -> str:
    """The observation mode ``text``: all pieces with separators, no telling buttons from texts."""
    return _SEPARATOR.join(piece.text.strip() for piece in pieces if piece.text)


def as_rich_text(pieces: Iterable[Piece], *, url: str, visited: Collection[str]) -> str:
    """The observation mode ``text_rich``: a piece a line, buttons marked, and whether they were clicked.

    Args:
        pieces: The page.
        url: Its address; an option counts as clicked if it stands there in quotation marks.
        visited: The products that were looked at.
    """
    clicked: list[str] = []
    lines = []
    for piece in pieces:
        text = piece.text
        if not text:  # an option without a name can be clicked, but not be seen
            continue
        if piece.kind is Kind.BUTTON:
            text = f"[button] {text} [button_]"
        elif piece.kind is Kind.OPTION and f'"{text}"' in url:
            clicked.insert(0, f"You have clicked {text}.\n")
            text = f"  [clicked button] {text} [clicked button_]"
        elif piece.kind is Kind.OPTION:
            text = f"  [button] {text} [button_]"
        elif piece.kind is Kind.PRODUCT:
            mark = "clicked button" if text in visited else "button"
            text = f"\n[{mark}] {text} [{mark}_]"
        lines.append(f"{text}\n")
    return "".join([*clicked, *lines])


def clickables(pieces: Iterable[Piece]) -> dict[str, Piece]:
    """What can be clicked, by what to write: buttons, then products, both lower-case, then options."""
    pieces = list(pieces)
    found = {piece.text.lower(): piece for piece in pieces if piece.kind is Kind.BUTTON}
    found |= {piece.text.lower(): piece for piece in pieces if piece.kind is Kind.PRODUCT}
    # An option that is called like something else takes its place; of two alike the last one is clicked.
    return found | {piece.text: piece for piece in pieces if piece.kind is Kind.OPTION}


def _head(instruction: str) -> list[Piece]:
    return [*_texts("Instruction:", instruction), _button(BACK)]


def _button(text: str) -> Piece:
    return Piece(text, Kind.BUTTON)


def _texts(*texts: str) -> list[Piece]:
    """Texts as read back out of a page: of blanks alone one is left, of blanks with a line break none."""
    read = []
    for text in texts:
        if text.strip(_BLANKS):
            read.append(Piece(text))
        elif text and "\n" not in text:
            read.append(Piece(" "))
    return read
