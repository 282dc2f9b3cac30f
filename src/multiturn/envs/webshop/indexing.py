"""Building a search index on disk for more products than memory should hold.

Texts are read once, in a stream. Their terms are gathered in runs of a few million, each sorted and written
down; then the runs are merged, some terms at a time. Memory holds the vocabulary, the keys and one run.

The index is built in a folder beside its own and takes its place when it is complete and on the disk.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import shutil
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from filelock import FileLock

from multiturn.envs.webshop.analysis import ANALYSIS_VERSION, analyze
from multiturn.envs.webshop.bm25 import damping, norms
from multiturn.envs.webshop.ranker import check_unique
from multiturn.errors import ConfigError
from multiturn.files import PARTIAL, whole_file
from multiturn.progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["ARRAYS", "FORMAT", "HEADER", "VERSION", "build_index", "checksum"]

FORMAT: Final = "multiturn-search-index"
VERSION: Final = 1
"""Goes up with every change of the files; other versions are not read."""
HEADER: Final = "index.json"
ARRAYS: Final = {
    "key_text": "uint8",
    "key_starts": "int64",
    "term_text": "uint8",
    "term_starts": "int64",
    "term_numbers": "int32",
    "starts": "int64",
    "numbers": "int32",
    "dampings": "float32",
}
"""The arrays of an index, each a file NAME.npy, and the type of their entries. Keys and terms are sorted; a
text begins in ``*_text`` (UTF-8) where ``*_starts`` says. `term_numbers` gives each term's row in the
postings, which are as in `bm25.Postings`."""

_RUN: Final = 1 << 22
"""Words gathered before they are sorted and written down, and about the postings merged at a time; some
300 MB of memory."""
_STEP: Final = 500
"""Documents between two reports of progress."""


def build_index(
    documents: Iterable[tuple[str, str]],
    folder: Path,
    *,
    source: str = "",
    total: int | None = None,
    run_words: int = _RUN,
    quiet: bool = False,
) -> None:
    """Build a search index on disk; `DiskRanker` reads it.

    An interrupted build leaves an index that was there before as it was, and nothing that looks like one.

    Args:
        documents: (key, text) of each product, in any order, read once.
        folder: The index. It is replaced if it is an index, made if it does not exist.
        source: What the documents are, for example a hash of their files; `DiskRanker.source` gives it back.
        total: The number of documents, where known, for the progress.
        run_words: How many words to gather in memory before they are written down, at least 1.
        quiet: Show no progress.

    Raises:
        ConfigError: If `folder` exists and is something else, or `run_words` is below 1.
        DataError: If a key occurs twice.
    """
    if run_words < 1:
        raise ConfigError(f"run_words is {run_words}: give at least 1")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        _check_replaceable(folder)
        partial = folder.with_name(folder.name + PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            with progress("search index", total=total, quiet=quiet) as bar:
                runs = _Runs(partial, run_words)
                for number, (key, text) in enumerate(documents, start=1):
                    runs.add(key, analyze(text))
                    if number % _STEP == 0:
                        bar.advance(_STEP)
                runs.write()
                bar.advance(len(runs.keys) % _STEP, note="merging")
                counts = _merged(runs, partial, run_words)
            _write_header(partial, {"source": source, **counts})
            _take_place(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def checksum(path: Path) -> int:
    """The CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / HEADER).is_file()):
        raise ConfigError(f"{folder} exists and is no search index: name another folder, or remove it")


class _Numbers(dict[str, int]):
    """Term -> its number, in the order in which they come up."""

    def __missing__(self, term: str) -> int:
        self[term] = number = len(self)
        return number


