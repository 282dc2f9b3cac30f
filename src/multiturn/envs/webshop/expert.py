"""An oracle for demonstrations: it knows what every purchase would be worth, and acts through the pages."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Final

from multiturn.envs.base import ExpertAction
from multiturn.envs.webshop import pages
from multiturn.envs.webshop.pages import Kind
from multiturn.envs.webshop.reward import purchase_reward
from multiturn.envs.webshop.shop import MOST_RESULTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiturn.envs.webshop.goals import Goal
    from multiturn.envs.webshop.products import Product
    from multiturn.envs.webshop.shop import Session, Shop

__all__ = ["Oracle", "best_options"]

_FIND: Final = re.compile(r"^find me ", re.IGNORECASE)
_LIMIT: Final = re.compile(r", and price lower than [\d.]+ dollars$")
_FIRST_PAGES: Final = 2 * pages.RESULTS_PER_PAGE
"""Where a product must be found for a query in the customer's own words to be good enough."""
_MOST_TRIED: Final = 20_000
"""Combinations of options that are compared at most."""
_BUTTONS: Final = frozenset(
    name.lower() for name in (pages.BACK, pages.NEXT, pages.PREVIOUS, pages.BUY, *pages.SUB_PAGES, "search")
)


class Oracle:
    """Plays one session.

    It searches in the customer's words where they lead to the product, otherwise with the product's title,
    opens the product, chooses the options that pay most, and buys. It plans from the page that the session is
    on, whatever was done before.

    Args:
        shop: The shop.
        session: The session.
    """

    def __init__(self, shop: Shop, session: Session) -> None:
        self._shop = shop
        self._session = session
        self._target = shop.shelf[session.goal.asin]
        self._options = best_options(shop, session.goal, self._target)
        self._query = ""
        self._found: list[str] = []

    def act(self) -> ExpertAction | None:
        """The next action; None after the purchase."""
        session = self._session
        if session.purchase is not None:
            return None
        if session.has_search_bar:
            self._plan_search()
            return ExpertAction(
                action=f"search[{self._query}]",
                thought=f"I have to find {session.goal.query or 'a product'}, so I search for that.",
            )
        clickables = session.clickables
        if session.asin is None:
            return self._choose_result(on_page=self._target.asin.lower() in clickables)
        if pages.BUY.lower() not in clickables:
            return ExpertAction(
                action=f"click[{pages.PREVIOUS}]", thought="I have read enough and go back to the product."
            )
        if session.asin != self._target.asin:
            return self._start_again("This is not what was asked for.")
        for name, value in self._options.items():
            if session.options.get(name) != value:
                return ExpertAction(action=f"click[{value}]", thought=f"For {name} I choose {value}.")
        return ExpertAction(
            action=f"click[{pages.BUY}]",
            thought="It is what was asked for and the options are chosen, so I buy it.",
        )

    def _choose_result(self, *, on_page: bool) -> ExpertAction:
        session, target = self._session, self._target
        if on_page:
            return ExpertAction(
                action=f"click[{target.asin}]",
                thought=f"{target.asin} for {target.price_tag} fits what was asked for. I look at it.",
            )
        page = session.page or 0
        if not self._query or session.keywords != self._query.split(" "):
            found = self._shop.found(session.keywords or [""])
        else:
            found = self._found
        if target.asin in found[max(0, page * pages.RESULTS_PER_PAGE) :]:
            return ExpertAction(
                action=f"click[{pages.NEXT}]", thought="None of these fits. I look at the next page."
            )
        return self._start_again("None of these fits. I try other words.")

    def _start_again(self, why: str) -> ExpertAction:
        return ExpertAction(action=f"click[{pages.BACK}]", thought=why)

    def _plan_search(self) -> None:
        """Take the first query that finds the product early; if none does, the best of them."""
        best = MOST_RESULTS + 1
        for query in _queries(self._session.goal, self._target):
            found = self._shop.found(query.split(" "))
            place = found.index(self._target.asin) if self._target.asin in found else MOST_RESULTS
            if place < best:
                best, self._query, self._found = place, query, found
            if place < _FIRST_PAGES:
                return


def best_options(shop: Shop, goal: Goal, product: Product) -> dict[str, str]:
    """The options of a product that pay most, by their kind; of several that do, those that were asked for.

    Args:
        shop: The shop.
        goal: What is wanted.
        product: The product.
    """
    wanted = dict(option for option in goal.options if isinstance(option, tuple))
    reachable = pages.clickables(pages.item_page("", product, show_attributes=True))
    columns: list[list[tuple[str, str] | None]] = []
    for name, values in product.options.items():
        usable = [
            value
            for value in dict.fromkeys(values)
            if "[" not in value
            and value not in _BUTTONS
            and reachable[value].name == name
            and reachable[value].kind is Kind.OPTION
        ]
        usable.sort(key=lambda value: value != wanted.get(name))
        columns.append([*((name, value) for value in usable), None])
    best: dict[str, str] = {}
    most = -1.0
    for chosen in itertools.islice(itertools.product(*columns), _MOST_TRIED):
        options = dict(option for option in chosen if option is not None)
        reward = purchase_reward(
            product, goal, price=shop.prices[product.asin], options=options, nouns=shop.nouns
        )
        if reward.total > most:
            best, most = options, reward.total
        if reward.option_matches == len(goal.options):
            break
    return best


def _queries(goal: Goal, product: Product) -> Iterator[str]:
    """What could be searched for: the request, less and less of it, and at last the title."""
    request = _LIMIT.sub("", _FIND.sub("", goal.instruction))
    yield _searchable(request)
    yield _searchable(f"{' '.join(goal.attributes)} {goal.query}")
    yield _searchable(request.partition(" with ")[0])
    yield _searchable(product.title)
    yield _searchable(product.indexed_text)


def _searchable(text: str) -> str:
    """A text that can stand in the brackets of an action, lower-case as the shop takes it."""
    return " ".join(re.sub(r"[\[\]]", " ", text).lower().split()) or "product"
