"""JSONL files: whole or not at all, and complaints that name file and line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from multiturn.errors import DataError
from multiturn.jsonl import read_pairs, read_trajectories, write_jsonl
from multiturn.trajectory import Message, PreferencePair, Trajectory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACTION = Message(role="assistant", content="geh zur Tür \u2028 jetzt")
RECORDS = [Trajectory(id=str(i), task_id="t", messages=(ACTION,)) for i in range(3)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Also text with a line separator of Unicode, which ends no line of JSONL."""
    path = tmp_path / "deep" / "rollouts.jsonl"
    write_jsonl(path, RECORDS)
    assert read_trajectories(path) == RECORDS
    assert len(path.read_bytes().splitlines()) == 3


def test_half_a_surrogate_pair_can_be_written(tmp_path: Path) -> None:
    """A tokenizer that is cut off within a character can leave one; UTF-8 has no bytes for it."""
    path = tmp_path / "rollouts.jsonl"
    record = Trajectory(id="0", task_id="t", messages=(Message(role="assistant", content="so \ud83d"),))
    write_jsonl(path, [record])
    assert read_trajectories(path) == [record]


def test_a_crash_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    write_jsonl(path, RECORDS[:1])

    def crashing() -> Iterator[Trajectory]:
        yield RECORDS[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, crashing())
    assert read_trajectories(path) == RECORDS[:1]


def test_pairs_without_an_id_are_named_by_their_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    pair = PreferencePair(id="", prompt=(), chosen=(ACTION,), rejected=(ACTION,))
    write_jsonl(path, [pair])
    line = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + line + b" \r\n" + line)  # a byte-order mark and an empty line
    assert [pair.id for pair in read_pairs(path)] == ["line-1", "line-3"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"id": "a', "is not JSON"),
        (b'{"id": "T\xfcr"}', "is not JSON .*utf-8"),
        (b'{"reward": ' + b"9" * 5000 + b"}", "is not JSON .*digits"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"id": 3}', "'id' is missing or not a string"),
        (b"[1]", "a trajectory must be a JSON object, not list"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, says: str) -> None:
    path = tmp_path / "rollouts.jsonl"
    write_jsonl(path, RECORDS)
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(DataError, match=rf"rollouts\.jsonl:4: {says}") as caught:
        read_trajectories(path)
    assert (caught.value.path, caught.value.line) == (path, 4)


def test_files_with_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.jsonl: cannot be read"):
        read_trajectories(tmp_path / "missing.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        read_trajectories(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    assert read_trajectories(tmp_path / "empty.jsonl") == []
    with pytest.raises(DataError, match=r"empty\.jsonl: holds no pairs"):
        read_pairs(tmp_path / "empty.jsonl")
