"""`multiturn doctor`: every finding, provoked."""

from __future__ import annotations

import dataclasses
import json
import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from typer.testing import CliRunner

from multiturn.cli.app import app
from multiturn.doctor import Finding, checks, checkup, examine, measures
from multiturn.doctor.patient import Patient
from multiturn.jsonl import write_jsonl
from multiturn.pipeline import operations
from multiturn.pipeline.load import load_config
from multiturn.pipeline.run import open_run
from multiturn.trajectory import Message, PreferencePair

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

TINY = """\
name: tiny
model: {scratch: {vocab_size: 400, hidden_size: 32, layers: 1, heads: 2}}
precision: fp32
environment: {name: household, options: {size: tiny, train: 12, test: 4}, max_turns: 14}
prompt: {chat_template: compact, format: action, instructions: none}
expert: {tasks: 8}
sft: {tasks: 6, epochs: 2, batch_size: 2, learning_rate: 1.0e-3}
explore: {slots: 3, tasks: 5, max_new_tokens: 8}
preference: {batch_size: 2, epochs: 2, learning_rate: 1.0e-3}
methods: [best_of_n, dmpo, dpo]
evaluate: {slots: 2, tasks: 3, max_new_tokens: 8}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(f"{TINY}output: {tmp_path / 'run'}\n", encoding="utf-8")
    return path


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
    assert "household: 8 tasks of split 'train'" in said(found, "ok")
    assert "the chat template takes 8 of 8 trajectories" in said(found, "ok")
    assert not (file.parent / "run").exists()


def test_a_folder_that_holds_another_run(file: Path) -> None:
    run = open_run(load_config(file))
    run.manifest.finish("expert", seconds=1.0, result={})
    assert any("1 stages are done; the run goes on after expert" in w for w in said(findings(file), "note"))
    (problem,) = checks.folder(patient(file, "sft.epochs=5"))
    assert problem.severity == "problem"
    assert "sft.epochs: 2.0 there, 5.0 now" in problem.what


def test_tasks_that_are_not_there(file: Path) -> None:
    found = findings(file, "expert.tasks=100")
    assert any("100 tasks asked for" in what for what in said(found, "problem"))
    # What can be looked at all the same is looked at.
    assert any("trajectories" in what for what in said(found, "ok"))


def test_a_test_split_that_is_trained_on(file: Path) -> None:
    found = list(checks.tasks(patient(file, "environment.test_splits=[train]", "evaluate.tasks=3")))
    assert not said(found, "warning")  # the same split by name: nobody is deceived
    there = patient(file)
    real = operations.list_tasks

    def same(environment: object, split: str, count: int | None) -> list[object]:
        tasks = real(there.config.environment, "train", count)
        return [dataclasses.replace(task, split=split) for task in tasks]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations, "list_tasks", same)
        (warning,) = said(list(checks.tasks(there)), "warning")
    assert warning.startswith("3 tasks of 'test' are in 'train' as well")


def test_a_template_that_refuses(file: Path, tmp_path: Path) -> None:
    (tmp_path / "reversed.jinja").write_text(
        "{% for message in messages | reverse %}{{ message['content'] }}{% endfor %}", encoding="utf-8"
    )
    (problem, *_) = checks.template(patient(file, f"prompt.chat_template={tmp_path / 'reversed.jinja'}"))
    assert problem.severity == "problem"
    assert problem.what.startswith("the chat template refuses 8 of 8 trajectories: ")


def test_no_demonstration_is_good_enough(file: Path) -> None:
    there = patient(file)
    object.__setattr__(there.config.expert, "min_reward", 1.5)
    problems = said(list(checks.template(there)), "problem")
    assert any("none of the expert's 8 trajectories" in what for what in problems)


@pytest.mark.parametrize(("overlong", "severity"), [("error", "problem"), ("cut", "warning")])
def test_conversations_that_are_too_long(file: Path, overlong: str, severity: str) -> None:
    found = list(checks.lengths(patient(file, "sft.max_length=40", f"sft.overlong={overlong}")))
    wanted = "8 of 8 demonstrations are longer than sft.max_length 40"
    assert any(wanted in what for what in said(found, severity))


def test_a_context_that_is_too_short(file: Path) -> None:
    there = patient(file)
    there.tokenizer.model_max_length = 20
    assert any("the model's context 20" in w for w in said(list(checks.lengths(there)), "problem"))


def test_pairs_that_are_few_or_uneven(file: Path) -> None:
    def side(turns: int) -> tuple[Message, ...]:
        go_on = (Message(role="user", content="seen"), Message(role="assistant", content="go on"))
        return (Message(role="assistant", content="go"), *(go_on * (turns - 1)))

    pairs = [
        PreferencePair(
            id=str(i),
            task_id=str(i),
            prompt=(Message(role="user", content="do it"),),
            chosen=side(1 + i % 2),
            rejected=side(5 + i % 2),
        )
        for i in range(20)
    ]
    folder = file.parent / "run"
    folder.mkdir()
    write_jsonl(folder / "pairs.jsonl", pairs)
    assert "20 pairs" in said(list(checks.pairs(patient(file))), "ok")
    found = list(checks.pairs(patient(file, "preference.batch_size=32")))
    few, *bias = said(found, "warning")
    assert few == "20 pairs are fewer than a batch of 32: an epoch is one step"
    assert bias
    assert all(what.startswith("length bias") for what in bias)


def test_a_tracker_that_is_not_there(file: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("multiturn.training.trackers.importlib.util.find_spec", lambda *_: None)
        found = findings(file, "sft.report_to=[tensorboard]")
    assert any("tensorboard" in what for what in said(found, "problem"))


def test_a_check_that_breaks_stops_no_other(file: Path) -> None:
    def broken(_: Patient) -> Iterator[Finding]:
        raise ZeroDivisionError("oh")
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkup, "_CHECKS", (broken, checks.tasks))
        found = findings(file)
    assert said(found, "problem") == ["broken: ZeroDivisionError: oh"]
    assert len(said(found, "ok")) == 2


def test_time_and_memory_are_measured(file: Path) -> None:
    """SFT: 6 rows, 2 epochs. Exploration: 5 tasks; evaluation: 3 tasks by SFT, two methods, ten samples."""
    found = findings(file, quick=False)
    assert not said(found, "problem")
    notes = "\n".join(said(found, "note"))
    assert "with 6 demonstrations and 2 epochs SFT takes about" in notes
    assert "with 5 pairs as long as demonstrations, 2 trainings on them take about" in notes
    assert "exploration: 5 episodes" in notes
    assert "evaluation: 39 episodes" in notes
    assert any(what.startswith("3 models and checkpoints take about") for what in said(found, "ok"))


@pytest.mark.parametrize(("free", "severity"), [(None, "note"), (2**40, "ok"), (2**20, "warning")])
def test_memory_that_is_tight(free: int | None, severity: str) -> None:
    (finding,) = measures._memory(2**30, free)
    assert (finding.severity, "1.0 GiB at most" in finding.what) == (severity, True)


def test_a_full_disk(file: Path) -> None:
    there = patient(file)
    policy = operations.load_model(there.config.model)
    weights = sum(p.numel() for p in policy.model.parameters() if isinstance(p, torch.Tensor))
    needed = weights * (3 * 4 + 2 * 12)  # SFT, DMPO and DPO; two checkpoints with the optimizer's moments
    for free, severity in ((needed, "ok"), (needed - 1, "problem")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
            (finding,) = measures.disk(there)
        assert finding.severity == severity


def test_the_command(file: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", str(file), "--quick"])
    assert result.exit_code == 0
    assert result.stdout.startswith("ok      ")
    result = CliRunner().invoke(app, ["doctor", str(file), "--quick", "--json", "--set", "sft.max_length=40"])
    assert result.exit_code == 1
    records = [json.loads(line) for line in result.stdout.splitlines()]
    (problem,) = [record for record in records if record["severity"] == "problem"]
    assert problem["remedy"] == "raise it, or set sft.overlong to cut or drop"
