"""Whole runs with a tiny random model: every stage, killed anywhere, started again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from multiturn.errors import ConfigError, RunStateError
from multiturn.jsonl import read_pairs
from multiturn.pipeline.load import load_config
from multiturn.pipeline.results import rebuild_report, show_results
from multiturn.pipeline.run import check_folder, directory_of, open_run, plan, run_pipeline
from multiturn.pipeline.run_directory import RunDirectory
from multiturn.rollouts.store import read_rollouts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TINY = """\
name: tiny
model: {scratch: {vocab_size: 400, hidden_size: 32, layers: 1, heads: 2}}
precision: fp32
environment:
  name: household
  options: {size: tiny, train: 12, test: 4}
  max_turns: 14
prompt: {chat_template: compact, format: action, instructions: none}
expert: {tasks: 8}
sft: {tasks: 6, epochs: 2, batch_size: 2, learning_rate: 1.0e-3}
explore: {slots: 3, max_new_tokens: 8}
pairs: {}
preference: {batch_size: 2, epochs: 2, learning_rate: 1.0e-3}
methods: {dmpo: {}, dpo: {objective: dpo}, sft-chosen: {objective: sft}}
evaluate: {slots: 2, max_new_tokens: 8}
"""
METHODS = ["sft", "dmpo", "dpo", "sft-chosen"]


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(f"{TINY}output: {tmp_path / 'run'}\n", encoding="utf-8")
    return path


def stages_done(directory: RunDirectory) -> dict[str, dict[str, Any]]:
    record = json.loads(directory.manifest.read_text(encoding="utf-8"))
    stages: dict[str, dict[str, Any]] = record["stages"]
    return stages


def check_finished(directory: RunDirectory) -> None:
    """Everything is there, exactly once."""
    expert = read_rollouts(directory.expert)
    assert sorted(t.task_id for t in expert) == sorted({t.task_id for t in expert})
    assert len(expert) == 8
    explored = read_rollouts(directory.exploration)
    assert len({t.id for t in explored}) == len(explored) == 8
    pairs = read_pairs(directory.pairs)
    dropped = stages_done(directory)["pairs"]["result"]["dropped"]
    assert len(pairs) + sum(dropped.values()) == len(explored)
    for method in METHODS:
        assert (directory.model(method) / "model.safetensors").is_file()
        assert not list(directory.training(method).glob("checkpoint-*"))
        episodes = read_rollouts(directory.evaluation(method, "test"))
        assert len({t.task_id for t in episodes}) == len(episodes) == 4
    summary = json.loads(directory.summary.read_text(encoding="utf-8"))
    assert summary["methods"] == METHODS
    for method in METHODS:
        mean = summary["splits"]["test"]["methods"][method]["reward"]["mean"]
        card = (directory.model(method) / "README.md").read_text(encoding="utf-8")
        assert card.count("## Evaluation") == 1
        assert f"| test | 4 | {mean:.3f} |" in card
    assert "<html" in directory.report.read_text(encoding="utf-8")


def test_a_run_goes_through_every_stage_once(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(config_file)
    report = run_pipeline(config)
    directory = RunDirectory(config_file.parent / "run")
    assert report == directory.report
    check_finished(directory)
    done = stages_done(directory)
    assert list(done) == [name for name, _, _ in plan(open_run(config))]
    first = capsys.readouterr()
    assert "SFT" in first.out
    assert str(directory.report) in first.out

    times = {path: path.stat().st_mtime_ns for path in directory.root.rglob("*") if path.is_file()}
    run_pipeline(config)
    again = capsys.readouterr()
    assert again.out == first.out
    assert again.err.count("done before") == len(done)
    untouched = {path: path.stat().st_mtime_ns for path in directory.root.rglob("*") if path.is_file()}
    assert {p: t for p, t in untouched.items() if p.name != ".lock"} == {
        p: t for p, t in times.items() if p.name != ".lock"
    }

    directory.report.unlink()
    rebuild_report(directory.root)
    check_finished(directory)

    scores = directory.pair_scores.read_bytes()
    weights = directory.model("sft") / "model.safetensors"
    weights.rename(weights.with_suffix(".away"))
    with pytest.raises(RunStateError, match="cannot be scored, the weights of sft are gone"):
        rebuild_report(directory.root, score=3)
    assert directory.pair_scores.read_bytes() == scores
    weights.with_suffix(".away").rename(weights)

    with pytest.raises(RunStateError, match=r"preference\.beta: 0\.1 there, 0\.2 now"):
        run_pipeline(load_config(config_file, ["preference.beta=0.2"]))


def test_a_run_is_extended_by_methods_and_rounds(config_file: Path) -> None:
    """What is done stays, to the byte; only the report, which tells of all, is made again."""
    every = "{dmpo: {}, dpo: {objective: dpo}, sft-chosen: {objective: sft}}"
    config_file.write_text(config_file.read_text().replace(every, "{dmpo: {}}"), encoding="utf-8")
    alone = load_config(config_file)
    run_pipeline(alone)
    directory = directory_of(alone)
    before = {path: path.read_bytes() for path in directory.root.rglob("*.jsonl")}
    before |= {path: path.read_bytes() for path in directory.root.rglob("*.safetensors")}
    finished = {name: stage["finished"] for name, stage in stages_done(directory).items()}

    with pytest.raises(RunStateError, match=r"methods\.dmpo\.beta: None there, 0\.3 now"):
        run_pipeline(load_config(config_file, ["methods.dmpo.beta=0.3", "methods.dpo.objective=dpo"]))
    grown = load_config(config_file, ["methods.dpo.objective=dpo", "rounds=2"])
    undone = set(check_folder(alone) or ()) - set(check_folder(grown) or ())
    assert undone == {"turns", "report"}
    run_pipeline(grown)

    done = stages_done(directory)
    assert set(done) == {name for name, _, _ in plan(open_run(grown))}
    assert {"train:dpo", "evaluate:dpo:test", "train:dmpo-round2"} <= set(done) - set(finished)
    assert all(path.read_bytes() == content for path, content in before.items())
    kept = set(finished) - undone
    assert {name: done[name]["finished"] for name in kept} == {name: finished[name] for name in kept}
    summary = json.loads(directory.summary.read_text(encoding="utf-8"))
    assert {"sft", "dmpo", "dpo", "dmpo-round2"} <= set(summary["methods"])
    scored = json.loads(directory.pair_scores.read_text(encoding="utf-8"))["pairs"]
    assert set(scored[0]["methods"]) == {"dmpo", "dpo"}
    with pytest.raises(RunStateError, match="rounds: 2 there, 1 now"):
        run_pipeline(alone)


def test_an_extension_that_cannot_be_done_changes_nothing_and_one_not_begun_is_taken_back(
    config_file: Path,
) -> None:
    every = "{dmpo: {}, dpo: {objective: dpo}, sft-chosen: {objective: sft}}"
    config_file.write_text(config_file.read_text().replace(every, "{dmpo: {}}"), encoding="utf-8")
    alone = load_config(config_file)
    run_pipeline(alone)
    directory = directory_of(alone)
    record = json.loads(directory.manifest.read_text(encoding="utf-8"))
    record["stages"]["expert"]["result"]["demonstrations"] = 7  # as if the expert had lost a game
    directory.manifest.write_text(json.dumps(record), encoding="utf-8")
    before = directory.manifest.read_bytes()
    for wrong, message in (
        (["environment.test_splits=[test,tset]", "methods.dpo.objective=dpo"], "tset"),
        (["methods.rft.kind=rft", "methods.rft.tasks=8"], "7 demonstrations"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_pipeline(load_config(config_file, wrong))
        assert directory.manifest.read_bytes() == before

    # Killed before anything of it was done, an extension gives way to another one, and to none.
    open_run(load_config(config_file, ["methods.dpo.objective=ipo"]))
    open_run(load_config(config_file, ["methods.dpo.objective=dpo", "rounds=2"]))
    assert list(plan(open_run(alone))) != []
    run_pipeline(alone)
    assert set(stages_done(directory)) == {name for name, _, _ in plan(open_run(alone))}


def test_a_test_split_that_is_not_there_is_found_out_at_once(config_file: Path) -> None:
    """And the corrected configuration may have the folder."""
    with pytest.raises(ConfigError, match="no split 'tset'"):
        run_pipeline(load_config(config_file, ["environment.test_splits=[tset]"]))
    with pytest.raises(ConfigError, match="99 tasks asked for, but split 'test'"):
        run_pipeline(load_config(config_file, ["evaluate.tasks=99"]))
    assert not RunDirectory(config_file.parent / "run").expert.exists()
    open_run(load_config(config_file))


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("sft.tasks=9", "sft.tasks is 9, but there are 8 demonstrations"),
        ("methods={rft: {tasks: 9}}", "methods.rft.tasks is 9, but there are 8 demonstrations"),
        ("explore.skip=8", "explore.skip is 8, which leaves none of 8 tasks"),
    ],
)
def test_too_few_demonstrations_are_found_out_before_any_training(
    config_file: Path, setting: str, complaint: str
) -> None:
    """How many there are is known once the expert has played: all tasks there are, if no number is given."""
    small = ["expert.tasks=null", "environment.options={size: tiny, train: 8, test: 2}"]
    config = load_config(config_file, [*small, setting])
    with pytest.raises(ConfigError, match=complaint):
        run_pipeline(config)
    assert not directory_of(config).model("sft").exists()


def test_what_another_process_finished_before_the_lock_was_free_is_not_done_again(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is read once the run is ours: read earlier, it would not know of the other's stages."""
    config = load_config(config_file)
    everything = [name for name, _, _ in plan(open_run(config))]

    @contextlib.contextmanager
    def lock_after_the_other(_: object) -> Iterator[None]:
        other = open_run(config)
        for name in everything:
            other.manifest.finish(name, seconds=0.0, result={})
        yield

    monkeypatch.setattr("multiturn.pipeline.run._only_one", lock_after_the_other)
    monkeypatch.setattr("multiturn.pipeline.run.show_results", lambda _: None)
    run_pipeline(config)
    assert not RunDirectory(config_file.parent / "run").expert.exists()


