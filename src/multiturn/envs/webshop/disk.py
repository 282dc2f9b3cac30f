"""A ranker over an index on disk, which is mapped into memory: it opens at once, and processes share it."""

from __future__ import annotations

import bisect
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from multiturn.envs.webshop.analysis import ANALYSIS_VERSION
from multiturn.envs.webshop.bm25 import Postings
from multiturn.envs.webshop.indexing import ARRAYS, FORMAT, HEADER, VERSION, build_index, checksum
from multiturn.envs.webshop.ranker import Hit, answer
from multiturn.errors import DataError
from multiturn.files import PARTIAL

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["DiskRanker", "build_index"]


class DiskRanker:
    """A ranker over an index that `build_index` made; it finds what a `MemoryRanker` finds.

    Args:
        folder: The index.
        verify: Compare the checksums of all files. It reads them whole: about a second per gigabyte. Sizes,
            types and versions are always checked.

    Attributes:
        source: What `build_index` was told about the documents.

    Raises:
        DataError: If there is no index, or it is incomplete, damaged, or of another version.
    """

    def __init__(self, folder: Path, *, verify: bool = True) -> None:
        header = _header(folder)
        arrays = {name: _array(folder, name, header, verify=verify) for name in ARRAYS}
        _check_shapes(folder, header, arrays)
        self.source: str = header["source"]
        self._keys = _Texts(arrays["key_text"], arrays["key_starts"])
        self._terms = _Texts(arrays["term_text"], arrays["term_starts"])
        self._term_numbers = arrays["term_numbers"]
        self._postings = Postings(
            documents=header["documents"],
            filled=header["filled"],
            starts=arrays["starts"],
            numbers=arrays["numbers"],
            dampings=arrays["dampings"],
        )

    def __len__(self) -> int:
        return self._postings.documents

    def search(self, query: str, most: int = 50) -> list[Hit]:
        """The best products for a query; see `Ranker.search`."""
        return answer(
            query,
            most,
            postings=self._postings,
            term_number=self._term_number,
            key=lambda number: self._keys[number].decode("utf-8", "surrogatepass"),
        )

    def _term_number(self, term: str) -> int | None:
        raw = term.encode("utf-8", "surrogatepass")
        place = bisect.bisect_left(self._terms, raw)
        if place == len(self._terms) or self._terms[place] != raw:
            return None
        return int(self._term_numbers[place])


class _Texts:
    """Many texts in one array; sorted, as bytes, like the texts themselves."""

    def __init__(self, text: NDArray[np.uint8], starts: NDArray[np.int64]) -> None:
        self._text = text
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, position: int) -> bytes:
        return self._text[self._starts[position] : self._starts[position + 1]].tobytes()


def _header(folder: Path) -> dict[str, Any]:
    path = folder / HEADER
    if not path.is_file():
        partial = folder.with_name(folder.name + PARTIAL)
        state = " (a build was interrupted or is still going on)" if partial.exists() else ""
        raise DataError(f"there is no search index in this folder{state}: build it first", path=folder)
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"the search index is damaged ({error}): build it again", path=path) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DataError("this is not the header of a search index: name another folder", path=path)
    found, wanted = (header.get("version"), header.get("analysis")), (VERSION, ANALYSIS_VERSION)
    if found != wanted:
        raise DataError(
            f"the search index has version {found[0]} and analysis {found[1]}, this release reads "
            f"{wanted[0]} and {wanted[1]}: build it again",
            path=path,
        )
    counts = all(isinstance(header.get(name), int) for name in ("documents", "filled", "terms", "postings"))
    if not counts or not isinstance(header.get("source"), str) or not isinstance(header.get("files"), dict):
        raise DataError("the header of the search index lacks fields: build it again", path=path)
    return header


def _array(folder: Path, name: str, header: dict[str, Any], *, verify: bool) -> NDArray[Any]:
    path = folder / f"{name}.npy"
    wanted = header["files"].get(path.name)
    size = path.stat().st_size if path.is_file() else -1
    if not isinstance(wanted, dict) or size != wanted.get("bytes"):
        raise DataError("this file of the search index is missing or cut: build the index again", path=path)
    if verify and checksum(path) != wanted.get("crc32"):
        raise DataError("this file of the search index is damaged: build the index again", path=path)
    try:
        values: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DataError(
            f"this file of the search index is damaged ({error}): build the index again", path=path
        ) from error
    # A plain view of the map: slices of np.memmap itself cost several times as much.
    return np.asarray(values)


def _check_shapes(folder: Path, header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
    documents, terms, postings = header["documents"], header["terms"], header["postings"]
    lengths = {
        "key_starts": documents + 1,
        "term_starts": terms + 1,
        "term_numbers": terms,
        "starts": terms + 1,
        "numbers": postings,
        "dampings": postings,
    }
    for name, kind in ARRAYS.items():
        values = arrays[name]
        length = lengths.get(name, len(values))
        if values.dtype != np.dtype(kind) or values.shape != (length,):
            raise DataError(
                f"this file of the search index holds {values.dtype} {values.shape}, not {kind} ({length},): "
                "build the index again",
                path=folder / f"{name}.npy",
            )
