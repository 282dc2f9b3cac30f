"""Getting WebShop's data ready: are the files there and sound, and what takes long, done once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from filelock import FileLock

from multiturn.cache import cached_folder, is_complete
from multiturn.envs.prepare import Finding
from multiturn.envs.webshop.disk import DiskRanker, build_index
from multiturn.envs.webshop.environment import WebShop
from multiturn.envs.webshop.shelf import store_products
from multiturn.envs.webshop.titles import SpacyNouns, spacy_version
from multiturn.envs.webshop.world import (
    LARGE,
    NOUNS_FILE,
    PRODUCTS_FILE,
    DataFiles,
    index_folder,
    open_world,
    prepared_folder,
)
from multiturn.errors import ConfigError, DataError, MissingExtraError
from multiturn.progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from multiturn.envs.webshop.products import Product

__all__ = ["prepare_webshop"]

_GET: Final = (
    "get the files items_shuffle_1000.json and items_ins_v2_1000.json (1,000 products) or items_shuffle.json "
    "and items_ins_v2.json (all), and items_human_ins.json for human goals, as WebShop's README says, "
    "into one folder; then give it by --path, or set MULTITURN_WEBSHOP_DATA"
)
_SPACY: Final = "pip install 'multiturn[webshop]', then prepare it again; only the reward needs it"


def prepare_webshop(path: Path | str | None = None) -> list[Finding]:
    """Look at the data files, compute the nouns of titles, and put large data on disk with a search index.

    What was made is kept in the cache, under a hash of the files; done again, it is only looked at.

    Args:
        path: The folder with the files; None takes the one that ``MULTITURN_WEBSHOP_DATA`` names.

    Returns:
        What was found.
    """
    try:
        files = DataFiles.find(path)
        digest = files.digest()
        large = files.products.stat().st_size > LARGE
        _prepare(files, digest, large=large)
        return [*_about(files, path), *_made(digest, large=large)]
    except MissingExtraError as error:
        return [Finding(what=str(error), ok=False, remedy=_SPACY)]
    except (ConfigError, DataError) as error:
        return [Finding(what=str(error), ok=False, remedy=_GET)]


def _prepare(files: DataFiles, digest: str, *, large: bool) -> None:
    folder = prepared_folder(digest)
    index = index_folder(digest)
    if large:
        index.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(index.parent / f".{index.name}.prepare.lock"):
            if not _is_sound(index):  # nor has another process built it meanwhile
                build_index(((p.asin, p.indexed_text) for p in files.read()), index, source=digest)
    nouns = None if is_complete(folder) else SpacyNouns()

    def build(partial: Path) -> None:
        if nouns is None:  # another process was quicker
            return
        products = files.read()
        if large:
            products = store_products(products, partial / PRODUCTS_FILE)
        _write_nouns(products, nouns, partial / NOUNS_FILE, only_goals=large)

    cached_folder(folder, build)


def _write_nouns(
    products: Iterator[Product], nouns: Callable[[str], tuple[str, ...]], file: Path, *, only_goals: bool
) -> None:
    """The nouns of all titles, or of those that goals are made from: spaCy takes some 10 ms for each."""
    table = {}
    with progress("nouns of titles", total=None) as bar:
        for product in products:
            if not only_goals or product.human_instructions:
                table[product.title] = nouns(product.title)
            bar.advance()
    content = {"spacy": spacy_version(), "complete": not only_goals, "nouns": table}
    file.write_text(json.dumps(content), encoding="utf-8")


def _about(files: DataFiles, path: Path | str | None) -> Iterator[Finding]:
    """What the files hold."""
    for human in (False, True):
        kind = "human" if human else "synthetic"
        if human and files.human is None:
            yield Finding(what="no items_human_ins.json, so no human goals", ok=True)
            continue
        if not human and files.products.stat().st_size > LARGE:
            continue  # tens of millions, which nobody uses
        try:
            env = WebShop(open_world(path, human=human, seed=0))
        except DataError as error:
            yield Finding(what=str(error), ok=False, remedy=_GET)
            continue
        shop = env.world.shop
        yield Finding(what=f"{len(shop.shelf):,} products, {len(shop.goals):,} {kind} goals", ok=True)
        shared = ", ".join(f"{count} of {split}" for split, count in env.overlap().items() if count)
        if shared:
            yield Finding(
                what=f"{kind} goals that ask for a product that train asks for too: {shared}",
                ok=True,
                remedy="exclude_overlap: true leaves such goals out of train",
            )


def _made(digest: str, *, large: bool) -> Iterator[Finding]:
    """What was made of them."""
    folder = prepared_folder(digest)
    table = json.loads((folder / NOUNS_FILE).read_text(encoding="utf-8"))
    yield Finding(
        what=f"nouns of {len(table['nouns']):,} titles, by spaCy {table['spacy']}, in {folder}", ok=True
    )
    if large:
        index = DiskRanker(index_folder(digest))
        yield Finding(what=f"search index of {len(index):,} products in {index_folder(digest)}", ok=True)


def _is_sound(index: Path) -> bool:
    try:
        DiskRanker(index)
    except DataError:
        return False
    return True