def test_results_without_their_summary(tmp_path: Path) -> None:
    with pytest.raises(RunStateError, match=r"summary\.json: is missing; .* multiturn report"):
        show_results(RunDirectory(tmp_path))


def test_a_report_of_an_unfinished_run_is_refused(config_file: Path, tmp_path: Path) -> None:
    with pytest.raises(RunStateError, match="holds no run"):
        rebuild_report(tmp_path / "nothing")
    open_run(load_config(config_file))
    with pytest.raises(RunStateError, match=r"is not finished \(missing: pairs, evaluate:sft:test"):
        rebuild_report(tmp_path / "run")


def start(config_file: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", "from multiturn.cli import main; main()", "run", str(config_file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "sign_of_life",
    [
        "run/expert.jsonl",
        "run/training/sft/checkpoint-*",
        "run/exploration.jsonl",
        "run/pairs.jsonl",
        "run/training/dmpo/checkpoint-*",
        "run/training/dpo/checkpoint-*",
        "run/evaluation/sft-test.jsonl",
        "run/evaluation/dpo-test.jsonl",
    ],
)
def test_a_run_killed_in_any_stage_goes_on(config_file: Path, sign_of_life: str) -> None:
    process = start(config_file)
    deadline = time.monotonic() + 300
    while not list(config_file.parent.glob(sign_of_life)):
        assert process.poll() is None, "the run ended before the stage was seen"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not RunDirectory(config_file.parent / "run").report.exists()
    assert start(config_file).wait() == 0
    check_finished(RunDirectory(config_file.parent / "run"))


def test_two_processes_do_not_work_on_one_run(config_file: Path) -> None:
    code = (
        "import sys, fcntl, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('locked', flush=True); time.sleep(60)"
    )
    run = open_run(load_config(config_file))
    holder = subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-c", code, str(run.directory.root / ".lock")], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    try:
        holder.stdout.readline()
        with pytest.raises(RunStateError, match="another process is working on this run"):
            run_pipeline(load_config(config_file))
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
