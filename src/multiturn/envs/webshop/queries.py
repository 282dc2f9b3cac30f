"""What can be searched for to find what a customer wants."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from multiturn.envs.webshop.goals import Goal
    from multiturn.envs.webshop.products import Product

__all__ = ["Query", "kind_asked_for", "queries_from_instruction", "queries_from_title"]

_LIMIT: Final = re.compile(r",? and price lower than [\d.]+ dollars$")
_SAYING_NOTHING: Final = """
a about all also am an and any are as at be buy can could dollars find for get give have help hi i i'd i'm
if in is it its like looking lower me my need of on or order ordering please preferably price purchase show
so some something that the them they this to want wanting was which will with would you
"""
_FILLERS: Final = frozenset(_SAYING_NOTHING.split())
"""Words that tell no product from another."""
_EDGES: Final = ".,:;!?()<>|\"'"
_MOST_ADDED: Final = 6
"""Words of a title that are added to a query at most."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Words to search for.

    Attributes:
        text: The words, lower-case, with one blank between them; not empty.
        reason: A sentence on why to search for them.
    """

    text: str
    reason: str


def queries_from_instruction(goal: Goal) -> Iterator[Query]:
    """Queries of words of the instruction only, those with more of the wishes first."""
    said = _words(_LIMIT.sub("", goal.instruction))
    kind = [word for word in _words(goal.query) if word in said]
    attributes = [word for word in _words(" ".join(goal.attributes)) if word in said]
    values = [option if isinstance(option, str) else option[1] for option in goal.options]
    options = [word for word in _words(" ".join(values)) if word in said]
    labels = _words(" ".join(option[0] for option in goal.options if isinstance(option, tuple)))
    wishes = [word for word in said if word not in labels or word in {*kind, *attributes, *options}]
    plain = _words(_without_options(goal))
    name = kind_asked_for(goal)
    yield from _distinct(
        (
            (wishes, f"I search for {name} with all that the customer asks for."),
            (kind + options, f"I search for {name} and the options that the customer wants."),
            (attributes + options, "I search for the properties and the options that the customer names."),
            (plain, f"I search for {name} and choose the options later."),
            (kind + attributes, f"I search for {name} and the properties that the customer names."),
            (kind, f"I search for {name} and look through the list."),
        )
    )


def queries_from_title(goal: Goal, product: Product) -> Iterator[Query]:
    """Queries for those who know the product: the instruction with words of its title, then the title."""
    said = next(queries_from_instruction(goal)).text.split(" ")
    title = [word for word in _words(product.title) if word not in said]
    for count in range(1, min(_MOST_ADDED, len(title)) + 1):
        added = title[:count]
        yield Query(
            text=" ".join(said + added),
            reason=f"Too much answers to the customer's words alone, so I add {' '.join(added)}.",
        )
    whole = " ".join(_words(product.title, fillers=frozenset()))
    full = " ".join(_words(product.indexed_text, fillers=frozenset()))
    reason = "I know a product that fits, so I search for its name."
    yield from (Query(text=text, reason=reason) for text in (whole, full) if text)


def kind_asked_for(goal: Goal) -> str:
    """The kind of product in the customer's words; ``"it"`` where they say it otherwise."""
    return goal.query if goal.query and goal.query in goal.instruction.lower() else "it"


def _without_options(goal: Goal) -> str:
    """The instruction without limit and, where they have a part of their own, options."""
    text = _LIMIT.sub("", goal.instruction)
    pairs = [option for option in goal.options if isinstance(option, tuple)]
    return text.removesuffix(" with " + ", and ".join(f"{name}: {value}" for name, value in pairs))


def _distinct(candidates: Iterable[tuple[list[str], str]]) -> Iterator[Query]:
    seen: set[str] = set()
    for words, reason in candidates:
        text = " ".join(words)
        if text and text not in seen:
            seen.add(text)
            yield Query(text=text, reason=reason)
    if not seen:
        yield Query(text="product", reason="I look at what there is.")


def _words(text: str, fillers: frozenset[str] = _FILLERS) -> list[str]:
    """The words of a text that can stand in a search: without brackets, which end an action."""
    words = (word.strip(_EDGES) for word in re.sub(r"[\[\]]", " ", text.lower()).split())
    return [word for word in words if word and word not in fillers]
