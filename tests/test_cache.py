"""Folders of the model cache are complete or absent."""

from __future__ import annotations

import concurrent.futures
import time
from pathlib import Path

import pytest

from multiturn.cache import cache_root, cached_folder, is_complete, replace_folder
from multiturn.errors import ConfigError


def build(folder: Path) -> None:
    with (folder / "log").open("a") as file:
        file.write("built\n")
    (folder / "weights").write_bytes(b"x" * 1000)


def test_built_once(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "a"
    for _ in range(3):
        assert cached_folder(folder, build) == folder
    assert (folder / "log").read_text() == "built\n"
    assert is_complete(folder)
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["a"]


@pytest.mark.parametrize("damage", ["seal", "file", "size", "seal is nonsense"])
def test_an_incomplete_folder_is_built_again(tmp_path: Path, damage: str) -> None:
    folder = cached_folder(tmp_path / "a", build)
    if damage == "seal":
        (folder / "complete.json").unlink()
    elif damage == "file":
        (folder / "weights").unlink()
    elif damage == "size":
        (folder / "weights").write_bytes(b"x" * 999)
    else:
        (folder / "complete.json").write_text("[1]")
    assert not is_complete(folder)
    cached_folder(folder, build)
    assert is_complete(folder)
    assert (folder / "weights").stat().st_size == 1000


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        cached_folder(tmp_path / "a", fail)
    assert not any(path.is_dir() for path in tmp_path.iterdir())


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    leftover = tmp_path / ".a.partial-killed"
    leftover.mkdir()
    (leftover / "weights").write_bytes(b"half")
    cached_folder(tmp_path / "a", build)
    assert not leftover.exists()


def test_two_at_once_build_once(tmp_path: Path) -> None:
    """The lock is on the file, so it keeps threads apart as it keeps processes apart."""

    def slow_build(folder: Path) -> None:
        time.sleep(0.2)
        build(folder)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: cached_folder(tmp_path / "a", slow_build), range(4)))
    assert (tmp_path / "a" / "log").read_text() == "built\n"


def test_replacing(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "old").write_text("old")
    replace_folder(folder, build)
    assert sorted(path.name for path in folder.iterdir()) == ["complete.json", "log", "weights"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_unusable_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="set MULTITURN_CACHE"):
        cached_folder(tmp_path / "file" / "a", build)


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MULTITURN_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("MULTITURN_CACHE")
    assert cache_root() == Path.home() / ".cache" / "multiturn"
