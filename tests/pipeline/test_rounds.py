"""Whole runs of several rounds and of all kinds of methods, with a tiny random model."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from multiturn.errors import RunStateError
from multiturn.jsonl import read_pairs
from multiturn.pipeline import operations, playing, stages, trainings
from multiturn.pipeline.load import load_config
from multiturn.pipeline.methods import MethodRound
from multiturn.pipeline.pairing import write_pairs_if_any
from multiturn.pipeline.results import rebuild_report, show_results
from multiturn.pipeline.rounds import describe_rounds, left_out, left_out_warnings
from multiturn.pipeline.run import directory_of, open_run, plan, run_pipeline
from multiturn.pipeline.run_comparison import compare_runs
from multiturn.rollouts.store import read_rollouts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from multiturn.pairs.selection import Selection
    from multiturn.pipeline.config import Config

TINY = """\
name: tiny
model: {scratch: {vocab_size: 400, hidden_size: 32, layers: 1, heads: 2}}
precision: fp32
environment:
  name: household
  options: {size: tiny, train: 12, test: 2}
  max_turns: 14
prompt: {chat_template: compact, format: action, instructions: none}
expert: {tasks: 3}
sft: {tasks: 3, epochs: 1, batch_size: 2, learning_rate: 1.0e-3, checkpoints: 0}
explore: {slots: 4, max_new_tokens: 6, samples: 2}
preference: {batch_size: 2, epochs: 1, learning_rate: 1.0e-3, checkpoints: 0}
evaluate: {slots: 6, max_new_tokens: 6}
"""


def tiny(folder: Path, settings: str) -> Config:
    path = folder / "tiny.yaml"
    path.write_text(f"{TINY}output: {folder / 'run'}\n{settings}", encoding="utf-8")
    return load_config(path)


def results_of(config: Config) -> dict[str, dict[str, Any]]:
    record = json.loads(directory_of(config).manifest.read_text(encoding="utf-8"))
    return {name: stage["result"] for name, stage in record["stages"].items()}


def summary_of(config: Config) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(directory_of(config).summary.read_text(encoding="utf-8"))
    return summary


class KilledError(BaseException):
    """What nothing in a run catches, as nothing survives ``kill -9``."""


def kill_after(monkeypatch: pytest.MonkeyPatch, module: object, name: str, fatal: str) -> None:
    """Let a stage do its work for one policy and die before the manifest knows of it."""
    work: Callable[..., dict[str, Any]] = getattr(module, name)

    def die(run: stages.Run, entry: MethodRound, *rest: str) -> dict[str, Any]:
        result = work(run, entry, *rest)
        if entry.name == fatal:
            raise KilledError
        return result

    monkeypatch.setattr(module, name, die)


@dataclasses.dataclass
class TwoRounds:
    """A finished run of two rounds that was killed at every border of its second one.

    Attributes:
        config: What it did.
        played: Which model played, by the title of the bar.
        trained: The trainings on pairs, each with the folder's name, its model and the reference's cache.
        changed: Files that a stage left before it was killed, and that are others now.
    """

    config: Config
    played: dict[str, object]
    trained: list[tuple[str, str, Path]]
    changed: list[Path]


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory: pytest.TempPathFactory) -> TwoRounds:
    """Each stage of DMPO's second round does its work and is forgotten, then the run is finished.

    DPO's second round makes no pair.
    """
    methods = "methods: {dmpo: {}, dpo: {objective: dpo}}\nrounds: 2\n"
    config = tiny(tmp_path_factory.mktemp("two"), methods)
    run = TwoRounds(config, {}, [], [])
    with pytest.MonkeyPatch.context() as patch:
        watch(patch, run)
        for module, name in (
            (playing, "explore_again"),
            (stages, "pair_again"),
            (stages, "optimize"),
            (playing, "evaluate"),
        ):
            with pytest.MonkeyPatch.context() as fatal:
                kill_after(fatal, module, name, "dmpo-round2")
                with pytest.raises(KilledError):
                    run_pipeline(config)
        folder = directory_of(config).root
        left = {
            path: path.read_bytes() for kind in ("jsonl", "safetensors") for path in folder.rglob(f"*.{kind}")
        }
        run_pipeline(config)
    run.changed += [path for path, content in left.items() if path.read_bytes() != content]
    return run


def watch(patch: pytest.MonkeyPatch, run: TwoRounds) -> None:
    """Note who plays and who is trained, and leave DPO nothing to prefer in its second round."""
    roll_out, train = operations.roll_out, trainings.train_on_pairs

    def note_who_plays(model: Path, **rest: Any) -> object:
        run.played[rest["title"]] = model
        return roll_out(model, **rest)

    def note_who_is_trained(model: str, pairs: Any, **rest: Any) -> object:
        run.trained.append((rest["output"].name, model, rest["reference_cache"]))
        return train(model, pairs, **rest)

    def pair_all_but_dpos(experts: Any, rollouts: Any, path: Path, **rest: Any) -> Selection:
        return write_pairs_if_any([] if path.parent.name == "dpo" else experts, rollouts, path, **rest)

    patch.setattr(stages, "write_pairs_if_any", pair_all_but_dpos)
    patch.setattr(operations, "roll_out", note_who_plays)
    patch.setattr(trainings, "train_on_pairs", note_who_is_trained)


def test_two_rounds_killed_at_every_border_do_nothing_twice(two_rounds: TwoRounds) -> None:
    assert two_rounds.changed == []
    done = list(results_of(two_rounds.config))
    assert done == [name for name, _, _ in plan(open_run(two_rounds.config))]
    assert done[4:12] == [
        "train:dmpo",
        "train:dpo",
        "explore:dmpo-round2",
        "pairs:dmpo-round2",
        "train:dmpo-round2",
        "explore:dpo-round2",
        "pairs:dpo-round2",
        "train:dpo-round2",
    ]


def test_a_second_round_explores_and_begins_with_the_methods_own_policy(two_rounds: TwoRounds) -> None:
    directory = directory_of(two_rounds.config)
    second = directory.round(MethodRound("dmpo", 2))
    assert two_rounds.played["dmpo explores (round 2)"] == directory.model("dmpo")
    assert two_rounds.played["dmpo-round2 on test"] == directory.model("dmpo-round2")
    sft, dmpo = str(directory.model("sft")), str(directory.model("dmpo"))
    assert two_rounds.trained == [
        ("dmpo", sft, directory.reference),
        ("dpo", sft, directory.reference),
        ("dmpo-round2", dmpo, second.reference),
    ]
    assert list(second.reference.iterdir())

    tasks = {t.task_id for t in read_rollouts(directory.exploration)}
    rollouts = read_rollouts(second.exploration)
    assert {t.id for t in read_rollouts(directory.exploration)} == {f"{t}#{n}" for t in tasks for n in (0, 1)}
    assert {t.id for t in rollouts} == {f"{t}#{n}" for t in tasks for n in (2, 3)}
    pairs = read_pairs(second.pairs)
    assert {pair.id for pair in pairs} <= {t.id for t in rollouts}
    made = results_of(two_rounds.config)["pairs:dmpo-round2"]
    assert made["counts"]["pairs"] == len(pairs) > 0


def test_the_results_of_two_rounds(two_rounds: TwoRounds, capsys: pytest.CaptureFixture[str]) -> None:
    summary, directory = summary_of(two_rounds.config), directory_of(two_rounds.config)
    assert summary["methods"] == ["sft", "dmpo", "dmpo-round2", "dpo"]
    assert list(summary["trainings"]) == summary["methods"]
    assert [made["name"] for made in summary["rounds"]] == ["dmpo-round2", "dpo-round2"]
    compared = [(c["method"], c["baseline"]) for c in summary["splits"]["test"]["comparisons"]]
    assert compared[3:] == [("dmpo", "dpo"), ("dmpo-round2", "dmpo")]
    show_results(directory)
    assert "DMPO-round2" in capsys.readouterr().out
    assert "Later rounds" in directory.report.read_text(encoding="utf-8")
    (found,) = compare_runs(directory.root, directory.root, methods=("dmpo-round2", None))
    assert (found.comparison.method, found.comparison.baseline) == ("dmpo-round2", "dmpo")


def test_a_round_without_pairs_ends_the_method_and_not_the_run(two_rounds: TwoRounds) -> None:
    done, directory = results_of(two_rounds.config), directory_of(two_rounds.config)
    assert done["pairs:dpo-round2"]["counts"]["pairs"] == 0
    assert done["pairs:dpo-round2"]["dropped"] == {"no_expert": 6}
    assert done["pairs:dpo-round2"]["says"].endswith("dpo ends with round 1")
    for stage in ("train:dpo-round2", "evaluate:dpo-round2:test"):
        assert done[stage] == {"says": "left out: round 2 made no pair"}
    assert not directory.round(MethodRound("dpo", 2)).pairs.exists()
    assert not directory.training("dpo-round2").exists()
    assert summary_of(two_rounds.config)["warnings"] == [
        "dpo: no rollout of round 2 made a preference pair, so round 2 is left out."
    ]
    before = directory.summary.read_bytes()
    rebuild_report(directory.root)
    assert directory.summary.read_bytes() == before
    with pytest.raises(RunStateError, match="have evaluated no test split in common"):
        compare_runs(directory.root, directory.root, methods=("dpo-round2", "dpo"))


def test_what_follows_a_round_without_pairs_is_left_out_too(tmp_path: Path) -> None:
    """Nothing is done for it: there are no files at all here."""
    config = tiny(tmp_path, "methods: {dpo: {objective: dpo}}\nrounds: 3\n")
    run = open_run(config)
    made = {"says": "", "counts": {"rollouts": 6, "pairs": 0}, "dropped": {"tie": 6}}
    run.manifest.finish("pairs:dpo-round2", seconds=0.0, result=made)
    third = MethodRound("dpo", 3)
    nothing = {"says": "left out: round 2 made no pair"}
    assert playing.explore_again(run, third) == nothing
    assert stages.pair_again(run, third) == nothing
    assert stages.optimize(run, third) == nothing
    assert playing.evaluate(run, third, "test") == nothing
    assert left_out(run.manifest, MethodRound("dpo", 1)) is None
    assert [facts["name"] for facts in describe_rounds(config, run.manifest)] == ["dpo-round2"]
    assert left_out_warnings(config, run.manifest) == [
        "dpo: no rollout of round 2 made a preference pair, so rounds 2 to 3 are left out."
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sign_of_life",
    ["rounds/2/dmpo/exploration.jsonl", "training/dmpo-round2/checkpoint-*", "training/rft/checkpoint-*"],
)
def test_a_round_killed_in_the_middle_goes_on(tmp_path: Path, sign_of_life: str) -> None:
    """By ``kill -9``, in a process of its own."""
    # Later keys of a YAML mapping win: with checkpoints, unlike the others here.
    training = "{learning_rate: 1.0e-3, batch_size: 2, epochs: 3}"
    settings = f"methods: [rft, dmpo]\nrounds: 2\nsft: {training}\npreference: {training}\n"
    config = tiny(tmp_path, settings)
    code = "from multiturn.cli import main; main()"
    command = [sys.executable, "-c", code, "run", str(tmp_path / "tiny.yaml")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603 - our own command
    root, deadline = directory_of(config).root, time.monotonic() + 300
    while not list(root.glob(sign_of_life)):
        assert process.poll() is None, "the run ended before the stage was seen"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not directory_of(config).report.exists()
    run_pipeline(config)
    assert summary_of(config)["methods"] == ["sft", "rft", "dmpo", "dmpo-round2"]
    assert not list(root.glob("training/*/checkpoint-*"))
    rollouts = read_rollouts(directory_of(config).round(MethodRound("dmpo", 2)).exploration)
    assert len({t.id for t in rollouts}) == len(rollouts) == 6


def test_methods_that_train_on_no_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exploration takes place for its successes; a reward of 0 makes every distinct rollout one."""
    methods = (
        "methods: {best_of_n: {samples: 3}, rft: {min_reward: 0, tasks: 2}, again: {kind: rft, start: sft}}\n"
    )
    config = tiny(tmp_path, methods)
    run_pipeline(config)
    directory, done = directory_of(config), results_of(config)
    assert list(done) == [
        "expert",
        "sft",
        "explore",
        "train:rft",
        "train:again",
        "evaluate:sft:test",
        "evaluate:best_of_n:test",
        "evaluate:rft:test",
        "evaluate:again:test",
        "report",
    ]
    rft, again = done["train:rft"], done["train:again"]
    assert rft["demonstrations"] == 2
    assert rft["successes"] + sum(rft["dropped"].values()) == len(read_rollouts(directory.exploration)) == 6
    assert rft["successes"] > 0
    assert rft["history"]["data"]["rows"] == 2 + rft["successes"]
    assert again["demonstrations"] == 3
    assert again["dropped"] == {"below_min_reward": 6}

    samples = read_rollouts(directory.evaluation("best_of_n", "test"))
    assert sorted({t.id[-2:] for t in samples}) == ["#0", "#1", "#2"]
    assert len({t.id for t in samples}) == len(samples) == 6
    summary = summary_of(config)
    assert summary["methods"] == ["sft", "best_of_n", "rft", "again"]
    assert summary["main_method"] == "rft"
    assert list(summary["trainings"]) == ["sft", "rft", "again"]
    assert summary["pairs"] is None
    figures = summary["splits"]["test"]["methods"]["best_of_n"]
    assert (figures["tasks"], figures["episodes"]) == (2, 2)
    assert (figures["samples"]["per_task"], figures["samples"]["episodes"]) == (3, 6)
    assert summary["splits"]["test"]["methods"]["sft"]["samples"] is None
    said = " ".join(capsys.readouterr().out.split())
    assert "best_of_n is an oracle: of 3 samples a task the best counts" in said
    assert "best_of_n is an oracle" in directory.report.read_text(encoding="utf-8")
    (found,) = compare_runs(directory.root, directory.root, methods=("best_of_n", "sft"))
    assert found.oracles == ("best_of_n",)
    assert found.comparison.tasks == 2


