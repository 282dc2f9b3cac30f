"""Which options of a product to choose: those that pay most."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from multiturn.envs.webshop import pages
from multiturn.envs.webshop.pages import Kind
from multiturn.envs.webshop.reward import option_matches, purchase_reward
from multiturn.envs.webshop.shop import parse_action

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from multiturn.envs.webshop.goals import Goal
    from multiturn.envs.webshop.products import Product
    from multiturn.envs.webshop.shop import Shop

__all__ = ["Choice", "best_choice"]

_BUTTONS: Final = frozenset(
    name.lower() for name in (pages.BACK, pages.NEXT, pages.PREVIOUS, pages.BUY, *pages.SUB_PAGES, "search")
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to choose of a product.

    Attributes:
        options: The values to choose, by their kind; as few as it takes, and those that were asked for.
        reward: What the purchase pays then, in [0, 1]; no other choice pays more.
    """

    options: Mapping[str, str]
    reward: float


def best_choice(shop: Shop, goal: Goal, product: Product) -> Choice:
    """The options of a product that pay most.

    What counts as a wanted option is fuzzy: another value can stand for it, and the very one can fail to. Of
    choices that pay alike, the one with the most values that were asked for is taken, and then the shortest.

    Args:
        shop: The shop.
        goal: What is wanted.
        product: The product.
    """
    options = _best_options(goal, product)
    reward = purchase_reward(
        product, goal, price=shop.prices[product.asin], options=options, nouns=shop.nouns
    )
    return Choice(options=options, reward=reward.total)


def _best_options(goal: Goal, product: Product) -> dict[str, str]:
    """The best choice for each set of wishes that can be met, kind of options by kind of options."""
    best: dict[frozenset[int], tuple[tuple[int, int], dict[str, str]]] = {frozenset(): ((0, 0), {})}
    for name, values in _clickable_options(product).items():
        grown = dict(best)
        for value in values:
            met = _met([value], goal.options)
            asked = _is_asked_for(name, value, goal.options)
            if not met and not asked:
                continue
            for before, ((exact, fewer), chosen) in best.items():
                rank = (exact + asked, fewer - 1)
                after = before | met
                if after not in grown or rank > grown[after][0]:
                    grown[after] = (rank, chosen | {name: value})
        best = grown
    most = max(best, key=lambda met: (len(met), best[met][0]))
    return best[most][1]


def _clickable_options(product: Product) -> dict[str, list[str]]:
    """The options that a click can choose: some are hidden by others, or cannot be written as an action."""
    found: dict[str, list[str]] = {name: [] for name in product.options}
    for text, piece in pages.clickables(pages.item_page("", product, show_attributes=True)).items():
        writable = parse_action(f"click[{text}]") == ("click", text)
        if piece.kind is Kind.OPTION and writable and text not in _BUTTONS:
            found[piece.name].append(text)
    return found


def _met(chosen: Sequence[str], wishes: Sequence[str | tuple[str, str]]) -> frozenset[int]:
    return frozenset(number for number, wish in enumerate(wishes) if option_matches(chosen, [wish]))


def _is_asked_for(name: str, value: str, wishes: Sequence[str | tuple[str, str]]) -> bool:
    return any(wish in (value, (name, value)) for wish in wishes)
