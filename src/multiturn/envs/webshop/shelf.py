"""Where products are kept: in memory, or on disk where there are more than a million of them."""

from __future__ import annotations

import dataclasses
import functools
import json
import sqlite3
import zlib
from typing import TYPE_CHECKING, Any, Final, Protocol

from multiturn.envs.webshop.products import HumanInstruction, Product
from multiturn.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import TextIO

__all__ = ["MemoryShelf", "Shelf", "StoredShelf", "store_products", "stream_array"]

_VERSION: Final = 1
_BATCH: Final = 2000
_CHUNK: Final = 2**20
_LONGEST: Final = 2**24
"""Characters that one object of an array may have; a damaged file would be read to its end otherwise."""
_KEPT: Final = 4096
"""Products that a stored shelf keeps in memory, those used last."""


class Shelf(Protocol):
    """Products by their keys, in the order of the files."""

    def __getitem__(self, asin: str, /) -> Product: ...

    def __contains__(self, asin: object, /) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...

    def __len__(self) -> int: ...

    def pricings(self) -> Iterable[tuple[str, tuple[float, ...]]]:
        """The key and the prices of each product."""

    def asked_for(self, *, human: bool) -> Iterable[Product]:
        """The products that goals are made from.

        Args:
            human: Those that people wrote about; else those with an instruction of their own.
        """

    def of_category(self, category: str) -> list[str]:
        """The keys of the products of a large category."""

    def of_query(self, query: str) -> list[str]:
        """The keys of the products of a kind."""


class MemoryShelf(dict[str, Product]):
    """A `Shelf` in memory.

    Args:
        products: The products, each key once.
    """

    def __init__(self, products: Iterable[Product]) -> None:
        super().__init__((product.asin, product) for product in products)

    def pricings(self) -> Iterator[tuple[str, tuple[float, ...]]]:
        """See `Shelf`."""
        return ((product.asin, product.pricing) for product in self.values())

    def asked_for(self, *, human: bool) -> Iterator[Product]:
        """See `Shelf`."""
        return (product for product in self.values() if _is_asked_for(product, human=human))

    def of_category(self, category: str) -> list[str]:
        """See `Shelf`."""
        return [asin for asin, product in self.items() if product.category == category]

    def of_query(self, query: str) -> list[str]:
        """See `Shelf`."""
        return [asin for asin, product in self.items() if product.query == query]


class StoredShelf:
    """A `Shelf` in a file that `store_products` made.

    Args:
        file: The file.

    Raises:
        DataError: The file is none of this version.
    """

    def __init__(self, file: Path) -> None:
        try:
            # As an address, in which a folder's name may hold a "#" or a "?".
            address = f"{file.absolute().as_uri()}?mode=ro"
            self._database = sqlite3.connect(address, uri=True, check_same_thread=False)
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            (self._length,) = self._database.execute("SELECT count(*) FROM product").fetchone()
        except sqlite3.Error as error:
            raise DataError(f"the products cannot be read ({error}); prepare them again", path=file) from None
        if version != _VERSION:
            raise DataError(
                f"the products have version {version}, not {_VERSION}; prepare them again", path=file
            )
        self._read = functools.lru_cache(_KEPT)(self._read_one)

    def __getitem__(self, asin: str) -> Product:
        return self._read(asin)

    def __contains__(self, asin: object) -> bool:
        return self._database.execute("SELECT 1 FROM product WHERE asin = ?", (asin,)).fetchone() is not None

    def __iter__(self) -> Iterator[str]:
        return (asin for (asin,) in self._database.execute("SELECT asin FROM product ORDER BY number"))

    def __len__(self) -> int:
        return int(self._length)

    def pricings(self) -> Iterator[tuple[str, tuple[float, ...]]]:
        """See `Shelf`."""
        rows = self._database.execute("SELECT asin, low, high FROM product ORDER BY number")
        return ((asin, (low,) if high is None else (low, high)) for asin, low, high in rows)

    def asked_for(self, *, human: bool) -> Iterator[Product]:
        """See `Shelf`."""
        column = "human" if human else "synthetic"
        rows = self._database.execute(f"SELECT record FROM product WHERE {column} ORDER BY number")  # noqa: S608 - one of two
        return (_unpacked(record) for (record,) in rows)

    def of_category(self, category: str) -> list[str]:
        """See `Shelf`."""
        return self._where("category", category)

    def of_query(self, query: str) -> list[str]:
        """See `Shelf`."""
        return self._where("query", query)

    def _where(self, column: str, value: str) -> list[str]:
        rows = self._database.execute(
            f"SELECT asin FROM product WHERE {column} = ? ORDER BY number",  # noqa: S608 - our own columns
            (value,),
        )
        return [asin for (asin,) in rows]

    def _read_one(self, asin: str) -> Product:
        row = self._database.execute("SELECT record FROM product WHERE asin = ?", (asin,)).fetchone()
        if row is None:
            raise KeyError(asin)
        return _unpacked(row[0])


