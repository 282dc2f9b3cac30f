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
from multiturn.doctor import Finding, checks, checkup, estimates, examine, measures, surroundings, workload
from multiturn.doctor.estimates import MeasuredTraining
from multiturn.doctor.finding import ok
from multiturn.doctor.made_up import made_up_conversations, pairs_like
from multiturn.doctor.patient import Patient
from multiturn.errors import ConfigError
from multiturn.jsonl import write_jsonl
from multiturn.pipeline.config import PromptSettings
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
explore: {slots: 3, tasks: 5, max_new_tokens: 40}
preference: {batch_size: 2, epochs: 2, learning_rate: 1.0e-3}
methods: {best_of_n: {}, dmpo: {}, dpo: {objective: dpo}}
evaluate: {slots: 2, tasks: 3, max_new_tokens: 40}
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
    assert "household: 12 tasks of split 'train'" in said(found, "ok")
    played = "a few tasks that the expert has played now"
    assert f"the chat template takes 8 trajectories ({played})" in said(found, "ok")
    assert {finding.check for finding in found} == {
        *("folder", "packages", "machine", "disk", "environment"),
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


@pytest.mark.parametrize(("deadline", "severity"), [(60.0, "ok"), (0.001, "warning")])
def test_a_deadline_that_is_near(
    file: Path, monkeypatch: pytest.MonkeyPatch, deadline: float, severity: str
) -> None:
    monkeypatch.setattr("multiturn.envs.registry.Entry.isolated", lambda *_: True)
    there = patient(file, f"environment.deadline={deadline}")
    (finding,) = surroundings._deadline(there, 0.5)
    assert finding.severity == severity


def test_an_environment_that_cannot_be_made(file: Path) -> None:
    """The template is tried all the same, on conversations that are made up."""
    found = findings(file, "environment.options={size: enormous}")
    assert all("enormous" in what for what in said(found, "problem"))
    assert said(found, "problem")
    made_up = "made up, since the expert could not play"
    assert f"the chat template takes 3 trajectories ({made_up})" in said(found, "ok")


@pytest.mark.parametrize(
    ("instructions", "role", "roles"),
    [
        ("none", "system", ["user"]),
        ("Be brief.", "system", ["system", "user"]),
        ("environment", "user", ["user"]),
    ],
)
def test_made_up_conversations_are_as_the_prompt_says(instructions: str, role: str, roles: list[str]) -> None:
    prompt = PromptSettings.model_validate({"instructions": instructions, "instructions_role": role})
    rows = made_up_conversations(prompt)
    assert [row.num_turns for row in rows] == [1, 2, 3]
    assert [message.role for message in rows[0].prompt] == roles
    assert rows[0].messages[len(roles)].content.startswith("Thought: ")
    assert ("Be brief." in rows[0].prompt[0].content) == (instructions == "Be brief.")
    (pair, *_) = pairs_like(rows)
    assert pair.chosen[0].content != pair.rejected[0].content
    assert pair.chosen[1:] == pair.rejected[1:]


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


def test_a_template_that_refuses(file: Path, tmp_path: Path) -> None:
    (tmp_path / "reversed.jinja").write_text(
        "{% for message in messages | reverse %}{{ message['content'] }}{% endfor %}", encoding="utf-8"
    )
    (problem, *_) = checks.template(patient(file, f"prompt.chat_template={tmp_path / 'reversed.jinja'}"))
    assert problem.severity == "problem"
    assert problem.what.startswith("the chat template refuses 8 of 8 trajectories (")


def test_no_demonstration_is_good_enough(file: Path) -> None:
    there = patient(file)
    object.__setattr__(there.config.expert, "min_reward", 1.5)
    problems = said(list(checks.template(there)), "problem")
    assert any("none of the expert's 8 trajectories" in what for what in problems)


@pytest.mark.parametrize(("overlong", "severity"), [("error", "problem"), ("cut", "warning")])
def test_conversations_that_are_too_long(file: Path, overlong: str, severity: str) -> None:
    found = list(checks.lengths(patient(file, "sft.max_length=40", f"sft.overlong={overlong}")))
    (what,) = said(found, severity)
    assert what.startswith("sft: 8 of 8 demonstrations are longer than sft.max_length 40")
    found = list(checks.lengths(patient(file, "methods.dpo.max_length=40", "methods.dpo.overlong=drop")))
    assert [what.split(":")[0] for what in said(found, "warning")] == ["methods.dpo"]


def test_a_context_that_is_too_short(file: Path) -> None:
    there = patient(file, "model.scratch.max_positions=40", "sft.max_length=50")
    problems = said(list(checks.lengths(there)), "problem")
    wanted = "methods.dmpo: 8 of 8 demonstrations are longer than the model's context 40"
    assert wanted in problems
    warnings = said(list(checks.lengths(there)), "warning")
    assert warnings == ["sft.max_length is 50, and the model's context 40 tokens"]
    assert any("episodes end at 40 tokens" in what for what in said(list(checks.replies(there)), "warning"))


def test_replies_that_are_cut_off(file: Path) -> None:
    assert not said(list(checks.replies(patient(file))), "warning")
    found = list(checks.replies(patient(file, "explore.max_new_tokens=5", "evaluate.max_context=60")))
    cut, short = said(found, "warning")
    assert cut.startswith("explore.max_new_tokens is 5, but ")
    assert short.startswith("evaluate: episodes end at 60 tokens")


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


def test_time_and_memory_are_measured(file: Path) -> None:
    """SFT: 6 rows, 2 epochs. Exploration: 5 tasks; evaluation: 3 tasks by SFT, two methods, ten samples."""
    found = findings(file, quick=False)
    assert not said(found, "problem")
    notes = "\n".join(said(found, "note"))
    assert "sft: 6 demonstrations, 2 epochs: about " in notes
    assert "methods.dmpo: 5 pairs, 2 epochs: about " in notes
    assert "methods.dpo: 5 pairs, 2 epochs: about " in notes
    assert "explore: 5 episodes" in notes
    assert "evaluate: 39 episodes" in notes
    assert all(f.figures["seconds"] > 0 for f in found if f.check == "sft_training" and f.severity == "note")
    # DMPO and DPO differ in nothing that costs: their memory is said once.
    assert [f.what.split(":")[0] for f in found if "predicted_bytes" in f.figures] == ["sft", "methods.dmpo"]


def test_a_prediction_is_what_was_measured_times_what_there_is() -> None:
    """4 rows took 2 s a step and the reference 1 s for them: 40 rows, 3 epochs: 10 * (3 * 2 + 1) = 70 s.

    Of 1000 bytes 400 are activations of 100 tokens: a pass of 250 takes 600 + 400 * 2.5 = 1600. Episodes:
    5 of 4 turns, each 10 tokens of 0.1 s and 0.5 s of the environment: 20 * 1.5 = 30 s.
    """
    measured = MeasuredTraining(
        rows=4, seconds=2.0, reference_seconds=1.0, held=600.0, peak=1000.0, pass_tokens=100
    )
    assert estimates.training_seconds(measured, rows=40, epochs=3.0) == pytest.approx(70.0)
    assert estimates.peak_memory(measured, pass_tokens=250) == pytest.approx(1600.0)
    assert estimates.peak_memory(measured, pass_tokens=10) == 1000.0
    seconds = estimates.rollout_seconds(
        episodes=5, turns=4.0, reply_tokens=10.0, token_seconds=0.1, turn_seconds=0.5
    )
    assert seconds == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("free", "severity"), [(None, "note"), (2**40, "ok"), (1.2 * 2**30, "warning"), (2**29, "problem")]
)
def test_memory_that_is_tight(free: float | None, severity: str) -> None:
    (finding,) = measures.memory_findings("sft", 2.0**30, free)
    assert (finding.severity, "about 1.00 GiB" in finding.what) == (severity, True)


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
