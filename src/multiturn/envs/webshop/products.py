"""Products of the shop, read from the original's data files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final

from multiturn.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["CATEGORY_SEPARATOR", "HumanInstruction", "Product", "read_products"]

CATEGORY_SEPARATOR: Final = "\u203a"

_NO_PRICE: Final = 100.0
"""What a product without a price costs."""
_LONGEST_ASIN: Final = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HumanInstruction:
    """What a person wrote about a product that is to be bought.

    Attributes:
        text: The instruction.
        attributes: The properties that it asks for.
        options: The options that it asks for.
    """

    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A product.

    Attributes:
        asin: Its key, ten letters and digits at most.
        category: Its large category, for example ``garden``.
        query: The kind of product in a few words, lower-case.
        product_category: Its path of categories, separated by `CATEGORY_SEPARATOR`.
        title: Its title.
        description: Its description; may be empty.
        bullets: Its features, at least one, which may be empty.
        pricing: One price, or the least and the greatest, in dollars.
        price_tag: The price as pages show it.
        options: For each kind of option (lower-case) its values, in the order of the page.
        attributes: Its properties, as they were mined from its texts.
        instruction: What a goal for it says before options and price; None where there is no goal.
        instruction_attributes: The properties that `instruction` asks for.
        human_instructions: What people wrote.
    """

    asin: str
    category: str
    query: str
    product_category: str
    title: str
    description: str
    bullets: tuple[str, ...]
    pricing: tuple[float, ...]
    price_tag: str
    options: Mapping[str, tuple[str, ...]]
    attributes: tuple[str, ...]
    instruction: str | None = None
    instruction_attributes: tuple[str, ...] = ()
    human_instructions: tuple[HumanInstruction, ...] = ()

    @property
    def indexed_text(self) -> str:
        """What search looks at, lower-case: title, description, the first feature and all options."""
        options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in self.options.items())
        return " ".join((self.title, self.description, self.bullets[0], options)).lower()


def read_products(
    records: Iterable[Any], attributes: Mapping[str, Any], human: Mapping[str, Any]
) -> Iterator[Product]:
    """Products from the records of the original's files, as it cleans them.

    Records without a usable key, and those whose key came before, are left out, as there.

    Args:
        records: Those of ``items_shuffle.json``.
        attributes: The content of ``items_ins_v2.json``: properties and instructions by key.
        human: The content of ``items_human_ins.json``; may be empty.

    Raises:
        DataError: A record is not a product.
    """
    seen: set[str] = set()
    for number, record in enumerate(records):
        try:
            asin = record["asin"]
            if asin == "nan" or len(asin) > _LONGEST_ASIN or asin in seen:
                continue
            seen.add(asin)
            yield _product(record, attributes.get(asin, {}), human.get(asin, ()))
        except (KeyError, TypeError, AttributeError, InvalidOperation, IndexError) as error:
            raise DataError(
                f"product {number + 1} is not as WebShop's files have it ({type(error).__name__}: {error}); "
                "get the files again"
            ) from None


def _product(record: Mapping[str, Any], about: Mapping[str, Any], human: Iterable[Any]) -> Product:
    bullets = record["small_description"]
    pricing, tag = _pricing(record.get("pricing"))
    wish = None if about.get("instruction") is None else _text(about["instruction"])
    asked_for = _texts(about.get("instruction_attributes") or ())
    if wish is not None and not asked_for:
        raise TypeError("an instruction without instruction_attributes")
    return Product(
        asin=record["asin"],
        category=_text(record["category"]),
        query=_text(record["query"]).lower().strip(),
        product_category=_text(record["product_category"]),
        title=_text(record["name"]),
        description=_text(record["full_description"]),
        bullets=_texts(bullets if isinstance(bullets, list) else [bullets]) or ("",),
        pricing=pricing,
        price_tag=tag,
        options=_options(record["customization_options"]),
        attributes=_texts(about.get("attributes", ("DUMMY_ATTR",))),
        instruction=wish,
        instruction_attributes=asked_for,
        human_instructions=tuple(
            HumanInstruction(
                text=_text(said["instruction"]),
                attributes=_texts(said["instruction_attributes"]),
                options=_texts(said["instruction_options"]),
            )
            for said in human
        ),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _texts(values: Iterable[Any]) -> tuple[str, ...]:
    return tuple(map(_text, values))


def _pricing(text: str | None) -> tuple[tuple[float, ...], str]:
    """The prices in a text such as ``"$19.99$27.99"``, two at most, and the tag that shows them."""
    if not text:
        return (_NO_PRICE,), f"${_NO_PRICE}"
    prices = [float(Decimal(re.sub(r"[^\d.]", "", price))) for price in text.split("$")[1:]]
    if len(prices) == 1:
        return (prices[0],), f"${prices[0]}"
    return (prices[0], prices[1]), f"${prices[0]} to ${prices[1]}"


def _options(record: Mapping[str, Any] | str | None) -> dict[str, tuple[str, ...]]:
    if not isinstance(record, Mapping):
        return {}
    return {
        name.lower(): tuple(value["value"].strip().replace("/", " | ").lower() for value in values)
        for name, values in record.items()
        if values is not None
    }
