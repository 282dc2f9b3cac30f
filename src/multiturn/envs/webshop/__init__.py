"""WebShop (Yao et al., NeurIPS 2022): shopping on a simulated web site, without the web server.

`webshop` is the original's world, from its data files; `webshop_generated` is one that is made on the spot.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from multiturn.envs.webshop.environment import MODES, SPLITS, WebShop
from multiturn.envs.webshop.generator import GENERATOR_VERSION, generate_catalogue
from multiturn.envs.webshop.products import read_products
from multiturn.envs.webshop.shelf import MemoryShelf
from multiturn.envs.webshop.titles import TableNouns
from multiturn.envs.webshop.world import make_world, open_world, read_json
from multiturn.errors import ConfigError

__all__ = ["MODES", "SPLITS", "WebShop", "webshop", "webshop_generated"]

_FEWEST_PRODUCTS: Final = 200


def webshop(
    *,
    path: str | None = None,
    observation: str = "text",
    human_goals: bool = False,
    seed: int = 0,
    show_attributes: bool = False,
    max_turns: int = 10,
    limit: int | Mapping[str, int] | None = None,
    split_file: str | None = None,
    exclude_overlap: bool = False,
    admissible: bool = False,
) -> WebShop:
    """The original's world, from its data files.

    Args:
        path: The folder with the files items_shuffle*.json, items_ins_v2*.json and, for human goals,
            items_human_ins*.json; None takes what the environment variable MULTITURN_WEBSHOP_DATA says.
        observation: How pages are written: text (separators only) or text_rich (buttons marked).
        human_goals: Whether goals are what people wrote, as in published results; else they are made from
            products' options.
        seed: The seed of prices and price limits.
        show_attributes: Whether products have a page with their properties.
        max_turns: The turn limit.
        limit: How many goals a split has at most; one number, or one for each split.
        split_file: A JSON file with lists of goal numbers by split, in place of the original's. Splits that
            it does not name stay the original's, and may share goals with those that it names.
        exclude_overlap: Whether goals whose product is asked for in another split are left out of train.
        admissible: Whether info lists the admissible commands.

    Raises:
        ConfigError: Files are missing, or an option is not usable.
        DataError: A file cannot be read.
        MissingExtraError: The reward needs spaCy, and it is not installed.
    """
    goals = None if split_file is None else _split_file(Path(split_file).expanduser())
    checked = _checked("webshop", observation=observation, max_turns=max_turns, seed=seed, limit=limit)
    world = open_world(path, human=human_goals, seed=seed, show_attributes=show_attributes)
    return WebShop(world, goals=goals, exclude_overlap=exclude_overlap, admissible=admissible, **checked)


def webshop_generated(
    *,
    products: int = 300,
    observation: str = "text",
    seed: int = 0,
    max_turns: int = 10,
    limit: int | Mapping[str, int] | None = None,
    exclude_overlap: bool = False,
    admissible: bool = False,
) -> WebShop:
    """A shop with made-up products, in WebShop's pages and rules; no download, no other package.

    Its goals are not WebShop's: results on them compare with nothing that is published.

    Args:
        products: How many products there are; at least 200, so that every split has goals.
        observation: How pages are written: text (separators only) or text_rich (buttons marked).
        seed: Another seed, other products, prices and goals.
        max_turns: The turn limit.
        limit: How many goals a split has at most; one number, or one for each split.
        exclude_overlap: Whether goals whose product is asked for in another split are left out of train.
        admissible: Whether info lists the admissible commands.

    Raises:
        ConfigError: An option is not usable.
    """
    name = "webshop-generated"
    checked = _checked(name, observation=observation, max_turns=max_turns, seed=seed, limit=limit)
    _whole(name, "products", products, _FEWEST_PRODUCTS)
    catalogue = generate_catalogue(seed=seed, products=products)
    shelf = MemoryShelf(read_products(catalogue.items, catalogue.attributes, {}))
    world = make_world(
        shelf,
        human=False,
        seed=seed,
        nouns=TableNouns(catalogue.nouns),
        fingerprint=f"v{GENERATOR_VERSION}-{products}",
    )
    return WebShop(world, name=name, exclude_overlap=exclude_overlap, admissible=admissible, **checked)


def _checked(name: str, *, observation: str, max_turns: int, seed: int, limit: object) -> dict[str, Any]:
    """Options that both environments have, refused where they are not usable."""
    if observation not in MODES:
        raise ConfigError(f"{name}: observation is {observation!r}; use {' or '.join(MODES)}")
    limits = list(limit.values()) if isinstance(limit, Mapping) else [1 if limit is None else limit]
    unknown = set(limit) - set(SPLITS) if isinstance(limit, Mapping) else set()
    if unknown:
        raise ConfigError(f"{name}: limit names {sorted(unknown)}; the splits are {', '.join(SPLITS)}")
    for option, number, least in (
        ("max_turns", max_turns, 1),
        ("seed", seed, 0),
        *(("limit", n, 1) for n in limits),
    ):
        _whole(name, option, number, least)
    return {"mode": observation, "max_turns": max_turns, "limit": limit}


def _whole(name: str, option: str, number: object, least: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise ConfigError(f"{name}: {option} is {number!r}; it has to be a whole number, {least} or more")


def _split_file(file: Path) -> dict[str, Sequence[int]]:
    """Lists of goal numbers by split; a bare list is the test split. Numbers may be written as texts."""
    content = read_json(file)
    lists = content if isinstance(content, dict) else {"test": content}
    splits: dict[str, Sequence[int]] = {}
    for split, numbers in lists.items():
        if not isinstance(numbers, list) or not all(re.fullmatch(r"\d{1,9}", str(n)) for n in numbers):
            raise ConfigError(f'{file}: {split!r} is no list of goal numbers; write {{"test": [0, 1]}}')
        splits[str(split)] = [int(number) for number in numbers]
        if len(set(splits[split])) < len(numbers):
            raise ConfigError(f"{file}: {split!r} names a goal twice; name each once")
    return splits
