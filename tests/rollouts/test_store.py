"""The file of a rollout: nothing lost, nothing twice, nothing mixed."""

from __future__ import annotations

import json
import multiprocessing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.errors import DataError, RunStateError
from multiturn.rollouts.store import RolloutStore, StoreHeader, read_rollouts
from multiturn.trajectory import Message, Outcome, Trajectory

if TYPE_CHECKING:
    from pathlib import Path

HEADER = StoreHeader(environment="e1", agent="a1", settings={"seed": 3, "format": "react"})


def trajectory(name: str, *, text: str = "look", job: int | None = None) -> Trajectory:
    return Trajectory(
        id=f"{name}#0",
        task_id=name,
        messages=(Message(role="user", content="mug"), Message(role="assistant", content=text)),
        outcome=Outcome.COMPLETED,
        reward=0.5,
        info={} if job is None else {"job": job},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "rollouts.jsonl"


def filled(path: Path, *names: str) -> None:
    with RolloutStore(path, HEADER) as store:
        for name in names:
            store.append(trajectory(name))


def test_written_and_read_back(path: Path) -> None:
    filled(path, "a", "b")
    filled(path, "c")
    assert read_rollouts(path) == [trajectory(name) for name in "abc"]
    with RolloutStore(path, HEADER) as store:
        assert store.done_ids == {"a#0", "b#0", "c#0"}
        assert store.dropped == 0
        assert store.trajectories() == read_rollouts(path)


def test_read_in_the_order_of_the_jobs(path: Path) -> None:
    with RolloutStore(path, HEADER) as store:
        for name, job in (("z", 2), ("y", 10), ("x", 0)):
            store.append(trajectory(name, job=job))
    assert [t.task_id for t in read_rollouts(path)] == ["x", "z", "y"]


@given(text=st.text(st.characters(exclude_categories=[]), max_size=50))
@settings(deadline=None, max_examples=50)
def test_any_text_survives(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("store") / "r.jsonl"
    with RolloutStore(path, HEADER) as store:
        store.append(trajectory("a", text=text))
        store.append(trajectory("b"))
    assert [t.messages[-1].content for t in read_rollouts(path)] == [text, "look"]


def test_every_cut_loses_the_last_line_only(path: Path) -> None:
    """Wherever a crash cuts the file (every 11th byte, and around the ends), whole lines are left."""
    filled(path, "a", "b")
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    near_ends = {end + offset for end in ends for offset in (-2, -1, 0, 1)}
    for cut in sorted({*range(0, len(whole), 11), *near_ends} - {len(whole) + 1}):
        path.write_bytes(whole[:cut])
        expected = max(0, sum(end <= cut for end in ends) - 1)
        with RolloutStore(path, HEADER) as store:
            assert len(store.done_ids) == expected
            assert store.dropped == (cut not in (0, *ends))
            store.append(trajectory("c"))
        assert len(read_rollouts(path)) == expected + 1


def test_reading_a_cut_file(path: Path) -> None:
    filled(path, "a", "b")
    path.write_bytes(path.read_bytes()[:-5])
    assert [t.task_id for t in read_rollouts(path)] == ["a"]


def test_a_trajectory_is_stored_once(path: Path) -> None:
    filled(path, "a")
    with RolloutStore(path, HEADER) as store, pytest.raises(RunStateError, match="a#0"):
        store.append(trajectory("a"))
    assert len(read_rollouts(path)) == 1


def test_the_first_of_two_equal_ids_counts(path: Path) -> None:
    filled(path, "a")
    with path.open("a") as file:
        file.write(json.dumps(trajectory("a", text="other").to_json()) + "\n")
    assert [t.messages[-1].content for t in read_rollouts(path)] == ["look"]
    with RolloutStore(path, HEADER) as store:
        assert store.done_ids == {"a#0"}


def test_other_headers_are_refused_with_the_differences(path: Path) -> None:
    filled(path, "a")
    before = path.read_bytes()
    other = StoreHeader(environment="e2", agent="a1", settings={"seed": 4, "max_turns": 5})
    with pytest.raises(RunStateError) as caught:
        RolloutStore(path, other)
    message = str(caught.value)
    assert "environment: 'e1' in the file, 'e2' now" in message
    assert "settings.seed: 3 in the file, 4 now" in message
    assert "settings.format: 'react' in the file, None now" in message
    assert "settings.max_turns: None in the file, 5 now" in message
    assert "agent" not in message.replace("delete", "")
    assert path.read_bytes() == before
    filled(path, "b")  # the lock was let go


@pytest.mark.parametrize("line", ["{broken", "[1]", '{"id": "x"}', '{"schema": 99, "id": "x"}'])
def test_damage_in_the_middle_is_reported_with_its_line(path: Path, line: str) -> None:
    filled(path, "a", "b")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, lines[2]]) + "\n")
    for read in (read_rollouts, lambda p: RolloutStore(p, HEADER)):
        with pytest.raises(DataError, match=r"rollouts\.jsonl:3: "):
            read(path)


@pytest.mark.parametrize(
    "content",
    [
        '{"id": "x"}\n',
        "[]\n",
        "hello\n",
        "\n",
        '{"id": "x"}\n{"id": "y"}',
        "notes without a line's end",
        "{}",
    ],
)
def test_another_kind_of_file_is_refused_and_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(content)
    for read in (read_rollouts, lambda p: RolloutStore(p, HEADER)):
        with pytest.raises(DataError, match=r"other\.jsonl"):
            read(path)
    assert path.read_text() == content


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_rollouts(tmp_path / "none.jsonl")


def test_one_writer_at_a_time(path: Path) -> None:
    with RolloutStore(path, HEADER), pytest.raises(RunStateError, match="another process"):
        RolloutStore(path, HEADER)
    filled(path, "a")


def _open_elsewhere(path: Path) -> str:
    try:
        RolloutStore(path, HEADER).close()
    except RunStateError:
        return "refused"
    return "opened"


def test_one_writing_process_at_a_time(path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with RolloutStore(path, HEADER):
            assert pool.apply(_open_elsewhere, (path,)) == "refused"
        assert pool.apply(_open_elsewhere, (path,)) == "opened"


def test_closing_twice(path: Path) -> None:
    store = RolloutStore(path, HEADER)
    store.close()
    store.close()
