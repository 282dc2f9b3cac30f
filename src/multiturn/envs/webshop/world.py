"""A shop's world: its data files found and read, prices and goals drawn, the search made."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from multiturn.cache import cache_root, is_complete
from multiturn.envs.webshop.analysis import ANALYSIS_VERSION
from multiturn.envs.webshop.disk import DiskRanker
from multiturn.envs.webshop.goals import draw_prices, human_goals, shuffled, synthetic_goals
from multiturn.envs.webshop.products import read_products
from multiturn.envs.webshop.ranker import MemoryRanker
from multiturn.envs.webshop.shelf import MemoryShelf, StoredShelf, stream_array
from multiturn.envs.webshop.shop import Shop
from multiturn.envs.webshop.titles import SpacyNouns, TableNouns, spacy_version
from multiturn.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from multiturn.envs.webshop.products import Product
    from multiturn.envs.webshop.ranker import Ranker
    from multiturn.envs.webshop.shelf import Shelf

__all__ = [
    "DATA_VARIABLE",
    "LARGE",
    "NOUNS_FILE",
    "PRODUCTS_FILE",
    "DataFiles",
    "World",
    "index_folder",
    "make_world",
    "open_world",
    "prepared_folder",
    "read_json",
]

DATA_VARIABLE: Final = "MULTITURN_WEBSHOP_DATA"
NOUNS_FILE: Final = "nouns.json"
PRODUCTS_FILE: Final = "products.sqlite"
LARGE: Final = 256 * 2**20
"""The size of a file of products, in bytes, above which they are kept on disk."""
_PIECE: Final = 2**20
_PIECES: Final = 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A shop and where it came from.

    Attributes:
        shop: The shop.
        seed: The seed that prices and limits were drawn with.
        fingerprint: What its answers depend on.
    """

    shop: Shop
    seed: int
    fingerprint: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataFiles:
    """The original's data files.

    Attributes:
        products: ``items_shuffle*.json``.
        attributes: ``items_ins_v2*.json``: properties and synthetic instructions.
        human: ``items_human_ins*.json``; None where it is not there.
    """

    products: Path
    attributes: Path
    human: Path | None

    @classmethod
    def find(cls, path: str | Path | None) -> DataFiles:
        """Find them in a folder.

        Args:
            path: The folder; None takes the one that ``MULTITURN_WEBSHOP_DATA`` names.

        Raises:
            ConfigError: A file is missing, or there are several of a kind.
        """
        named = path or os.environ.get(DATA_VARIABLE)
        if not named:
            raise ConfigError(
                f"webshop: where are the data files? Give the option `path`, or set {DATA_VARIABLE}; "
                "docs/webshop.md says how to get them. `webshop-generated` needs none"
            )
        folder = Path(named).expanduser()
        return cls(
            products=_only(folder, "items_shuffle*.json"),
            attributes=_only(folder, "items_ins_v2*.json"),
            human=_only(folder, "items_human_ins*.json", optional=True),
        )

    def read(self) -> Iterator[Product]:
        """The products, one by one, from files of any size.

        Raises:
            DataError: A file cannot be read.
        """
        about = read_json(self.attributes)
        said = {} if self.human is None else read_json(self.human)
        try:
            with self.products.open(encoding="utf-8") as opened:
                yield from read_products(stream_array(opened), about, said)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.products}: cannot be read ({error}); get the file again") from None

    def digest(self) -> str:
        """A hash of the files' contents; of very large ones, of their sizes and evenly spread pieces."""
        digest = hashlib.sha256()
        for file in (self.products, self.attributes, self.human):
            if file is not None:
                _add(digest, file)
        return digest.hexdigest()[:16]


