"""`multiturn doctor`: every finding, provoked."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from typer.testing import CliRunner

from multiturn.cli.app import app
from multiturn.doctor import (
    Finding,
    checkup,
    examine,
    surroundings,
    workload,
)
from multiturn.doctor.finding import ok
from multiturn.doctor.patient import Patient
from multiturn.errors import ConfigError
from multiturn.pipeline.load import load_config
from multiturn.pipeline.run import open_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def findings(file: Path, *overrides: str, quick: bool = True) -> list[Finding]:
    return list(examine(load_config(file, overrides), quick=quick))


def said(found: Sequence[Finding], severity: str) -> list[str]:
    return [finding.what for finding in found if finding.severity == severity]


def patient(file: Path, *overrides: str) -> Patient:
    return Patient(load_config(file, overrides))


def test_a_sound_run_has_no_problem(file: Path) -> None:
    found = findings(file)
    assert not said(found, "problem")
    assert not said(found, "warning")
    assert "household: 12 tasks of split 'train'" in said(found, "ok")
    played = "a few tasks that the expert has played now"
    assert f"the chat template takes 8 trajectories ({played})" in said(found, "ok")
    assert {finding.check for finding in found} == {
        *("folder", "packages", "machine", "disk", "environment", "expert"),
        *("template", "lengths", "replies", "pairs"),
    }
    assert not (file.parent / "run").exists()


def test_a_folder_that_holds_another_run(file: Path) -> None:
    run = open_run(load_config(file))
    run.manifest.finish("expert", seconds=1.0, result={})
    assert any("1 stages are done; the run goes on after expert" in w for w in said(findings(file), "note"))
    (problem,) = surroundings.folder(patient(file, "sft.epochs=5"))
    assert problem.severity == "problem"
    assert "sft.epochs: 2.0 there, 5.0 now" in problem.what


def test_a_folder_is_looked_at_and_left_as_it_is(file: Path) -> None:
    """A manifest without any work may give way to another; a doctor does not write it."""
    run = open_run(load_config(file))
    before = run.directory.manifest.read_text()
    (finding,) = surroundings.folder(patient(file, "sft.epochs=5"))
    assert finding.severity == "note"
    assert run.directory.manifest.read_text() == before


def test_a_run_that_another_process_works_on(file: Path) -> None:
    run = open_run(load_config(file))
    with run.directory.lock.open("w") as lock:
        assert not said(list(surroundings.folder(patient(file))), "warning")
        fcntl.flock(lock, fcntl.LOCK_EX)
        (warning,) = said(list(surroundings.folder(patient(file))), "warning")
    assert "another process is working" in warning


def test_a_folder_that_cannot_be_written_to(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    (finding,) = surroundings.folder(patient(file))
    assert (finding.severity, "cannot be written to" in finding.what) == ("problem", True)


@pytest.mark.parametrize("below", ["", "/deep/run"])
def test_a_folder_below_a_file(file: Path, below: str) -> None:
    """Files can be written to all the same, and nothing exists below one, not even another run."""
    notes = file.parent / "notes.txt"
    notes.write_text("mine", encoding="utf-8")
    (finding,) = surroundings.folder(patient(file, f"output={notes}{below}"))
    assert finding.severity == "problem"
    assert finding.what.startswith(f"{notes}: is a file, and the run's folder ")
    assert "set output to a folder" in finding.remedy


@pytest.mark.parametrize(
    ("override", "severity", "what"),
    [
        ("expert.tasks=100", "problem", "100 tasks asked for, but split 'train' of household has 12"),
        ("evaluate.tasks=5", "problem", "5 tasks asked for, but split 'test' of household has 4"),
        ("explore.tasks=9", "warning", "explore.tasks is 9, but 8 tasks are left to explore"),
        ("environment.test_splits=[train]", "warning", "'train' is trained on and tested on"),
        ("environment.deadline=5", "note", "environment.deadline has no effect"),
        ("environment.test_splits=[tset]", "problem", "tset"),
    ],
)
def test_what_the_environment_lacks(file: Path, override: str, severity: str, what: str) -> None:
    found = list(surroundings.environment(patient(file, override)))
    assert any(what in each for each in said(found, severity))
    assert len(said(found, "problem")) == (severity == "problem")


def test_more_demonstrations_than_tasks(file: Path) -> None:
    overrides = ("expert.tasks=null", "sft.tasks=20", "explore.skip=12")
    assert said(list(surroundings.environment(patient(file, *overrides))), "problem") == [
        "sft.tasks is 20, but the expert plays 12 tasks",
        "explore.skip is 12, which leaves none of 12 tasks",
    ]


def test_a_test_task_that_is_trained_on(file: Path) -> None:
    there = patient(file)
    there._splits["test"] = [dataclasses.replace(task, split="test") for task in there.tasks("train")[:3]]
    (warning, *_) = said(list(surroundings.environment(there)), "warning")
    assert warning.startswith("3 tasks of 'test' are in 'train' as well")


@pytest.mark.parametrize(
    ("deadline", "seconds", "severity", "granted"),
    [(1.0, 59.0, "ok", "120"), (1.0, 61.0, "warning", "120"), (300.0, 61.0, "ok", "300")],
)
def test_a_deadline_that_is_near(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    deadline: float,
    seconds: float,
    severity: str,
    granted: str,
) -> None:
    """Making an environment is granted 120 s, or the deadline of its calls where that is more."""
    monkeypatch.setattr("multiturn.envs.registry.Entry.isolated", lambda *_: True)
    there = patient(file, f"environment.deadline={deadline}")
    (finding,) = surroundings._deadline(there, seconds)
    assert finding.severity == severity
    assert f"{granted} s that are granted" in finding.what or f"{granted} s are granted" in finding.what


def test_an_environment_on_a_cluster_has_a_deadline(file: Path) -> None:
    (finding,) = surroundings._deadline(patient(file, "environment.ray=auto", "environment.deadline=5"), 1.0)
    assert finding.severity == "ok"


def test_an_environment_that_cannot_be_made(file: Path) -> None:
    """The template is tried all the same, on conversations that are made up."""
    found = findings(file, "environment.options={size: enormous}")
    assert all("enormous" in what for what in said(found, "problem"))
    assert said(found, "problem")
    made_up = "made up, since the expert could not play"
    assert f"the chat template takes 3 trajectories ({made_up})" in said(found, "ok")
    assert "expert" in [finding.check for finding in found if finding.severity == "problem"]


def test_java_is_asked_for_by_scienceworld_alone(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(surroundings.java(patient(file))) == []
    monkeypatch.setattr("multiturn.envs.scienceworld.java.package_version", lambda: "1.0")
    monkeypatch.setattr("multiturn.envs.scienceworld.java.shutil.which", lambda _: "/usr/bin/java")
    monkeypatch.setattr(surroundings, "available_host_memory", lambda: 3 * 600 * 2**20)
    there = ("environment.name=scienceworld", "environment.options={java: system}")
    assert [f.severity for f in surroundings.java(patient(file, *there))] == ["ok"]  # as many as slots: 3
    (_, warning) = surroundings.java(patient(file, *there, "environment.workers=4"))
    assert "4 of them side by side" in warning.what
    monkeypatch.setattr("multiturn.envs.scienceworld.java.shutil.which", lambda _: None)
    with pytest.raises(ConfigError, match="needs a Java on the PATH"):
        list(surroundings.java(patient(file, *there)))


def test_a_tracker_that_is_not_there(file: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("multiturn.training.trackers.importlib.util.find_spec", lambda *_: None)
        found = list(surroundings.packages(patient(file, "methods.dpo.report_to=[tensorboard]")))
    (problem,) = found
    assert (problem.severity, "tensorboard" in problem.what) == ("problem", True)


def test_a_gpu_that_torch_does_not_see(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(surroundings, "_DRIVER", tmp_path / "version")
    assert not said(list(surroundings.machine(patient(file))), "warning")
    (tmp_path / "version").write_text("NVRM")
    (warning,) = said(list(surroundings.machine(patient(file))), "warning")
    assert "torch sees no GPU" in warning


def test_memory_that_does_not_hold_the_weights(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full: 4 bytes for a weight, 12 for its gradient and moments. An adapter: 4, and 16 of its own."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    there = patient(file)
    needed = 16 * there.facts.weights
    for free, severity in ((needed, "ok"), (needed - 1, "problem")):
        monkeypatch.setattr(surroundings, "available_host_memory", lambda free=free: free)
        assert [f.severity for f in surroundings.machine(there)][-1] == severity
    lora = patient(file, "sft.lora.rank=2", "preference.lora.rank=2")
    adapter = 2 * lora.facts.linear_sides
    assert workload.least_memory(lora.config, lora.facts) == 4 * lora.facts.weights + 16 * adapter
    live = patient(file, "preference.reference=live")
    assert workload.least_memory(live.config, live.facts) == 20 * live.facts.weights


def test_a_check_that_breaks_stops_no_other(file: Path) -> None:
    def broken(_: Patient) -> Iterator[Finding]:
        raise ZeroDivisionError("oh")
        yield

    def refusing(_: Patient) -> Iterator[Finding]:
        yield ok("so far")
        raise ConfigError("no")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkup, "_CHECKS", (broken, refusing, surroundings.packages))
        found = findings(file)
    assert [(f.check, f.severity) for f in found] == [
        ("broken", "problem"),
        ("refusing", "ok"),
        ("refusing", "problem"),
        ("packages", "ok"),
    ]
    assert said(found, "problem") == ["broken: ZeroDivisionError: oh", "no"]


def test_a_full_disk(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SFT, DMPO and DPO; two checkpoints with the optimizer's moments. What is there is not counted."""
    there = patient(file)
    needed = there.facts.weights * (3 * 4 + 2 * 12)
    for free, severity in ((needed, "ok"), (needed - 1, "problem")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        (finding,) = surroundings.disk(there)
        assert finding.severity == severity
    there.directory.model("sft").mkdir(parents=True)
    left = needed - 4 * there.facts.weights
    assert workload.bytes_to_save(there.config, there.directory, there.facts) == (left, 2)
    bare = patient(file, "sft.checkpoints=0", "preference.checkpoints=0", "rounds=2")
    assert workload.bytes_to_save(bare.config, bare.directory, bare.facts) == (16 * bare.facts.weights, 4)


def test_the_command(file: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", str(file), "--quick"])
    assert result.exit_code == 0
    assert result.stdout.startswith("ok      ")
    result = CliRunner().invoke(app, ["doctor", str(file), "--quick", "--json", "--set", "sft.max_length=40"])
    assert result.exit_code == 1
    records = [json.loads(line) for line in result.stdout.splitlines()]
    (problem,) = [record for record in records if record["severity"] == "problem"]
    assert problem["remedy"] == "raise it, or set sft.overlong to cut or drop"
    assert problem["check"] == "lengths"
