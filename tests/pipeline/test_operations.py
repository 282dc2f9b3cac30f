"""What the stages share: how many environments are started, and how often a list of tasks is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from multiturn.envs import register
from multiturn.envs.registry import unregister
from multiturn.envs.slots import EnvironmentSlot, LocalSlot, make_slots
from multiturn.errors import ConfigError, EnvironmentFaultError
from multiturn.pipeline import operations
from multiturn.pipeline.config import EnvironmentSettings, PromptSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from multiturn.envs.base import Environment

TARGET = "multiturn.envs.alfred:household"
OPTIONS = {"size": "tiny", "train": 5}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many slots each call of `make_slots` was asked for; all are local, though one name is isolated."""
    monkeypatch.setenv("MULTITURN_PROGRESS", "off")
    monkeypatch.setattr(operations, "_listed", {})
    counts: list[int] = []

    def make_local(
        name: str, options: Mapping[str, object], count: int, *, deadline: float, ray: str | None
    ) -> list[EnvironmentSlot]:
        assert ray is None
        counts.append(count)
        return make_slots(name, options, count, isolate=False, deadline=deadline)

    monkeypatch.setattr(operations, "make_slots", make_local)
    register("isolated-household", TARGET, isolate=True)
    yield counts
    unregister("isolated-household")


def test_an_isolated_environment_lists_its_tasks_once(started: list[int]) -> None:
    """Every list would cost a process; other options or another split are another list."""
    environment = EnvironmentSettings(name="isolated-household", options=OPTIONS)
    tasks = operations.list_tasks(environment, "train", 3)
    assert [task.id for task in tasks] == ["train/0", "train/1", "train/2"]
    tasks.clear()
    assert len(operations.list_tasks(environment, "train", None)) == 5
    with pytest.raises(ConfigError, match="6 tasks asked for"):
        operations.list_tasks(environment, "train", 6)
    assert started == [1]
    operations.list_tasks(environment, "test", None)
    other = EnvironmentSettings(name="isolated-household", options={**OPTIONS, "train": 6})
    assert len(operations.list_tasks(other, "train", None)) == 6
    assert started == [1, 1, 1]


def test_an_expert_gets_no_more_environments_than_jobs(
    started: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    environment = EnvironmentSettings(name="household", options=OPTIONS)
    jobs = operations.jobs_for(operations.list_tasks(environment, "train", 2))
    report = operations.roll_out_expert(
        environment=environment, prompt=PromptSettings(), jobs=jobs, path=tmp_path / "r.jsonl", title="expert"
    )
    assert report.played == 2
    assert started == [1, 2]


def test_every_slot_is_closed_even_where_one_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    class Noting(LocalSlot):
        def close(self) -> None:
            closed.append(self)
            raise EnvironmentFaultError("stuck")

    def no_environment() -> Environment:
        raise AssertionError

    slots = [Noting(no_environment) for _ in range(3)]
    monkeypatch.setattr(operations, "make_slots", lambda *_, **__: slots)
    with (
        pytest.raises(EnvironmentFaultError, match="stuck"),
        operations._slots(EnvironmentSettings(name="household"), 3),
    ):
        pass
    assert len(closed) == 3