def open_world(
    path: str | Path | None,
    *,
    human: bool,
    seed: int,
    show_attributes: bool = False,
) -> World:
    """The world of the original's data files.

    Args:
        path: Their folder; see `DataFiles.find`.
        human: Whether goals are what people wrote; else they are made from products' options.
        seed: The seed of prices and limits.
        show_attributes: Whether products have a page with their properties.

    Raises:
        ConfigError: A file is missing.
        DataError: A file cannot be read.
        MissingExtraError: There is neither a prepared table of nouns nor spaCy.
    """
    files = DataFiles.find(path)
    if human and files.human is None:
        raise ConfigError(
            f"webshop: human_goals needs items_human_ins.json in {files.products.parent}; get it, or set "
            "human_goals: false"
        )
    digest = files.digest()
    stored = prepared_folder(digest) / PRODUCTS_FILE
    shelf: Shelf
    if stored.exists():
        shelf = StoredShelf(stored)
        ranker: Ranker | None = DiskRanker(index_folder(digest), verify=False)
    elif files.products.stat().st_size > LARGE:
        raise ConfigError(
            f"webshop: {files.products} is large; run `multiturn env prepare webshop --path "
            f"{files.products.parent}` once, which puts its products and their search index on disk"
        )
    else:
        shelf, ranker = MemoryShelf(files.read()), None
    nouns, made_by = _nouns(digest)
    return make_world(
        shelf,
        human=human,
        seed=seed,
        nouns=nouns,
        # Another tagger finds other nouns, and the reward depends on them.
        fingerprint=f"{digest}-{hashlib.sha256(made_by.encode()).hexdigest()[:6]}",
        show_attributes=show_attributes,
        ranker=ranker,
    )


def make_world(
    shelf: Shelf,
    *,
    human: bool,
    seed: int,
    nouns: Callable[[str], Collection[str]],
    fingerprint: str,
    show_attributes: bool = False,
    ranker: Ranker | None = None,
) -> World:
    """A world from products.

    Args:
        shelf: The products.
        human: Whether goals are what people wrote.
        seed: The seed of prices and limits.
        nouns: The nouns of a title.
        fingerprint: What the products depend on.
        show_attributes: Whether products have a page with their properties.
        ranker: The search; None makes one in memory.

    Raises:
        DataError: There are no goals.
    """
    rng = random.Random(seed)  # noqa: S311 - the original's generator, whose draws these are
    prices = draw_prices(shelf.pricings(), rng)
    make = human_goals if human else synthetic_goals
    goals = shuffled(make(shelf.asked_for(human=human), prices, rng), rng)
    if not goals:
        kind = "human" if human else "synthetic"
        raise DataError(f"webshop: these products have no {kind} goals; take the files that belong together")
    shop = Shop(
        shelf=shelf,
        goals=goals,
        prices=prices,
        ranker=ranker or MemoryRanker((asin, shelf[asin].indexed_text) for asin in shelf),
        nouns=nouns,
        rng=rng,
        show_attributes=show_attributes,
    )
    shop.enter_at_random()  # as the original does when it is made; later draws follow these
    own = f"{fingerprint}-{'human' if human else 'synthetic'}-{seed}-a{ANALYSIS_VERSION}"
    return World(shop=shop, seed=seed, fingerprint=own + ("-attributes" if show_attributes else ""))


def prepared_folder(digest: str) -> Path:
    """Where what was prepared for data files of this hash is kept."""
    return cache_root() / "webshop" / digest


def index_folder(digest: str) -> Path:
    """Where the search index for data files of this hash is kept, if they are large."""
    return cache_root() / "webshop" / f"{digest}-index"


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: It is not JSON.
    """
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read ({error}); get the file again") from None


def _nouns(digest: str) -> tuple[Callable[[str], Collection[str]], str]:
    """Where nouns come from, and the versions that made them."""
    folder = prepared_folder(digest)
    if is_complete(folder):
        table = read_json(folder / NOUNS_FILE)
        nouns = TableNouns(
            {title: tuple(nouns) for title, nouns in table["nouns"].items()},
            otherwise=None if table["complete"] else SpacyNouns(),
        )
        return nouns, str(table["spacy"])
    return SpacyNouns(), spacy_version()


def _only(folder: Path, pattern: str, *, optional: bool = False) -> Any:
    found = sorted(folder.glob(pattern))
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise ConfigError(f"webshop: {folder} has several files {pattern} ({names}); leave one there")
    if not found and not optional:
        raise ConfigError(f"webshop: {folder} has no {pattern}; docs/webshop.md says how to get the files")
    return found[0] if found else None


def _add(digest: Any, file: Path) -> None:
    size = file.stat().st_size
    digest.update(f"{size} ".encode())
    with file.open("rb") as opened:
        if size <= LARGE:
            digest.update(opened.read())
            return
        for piece in range(_PIECES):
            opened.seek(max(0, size - _PIECE) * piece // (_PIECES - 1))
            digest.update(opened.read(_PIECE))
