"""An oracle for demonstrations: it knows which product is wanted and what every purchase would pay.

It acts as an agent can, through pages, and as one who knows less could: where the customer's words lead to a
product that pays most, it searches for nothing else.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from multiturn.envs.base import ExpertAction
from multiturn.envs.webshop import pages
from multiturn.envs.webshop.choices import Choice, best_choice
from multiturn.envs.webshop.goals import NO_LIMIT
from multiturn.envs.webshop.pages import RESULTS_PER_PAGE, Kind
from multiturn.envs.webshop.queries import kind_asked_for, queries_from_instruction, queries_from_title
from multiturn.envs.webshop.shop import MOST_RESULTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from multiturn.envs.webshop.queries import Query
    from multiturn.envs.webshop.shop import Session, Shop

__all__ = ["Oracle"]

_PAGES: Final = 3
"""Pages of results that are looked through at most."""
_MARKS: Final = ("<r>", "<a>", "<c>", "<q>")
_TITLE_WORDS: Final = 8
"""Words of a title that a thought names at most."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What to search for, what to buy, and what that pays."""

    query: Query
    asin: str
    reward: float


class Oracle:
    """Plays one session, from whatever page it is on.

    The search is made from the customer's words where they bring the wanted product, or another that pays as
    much, to the first three pages; otherwise words of the product's title are added. Options are those that
    pay most.

    Args:
        shop: The shop.
        session: The session, which others may act in too.
    """

    def __init__(self, shop: Shop, session: Session) -> None:
        self._shop = shop
        self._session = session
        self._goal = session.goal
        self._results: dict[str, list[str]] = {}
        self._choices: dict[str, Choice] = {}
        self._plan: _Plan | None = None

    def act(self) -> ExpertAction | None:
        """The next action; None after the purchase, or if no search finds anything that is worth buying."""
        session = self._session
        self._plan = self._plan or self._make_plan()
        if session.purchase is not None or self._plan is None:
            return None
        if session.has_search_bar:
            query = self._plan.query
            return ExpertAction(action=f"search[{query.text}]", thought=query.reason)
        if session.asin is None:
            return self._on_results(self._plan)
        if not self._pays(session.asin, self._plan):
            return self._leave_product(self._plan)
        if pages.BUY.lower() not in session.clickables:
            return _click(pages.PREVIOUS, "I have read enough and go back to the product.")
        return self._on_product(session.asin)

    def _make_plan(self) -> _Plan | None:
        """The first query in the customer's words that leads to the best purchase, or one with the title."""
        wanted = self._goal.asin
        queries = list(queries_from_instruction(self._goal))
        best = None
        for query, asin in self._candidates(queries):
            reward = self._choice(asin).reward
            if best is None or reward > best.reward:
                best = _Plan(query=query, asin=asin, reward=reward)
            if reward == 1.0:
                return best
        own = self._choice(wanted).reward
        if best is not None and best.reward >= own:
            return best
        # Of those that lead to the same page, the first: it adds the fewest words.
        titled = [*queries_from_title(self._goal, self._shop.shelf[wanted]), *queries]
        query = min(titled, key=lambda each: self._place(wanted, each.text) // RESULTS_PER_PAGE)
        if self._place(wanted, query.text) == MOST_RESULTS:
            return best
        return _Plan(query=query, asin=wanted, reward=own)

    def _candidates(self, queries: Sequence[Query]) -> Iterator[tuple[Query, str]]:
        """What the queries lead to, soonest first, and of a page the wanted product before others."""
        wanted = self._goal.asin
        for page in range(_PAGES):
            places = range(page * RESULTS_PER_PAGE, (page + 1) * RESULTS_PER_PAGE)
            yield from ((query, wanted) for query in queries if self._place(wanted, query.text) in places)
            for query in queries:
                yield from ((query, asin) for asin in self._found(query.text)[places.start : places.stop])

    def _on_results(self, plan: _Plan) -> ExpertAction:
        shown = [piece.text for piece in self._session.pieces if piece.kind is Kind.PRODUCT]
        first = [asin for asin in (plan.asin, self._goal.asin) if asin in shown]
        for asin in [*first, *shown]:
            if self._pays(asin, plan):
                return _click(asin, self._praise(asin))
        away = self._pages_away(plan)
        if away is None:
            return _click(pages.BACK, "None of these is what the customer wants. I try other words.")
        if away < 0:
            return _click(pages.PREVIOUS, "The pages before had better ones, so I go back.")
        return _click(pages.NEXT, "None of these is what the customer wants. I look at the next page.")

    def _on_product(self, asin: str) -> ExpertAction:
        choice = self._choice(asin)
        wanted = dict(option for option in self._goal.options if isinstance(option, tuple))
        for name, value in choice.options.items():
            if self._session.options.get(name) == value:
                continue
            if value in (wanted.get(name), *self._goal.options):
                return _click(value, f"The customer asks for {value}, so I choose it for {name}.")
            return _click(value, f"For {name}, {value} comes closest to what the customer asks for.")
        limit = self._goal.price_upper
        fine = "It is what the customer asks for"
        if choice.reward < 1.0:
            fine = "It is the closest that I find"
        elif limit < NO_LIMIT:
            fine += f" and costs no more than ${limit:.2f}"
        return _click(pages.BUY, f"{fine}, so I buy it.")

    def _praise(self, asin: str) -> str:
        """Why to look at a product of a page of results."""
        product, limit = self._shop.shelf[asin], self._goal.price_upper
        title = " ".join(product.title.split()[:_TITLE_WORDS])
        most = f" for less than ${limit:.2f}" if limit < NO_LIMIT else ""
        wish = f"The customer wants {kind_asked_for(self._goal)}{most}."
        return f"{wish} {asin}, {title}, for {product.price_tag} comes closest, so I look at it."

    def _leave_product(self, plan: _Plan) -> ExpertAction:
        if self._pages_away(plan) is None:
            return _click(pages.BACK, "This is not what the customer wants. I search again.")
        return _click(pages.PREVIOUS, "This is not what the customer wants. I look at the others.")

    def _pages_away(self, plan: _Plan) -> int | None:
        """How many pages further the product stands in these results; None if a new search is shorter."""
        words, page = " ".join(self._session.keywords or []), self._session.page or 0
        place = self._place(plan.asin, words)
        away = place // RESULTS_PER_PAGE + 1 - page
        near = abs(away) < _PAGES or words == plan.query.text
        return away if near and page > 0 and place < MOST_RESULTS else None

    def _place(self, asin: str, text: str) -> int:
        """Where a product stands in the results of a search, from 0; `MOST_RESULTS` if it does not."""
        found = self._found(text)
        return found.index(asin) if asin in found else MOST_RESULTS

    def _found(self, text: str) -> list[str]:
        if text not in self._results:
            words = text.split(" ")
            # Searches with marks are not repeated: some draw random numbers, and find others then.
            self._results[text] = [] if words[0] in _MARKS else self._shop.found(words)
        return self._results[text]

    def _pays(self, asin: str, plan: _Plan) -> bool:
        return self._choice(asin).reward >= plan.reward

    def _choice(self, asin: str) -> Choice:
        if asin not in self._choices:
            self._choices[asin] = best_choice(self._shop, self._goal, self._shop.shelf[asin])
        return self._choices[asin]


def _click(button: str, thought: str) -> ExpertAction:
    return ExpertAction(action=f"click[{button}]", thought=thought)