def test_nothing_is_explored_for_best_of_n_alone(tmp_path: Path) -> None:
    config = tiny(tmp_path, "methods: [sft, best_of_n]\n")
    assert [name for name, _, _ in plan(open_run(config))] == [
        "expert",
        "sft",
        "evaluate:sft:test",
        "evaluate:best_of_n:test",
        "report",
    ]


def test_a_run_of_an_older_version_goes_on(tmp_path: Path) -> None:
    """Its manifest says nothing of rounds, nor of other settings that came later."""
    config = tiny(tmp_path, "")
    manifest = open_run(config).manifest
    manifest.finish("expert", seconds=1.0, result={})
    old = json.loads(manifest.path.read_text(encoding="utf-8"))
    assert old["config"].pop("rounds") == 1
    del old["config"]["sft"]["weight_decay"]
    manifest.path.write_text(json.dumps(old), encoding="utf-8")
    assert "expert" in open_run(config).manifest.stages
    assert "rounds" not in open_run(config).manifest.config
    with pytest.raises(RunStateError, match="seed: 0 there, 7 now"):
        open_run(tiny(tmp_path, "seed: 7\n"))
    old["config"]["sft"]["no_longer"] = 1
    manifest.path.write_text(json.dumps(old), encoding="utf-8")
    with pytest.raises(RunStateError, match=r"sft\.no_longer: 1 there, None now"):
        open_run(config)