def store_products(products: Iterable[Product], file: Path) -> Iterator[Product]:
    """Write products into a new file, and pass each of them on.

    The file is complete when all products were taken; it is for a folder that takes its place afterwards.

    Args:
        products: The products, each key once.
        file: The file; it must not exist.
    """
    database = sqlite3.connect(file)
    try:
        # Whoever is killed here begins anew: a half file never takes its place.
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("PRAGMA synchronous = OFF")
        database.execute(f"PRAGMA user_version = {_VERSION}")
        database.execute(
            "CREATE TABLE product (number INTEGER PRIMARY KEY, asin TEXT UNIQUE, category TEXT, query TEXT, "
            "low REAL, high REAL, human INTEGER, synthetic INTEGER, record BLOB)"
        )
        rows = []
        for number, product in enumerate(products):
            rows.append(_row(number, product))
            if len(rows) == _BATCH:
                _insert(database, rows)
                rows.clear()
            yield product
        _insert(database, rows)
        for column in ("human", "synthetic"):
            database.execute(f"CREATE INDEX {column}_number ON product (number) WHERE {column}")
        database.commit()
    finally:
        database.close()


def stream_array(file: TextIO) -> Iterator[Any]:
    """The objects of a JSON array, one by one, without reading the file whole.

    Raises:
        ValueError: The file is no JSON array of objects.
    """
    decode = json.JSONDecoder().raw_decode
    text, place, opened = "", 0, False
    while True:
        chunk = file.read(_CHUNK)
        text, place = text[place:] + chunk, 0
        if not opened:
            text = text.lstrip("\ufeff \t\r\n")
            if not text and chunk:
                continue
            if not text.startswith("["):
                raise ValueError("it is no JSON array")
            text, opened = text[1:], True
        while True:
            start = place
            while start < len(text) and text[start] in " \t\r\n,":
                start += 1
            if text[start : start + 1] == "]":
                return
            try:
                value, place = decode(text, start)
            except RecursionError:
                raise ValueError(f"something is nested too deeply before byte {file.tell():,}") from None
            except ValueError:
                break  # it goes on in the next chunk
            yield value
        if not chunk or len(text) - place > _LONGEST:
            raise ValueError(f"it is cut off, or no JSON, before byte {file.tell():,}")


def _is_asked_for(product: Product, *, human: bool) -> bool:
    return bool(product.human_instructions) if human else product.instruction is not None


def _insert(database: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> None:
    database.executemany("INSERT INTO product VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def _row(number: int, product: Product) -> tuple[Any, ...]:
    low, high = product.pricing[0], product.pricing[1] if len(product.pricing) > 1 else None
    return (
        *(number, product.asin, product.category, product.query, low, high),
        *(_is_asked_for(product, human=True), _is_asked_for(product, human=False), _packed(product)),
    )


def _packed(product: Product) -> bytes:
    return zlib.compress(json.dumps(dataclasses.asdict(product)).encode(), 1)


def _unpacked(record: bytes) -> Product:
    fields: dict[str, Any] = json.loads(zlib.decompress(record))
    said = fields.pop("human_instructions")
    options: Mapping[str, list[str]] = fields.pop("options")
    for name in ("bullets", "pricing", "attributes", "instruction_attributes"):
        fields[name] = tuple(fields[name])
    return Product(
        **fields,
        options={name: tuple(values) for name, values in options.items()},
        human_instructions=tuple(
            HumanInstruction(
                text=each["text"], attributes=tuple(each["attributes"]), options=tuple(each["options"])
            )
            for each in said
        ),
    )