class _Runs:
    """Gathers documents and writes sorted runs of (term, document, frequency).

    Args:
        folder: Where the runs go.
        most: The words in a run, except that a document is never divided.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.keys: list[str] = []
        self.vocabulary = _Numbers()
        self.lengths = array.array("q")
        self.written: list[Path] = []
        self._folder = folder
        self._most = most
        self._terms = array.array("i")
        self._first = 0

    def add(self, key: str, terms: Sequence[str]) -> None:
        """Take a document."""
        self.keys.append(key)
        self.lengths.append(len(terms))
        self._terms.extend(map(self.vocabulary.__getitem__, terms))
        if len(self._terms) >= self._most:
            self.write()

    def write(self) -> None:
        """Write what has been gathered as a run."""
        lengths = np.array(self.lengths[self._first :], dtype=np.int64)
        holders = np.repeat(np.arange(self._first, len(self.keys), dtype=np.int64), lengths)
        codes = np.frombuffer(self._terms, dtype=np.int32).astype(np.int64) << 32 | holders
        codes.sort()
        firsts = np.flatnonzero(np.diff(codes, prepend=-1))
        run = np.empty((3, len(firsts)), dtype=np.int32)
        run[0] = codes[firsts] >> 32
        run[1] = codes[firsts] & 0xFFFFFFFF
        run[2] = np.diff(firsts, append=len(codes))
        path = self._folder / f"run-{len(self.written):05d}.npy"
        np.save(path, run)
        self.written.append(path)
        self._first = len(self.keys)
        self._terms = array.array("i")


def _merged(runs: _Runs, folder: Path, chunk: int) -> dict[str, int]:
    """Write the arrays of the index, remove the runs, and return what the header counts."""
    order = np.array(sorted(range(len(runs.keys)), key=runs.keys.__getitem__), dtype=np.int64)
    sorted_keys = [runs.keys[number] for number in order]
    check_unique(sorted_keys)
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    lengths = np.array(runs.lengths, dtype=np.int64)
    filled = int(np.count_nonzero(lengths))
    factors = norms(lengths, float(lengths.sum() / filled) if filled else 1.0)
    _write_texts(folder, "key", sorted_keys)
    terms = sorted(runs.vocabulary)
    _write_texts(folder, "term", terms)
    _save(folder, "term_numbers", np.fromiter(map(runs.vocabulary.__getitem__, terms), np.int32, len(terms)))

    sizes = np.zeros(len(terms), dtype=np.int64)
    opened = [np.load(path, mmap_mode="r", allow_pickle=False) for path in runs.written]
    for run in opened:
        sizes += np.bincount(run[0], minlength=len(terms))
    starts = np.concatenate(([0], np.cumsum(sizes)))
    _save(folder, "starts", starts)
    with (
        _growing(folder, "numbers", int(starts[-1])) as numbers,
        _growing(folder, "dampings", int(starts[-1])) as dampings,
    ):
        for first, last in _chunks(starts, chunk):
            held, holders, frequencies = _rows(opened, first, last)
            codes = held.astype(np.int64) << 32 | ranks[holders]
            rows = np.argsort(codes)
            values = damping(frequencies[rows].astype(np.int64), factors[holders[rows]])
            numbers.write((codes[rows] & 0xFFFFFFFF).astype(np.int32).tobytes())
            dampings.write(values.tobytes())
    del opened
    for path in runs.written:
        path.unlink()
    return {
        "documents": len(order),
        "filled": filled,
        "terms": len(terms),
        "postings": int(starts[-1]),
    }


def _chunks(starts: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Ranges of terms with at most so many postings, or of a single term with more."""
    first, end = 0, len(starts) - 1
    while first < end:
        fitting = int(np.searchsorted(starts, starts[first] + most, side="right")) - 1
        last = max(first + 1, fitting)
        yield first, last
        first = last


def _rows(
    runs: list[NDArray[np.int32]], first: int, last: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Terms, documents and frequencies of a range of terms, from all runs."""
    parts = []
    for run in runs:
        start, end = np.searchsorted(run[0], np.array([first, last], dtype=np.int32))
        parts.append(run[:, start:end])
    together = np.concatenate(parts, axis=1)
    return together[0], together[1], together[2]


def _write_texts(folder: Path, name: str, texts: list[str]) -> None:
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
    _save(folder, f"{name}_starts", np.concatenate(([0], np.cumsum(sizes))))
    _save(folder, f"{name}_text", np.frombuffer(b"".join(encoded), dtype=np.uint8))


def _save(folder: Path, name: str, values: NDArray[Any]) -> None:
    with (folder / f"{name}.npy").open("wb") as file:
        np.save(file, values.astype(ARRAYS[name], copy=False), allow_pickle=False)
        os.fsync(file.fileno())


@contextlib.contextmanager
def _growing(folder: Path, name: str, length: int) -> Iterator[Any]:
    """A file that holds the head of an array of this length, to which its entries are written."""
    with (folder / f"{name}.npy").open("wb") as file:
        kind = np.lib.format.dtype_to_descr(np.dtype(ARRAYS[name]))
        np.lib.format.write_array_header_1_0(
            file, {"descr": kind, "fortran_order": False, "shape": (length,)}
        )
        yield file
        file.flush()
        os.fsync(file.fileno())


def _write_header(folder: Path, fields: dict[str, Any]) -> None:
    files = {}
    for name in ARRAYS:
        path = folder / f"{name}.npy"
        files[path.name] = {"bytes": path.stat().st_size, "crc32": checksum(path)}
    header = {"format": FORMAT, "version": VERSION, "analysis": ANALYSIS_VERSION, **fields, "files": files}
    with whole_file(folder / HEADER) as file:
        json.dump(header, file, indent=2)
        file.write("\n")


def _take_place(partial: Path, folder: Path) -> None:
    """Put the new index where the old one is; between the two renames there is none, never half of one."""
    if not folder.exists():
        partial.rename(folder)
        return
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old)
