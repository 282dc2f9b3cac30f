"""The search index on disk: what it finds, and what happens to broken ones."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.envs.webshop.disk import DiskRanker
from multiturn.envs.webshop.indexing import ARRAYS, HEADER, build_index
from multiturn.envs.webshop.ranker import MemoryRanker
from multiturn.errors import ConfigError, DataError
from multiturn.files import PARTIAL

if TYPE_CHECKING:
    from collections.abc import Iterator

WORDS = ("red", "blue", "hat", "shoe", "size", "big", "caf\u00e9", "\u2764\ufe0f", "\U0001d400", "the", "?")
DOCUMENTS = [("B2", "red hat, red"), ("A1", "blue hat"), ("C", ""), ("A0", "blue hat")]


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.text(st.sampled_from("ABZ09\u00e9\U0001f600"), min_size=1, max_size=4),
        st.lists(st.sampled_from(WORDS), max_size=10).map(" ".join),
        max_size=20,
    ),
    st.lists(st.lists(st.sampled_from((*WORDS, "absent")), max_size=6).map(" ".join), min_size=1, max_size=4),
    st.integers(1, 60),
    st.integers(1, 25),
)
def test_it_finds_what_is_found_in_memory(
    documents: dict[str, str], queries: list[str], run_words: int, most: int
) -> None:
    memory = MemoryRanker(documents.items())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "index"
        build_index(iter(documents.items()), folder, run_words=run_words, quiet=True)
        disk = DiskRanker(folder)
        assert len(disk) == len(documents)
        for query in queries:
            assert disk.search(query, most) == memory.search(query, most)


def test_many_documents_in_many_runs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = np.array([f"w{number}" for number in range(400)])
    share = 1 / np.arange(1, 401)
    documents = [
        (f"B{number * 7919 % 10007:05d}", " ".join(rng.choice(names, size=30, p=share / share.sum())))
        for number in range(2000)
    ]
    build_index(documents, tmp_path / "index", run_words=7000, source="made up", quiet=True)
    disk, memory = DiskRanker(tmp_path / "index", verify=False), MemoryRanker(documents)
    assert disk.source == "made up"
    for number in range(0, 400, 7):
        query = f"w{number} w{number // 2} w0 w3"
        assert disk.search(query) == memory.search(query)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["index"]
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == sorted(
        [HEADER, *(f"{name}.npy" for name in ARRAYS)]
    )


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    build_index(DOCUMENTS, folder, quiet=True)
    return folder


def keys(folder: Path, query: str) -> list[str]:
    return [hit.key for hit in DiskRanker(folder).search(query)]


def test_order(index: Path) -> None:
    assert keys(index, "hat") == ["A0", "A1", "B2"]
    assert keys(index, "red blue") == ["B2", "A0", "A1"]


def interrupted() -> Iterator[tuple[str, str]]:
    yield "A", "new hat"
    raise KeyboardInterrupt


def test_an_interrupted_build_changes_nothing(index: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_index(interrupted(), index, quiet=True)
    assert keys(index, "hat") == ["A0", "A1", "B2"]
    with pytest.raises(KeyboardInterrupt):
        build_index(interrupted(), tmp_path / "other", quiet=True)
    with pytest.raises(DataError, match="build it first"):
        DiskRanker(tmp_path / "other")
    assert not list(tmp_path.glob(f"*{PARTIAL}"))


def test_a_killed_build_is_told_and_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / f"index{PARTIAL}"
    left.mkdir()
    (left / "run-00000.npy").write_bytes(b"half")
    with pytest.raises(DataError, match="interrupted"):
        DiskRanker(tmp_path / "index")
    build_index(DOCUMENTS, tmp_path / "index", quiet=True)
    assert keys(tmp_path / "index", "red") == ["B2"]
    assert not left.exists()


def test_an_index_is_replaced_but_nothing_else(index: Path, tmp_path: Path) -> None:
    opened = DiskRanker(index)
    build_index([("Z", "hat")], index, quiet=True)
    assert keys(index, "hat") == ["Z"]
    assert [hit.key for hit in opened.search("hat")] == ["A0", "A1", "B2"], "an open index stays usable"
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no search index"):
        build_index(DOCUMENTS, precious, quiet=True)
    with pytest.raises(ConfigError, match="no search index"):
        build_index(DOCUMENTS, precious / "notes.txt", quiet=True)
    assert (precious / "notes.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match="run_words"):
        build_index(DOCUMENTS, tmp_path / "more", run_words=0)


def test_a_key_may_occur_once(index: Path) -> None:
    with pytest.raises(DataError, match="'A1'"):
        build_index([*DOCUMENTS, ("A1", "hat")], index, quiet=True)
    assert keys(index, "red") == ["B2"]


@pytest.mark.parametrize("name", ARRAYS)
def test_a_damaged_file_is_noticed(index: Path, name: str) -> None:
    path = index / f"{name}.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match=rf"{name}.npy.*damaged"):
        DiskRanker(index)
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=rf"{name}.npy.*missing or cut"):
        DiskRanker(index, verify=False)
    path.unlink()
    with pytest.raises(DataError, match=rf"{name}.npy.*missing or cut"):
        DiskRanker(index)


def test_arrays_must_be_arrays_of_the_right_kind(index: Path) -> None:
    path = index / "dampings.npy"
    size = path.stat().st_size
    path.write_bytes(b"x" * size)
    with pytest.raises(DataError, match=r"dampings.npy.*damaged"):
        DiskRanker(index, verify=False)
    np.save(path, np.load(index / "numbers.npy"))
    with pytest.raises(DataError, match=r"dampings.npy.*int32"):
        DiskRanker(index, verify=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 0}, "version 0"),
        ({"analysis": 99}, "analysis 99"),
        ({"format": "other"}, "not the header"),
        ({"documents": "4"}, "lacks fields"),
        ({"files": None}, "lacks fields"),
        ({"documents": 5}, "key_starts"),
        ({"files": {}}, "missing or cut"),
    ],
)
def test_a_wrong_header_is_noticed(index: Path, change: dict[str, Any], message: str) -> None:
    header = json.loads((index / HEADER).read_text())
    (index / HEADER).write_text(json.dumps({**header, **change}))
    with pytest.raises(DataError, match=message):
        DiskRanker(index)


@pytest.mark.parametrize("text", ["{", "", "[]", "3"])
def test_a_cut_header_is_noticed(index: Path, text: str) -> None:
    (index / HEADER).write_text(text)
    with pytest.raises(DataError, match=HEADER):
        DiskRanker(index)


def test_progress_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("MULTITURN_PROGRESS", "plain")
    build_index(((str(number), "hat") for number in range(1203)), tmp_path / "index", total=1203)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "search index: 0/1203 started"
    assert lines[-1].startswith("search index: 1203/1203 done")
