"""The shop: sessions of customers, and what their actions lead to.

Actions are ``search[words]`` and ``click[what]``; what the original does with odd ones is done here too.
"""

from __future__ import annotations

import dataclasses
import json
import string
from typing import TYPE_CHECKING, Final

from multiturn.envs.webshop import pages
from multiturn.envs.webshop.goals import draw_goal
from multiturn.envs.webshop.pages import Kind, Piece
from multiturn.envs.webshop.reward import Reward, purchase_reward

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Collection, Mapping, Sequence

    from multiturn.envs.webshop.goals import Goal
    from multiturn.envs.webshop.products import Product
    from multiturn.envs.webshop.ranker import Ranker
    from multiturn.envs.webshop.shelf import Shelf

__all__ = ["MOST_RESULTS", "Answer", "Session", "Shop", "parse_action"]

MOST_RESULTS: Final = 50
"""Products that a search finds at most."""
_SITE: Final = "http://127.0.0.1:3000"
_NAMES_IN_URL: Final = ("search_results", "item_page", "item_sub_page", "done")


@dataclasses.dataclass(slots=True, kw_only=True)
class Session:
    """A customer in the shop.

    Attributes:
        name: The session's name, part of every address.
        goal: What is wanted.
        pieces: The page.
        url: Its address.
        keywords: The words of the last search.
        found: The products that it found, the best first.
        page: The page of results.
        asin: The product that is looked at.
        visited: The products that were looked at since the search page.
        options: The options that are chosen, by their kind.
        purchase: The reward, once something was bought.
    """

    name: str
    goal: Goal
    pieces: list[Piece] = dataclasses.field(default_factory=list)
    url: str = ""
    keywords: list[str] | None = None
    found: list[str] = dataclasses.field(default_factory=list)
    page: int | None = None
    asin: str | None = None
    visited: list[str] = dataclasses.field(default_factory=list)
    options: dict[str, str] = dataclasses.field(default_factory=dict)
    purchase: Reward | None = None

    @property
    def text(self) -> str:
        """The page in the observation mode ``text``."""
        return pages.as_text(self.pieces)

    @property
    def rich_text(self) -> str:
        """The page in the observation mode ``text_rich``."""
        return pages.as_rich_text(self.pieces, url=self.url, visited=self.visited)

    @property
    def has_search_bar(self) -> bool:
        """Whether this is the page with the search bar. Searching works on every page."""
        return any(piece == Piece("Search", Kind.BUTTON) for piece in self.pieces)

    @property
    def clickables(self) -> dict[str, Piece]:
        """What can be clicked, by what is to be written."""
        return pages.clickables(self.pieces)

    @property
    def place(self) -> str:
        """Which page the address is taken for; a search for such a name can mislead the shop."""
        return next((name for name in _NAMES_IN_URL if name in self.url), "")


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What an action led to.

    Attributes:
        valid: Whether it was understood; if not, the page is the same.
        purchase: The reward, where it was a purchase.
        complaint: Why it could not be done, where the original breaks down.
    """

    valid: bool
    purchase: Reward | None = None
    complaint: str = ""


class Shop:
    """Products, goals, prices and search.

    Args:
        shelf: The products by their keys, in the order of the files.
        goals: The goals, in the order of their numbers.
        prices: What each product costs, in dollars.
        ranker: The search.
        nouns: The nouns of a title, for the reward.
        rng: The random numbers, as making the world has left them.
        show_attributes: Whether products have a page with their properties.

    Attributes:
        goals: As given.
        shelf: As given.
        prices: As given.
        ranker: As given.
        nouns: As given.
        rng: As given; sessions without a goal and searches for ``<r>`` draw from it.
    """

    def __init__(
        self,
        *,
        shelf: Shelf,
        goals: Sequence[Goal],
        prices: Mapping[str, float],
        ranker: Ranker,
        nouns: Callable[[str], Collection[str]],
        rng: random.Random,
        show_attributes: bool = False,
    ) -> None:
        self.shelf = shelf
        self.goals = goals
        self.prices = prices
        self.ranker = ranker
        self.nouns = nouns
        self.rng = rng
        self._show_attributes = show_attributes

    def enter(self, number: int) -> Session:
        """A new session for a goal.

        Args:
            number: The goal's number.
        """
        session = Session(name=str(number), goal=self.goals[number])
        self._begin(session)
        return session

    def enter_at_random(self) -> tuple[Session, int]:
        """A new session with a name and a goal that are drawn as the original draws them.

        Returns:
            The session, and the number of its goal.
        """
        name = "".join(self.rng.choices(string.ascii_lowercase, k=10))
        number = draw_goal(self.goals, self.rng)
        session = Session(name=name, goal=self.goals[number])
        self._begin(session)
        return session, number

    def act(self, session: Session, action: str) -> Answer:
        """Take an action; the session changes in place."""
        verb, argument = parse_action(action)
        if verb == "search" and argument is not None:
            return self._search(session, argument.split(" "), 1)
        clicked = None if argument is None else session.clickables.get(argument)
        if verb != "click" or argument is None or clicked is None or argument == "search":
            return Answer(valid=False)
        return self._click(session, argument, clicked)

    def found(self, keywords: Sequence[str]) -> list[str]:
        """The products that a search finds, the best first.

        Args:
            keywords: Words, or one of the original's marks and what it takes: ``<r>`` (at random), ``<c>``
                and a category, ``<q>`` and a kind.

        Raises:
            ValueError: The original breaks down at this; the message says at what.
        """
        mark = keywords[0]
        if mark == "<r>":
            asins = list(self.shelf)
            if len(asins) < MOST_RESULTS:
                raise ValueError(f"a search for <r> needs {MOST_RESULTS} products, not {len(asins)}")
            return self.rng.sample(asins, MOST_RESULTS)
        if mark == "<a>":
            raise ValueError("a search for <a> does not work in this shop")
        if mark == "<c>" and len(keywords) < 2:
            raise ValueError("a search for <c> needs a category")
        if mark == "<c>":
            return self.shelf.of_category(keywords[1].strip())
        if mark == "<q>":
            return self.shelf.of_query(" ".join(keywords[1:]).strip())
        hits = self.ranker.search(" ".join(keywords), MOST_RESULTS)
        return [hit.key for hit in hits if hit.key in self.shelf]

    def _begin(self, session: Session) -> None:
        session.keywords = session.page = session.asin = None
        session.visited, session.options, session.found = [], {}, []
        session.pieces = pages.search_page(session.goal.instruction)
        session.url = f"{_SITE}/{session.name}"

    def _search(self, session: Session, keywords: list[str], page: int) -> Answer:
        try:
            found = self.found(keywords)
        except ValueError as error:
            return Answer(valid=False, complaint=str(error))
        session.keywords, session.page, session.asin, session.options = keywords, page, None, {}
        session.found = found
        per_page = pages.RESULTS_PER_PAGE
        shown = [self.shelf[asin] for asin in found[(page - 1) * per_page : page * per_page]]
        session.pieces = pages.results_page(session.goal.instruction, shown, page=page, total=len(found))
        session.url = f"{_SITE}/search_results/{session.name}/{'+'.join(keywords)}/{page}"
        return Answer(valid=True)

    def _click(self, session: Session, name: str, clicked: Piece) -> Answer:
        place = session.place
        if name == pages.BUY.lower():
            return self._buy(session)
        if name == pages.BACK.lower():
            self._begin(session)
        elif place == "search_results" and name in (pages.NEXT.lower(), pages.PREVIOUS.lower()):
            return self._turn(session, 1 if name == pages.NEXT.lower() else -1)
        elif place == "item_page" and name == pages.PREVIOUS.lower():
            return self._turn(session, 0)
        elif name in (sub_page := {page.lower(): page for page in pages.SUB_PAGES}):
            self._show_sub_page(session, sub_page[name])
        else:
            if clicked.kind is Kind.PRODUCT:
                session.asin = clicked.text
                session.visited += [] if session.asin in session.visited else [session.asin]
            elif clicked.kind is Kind.OPTION:
                session.options[clicked.name] = name
            self._show_item(session)
        return Answer(valid=True)

    def _turn(self, session: Session, pages_on: int) -> Answer:
        """Show results again, so many pages further on."""
        return self._search(session, session.keywords or [""], (session.page or 0) + pages_on)

    def _show_item(self, session: Session) -> None:
        session.pieces = pages.item_page(
            session.goal.instruction, self._product(session), show_attributes=self._show_attributes
        )
        session.url = f"{_SITE}/item_page/{self._address(session)}/{json.dumps(session.options)}"

    def _show_sub_page(self, session: Session, name: str) -> None:
        session.pieces = pages.sub_page(session.goal.instruction, self._product(session), name)
        session.url = f"{_SITE}/item_sub_page/{self._address(session)}/{name}/{session.options}"

    def _buy(self, session: Session) -> Answer:
        product = self._product(session)
        session.purchase = purchase_reward(
            product,
            session.goal,
            price=self.prices[product.asin],
            options=session.options,
            nouns=self.nouns,
        )
        session.pieces = pages.done_page(product.asin, session.options, session.purchase.total)
        session.url = f"{_SITE}/done/{session.name}/{product.asin}/{session.options}"
        return Answer(valid=True, purchase=session.purchase)

    def _product(self, session: Session) -> Product:
        return self.shelf[session.asin or ""]

    def _address(self, session: Session) -> str:
        words = "+".join(session.keywords or [])
        return f"{session.name}/{session.asin}/{words}/{session.page}"


def parse_action(action: str) -> tuple[str, str | None]:
    """An action's verb, and what stands in its brackets, lower-case; None without brackets.

    What stands before the last opening bracket is the verb, and what comes after the last closing one is not
    looked at.
    """
    # As the original's pattern (.+)\[(.+)\] matches, which takes time by the square of the length.
    line = action.partition("\n")[0]
    end = line.rfind("]")
    start = line.rfind("[", 1, max(0, end - 1))
    return (action, None) if start < 0 else (line[:start], line[start + 1 : end].lower())
