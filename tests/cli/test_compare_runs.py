"""``multiturn compare`` on runs that are made up: what it says, and what it refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from multiturn.cli.app import run_app
from multiturn.errors import DataError
from multiturn.pipeline.load import load_config
from multiturn.pipeline.manifest import Manifest
from multiturn.pipeline.run import open_run
from multiturn.pipeline.run_comparison import compare_episodes
from multiturn.trajectory import Message, Trajectory

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = "name: {name}\nenvironment: {{name: {env}, test_splits: [{split}]}}\noutput: {output}\n"
CONFIG += "methods: {methods}\n"
EVIL = "task\x1b[31m\u202e7"


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")


def episode(task: str, reward: float, *, environment: str = "house/1", known: bool = True) -> Trajectory:
    return Trajectory(
        id=task,
        task_id=task,
        messages=(Message(role="user", content="Go."), Message(role="assistant", content="Gone.")),
        reward=reward,
        success=reward == 1.0 if known else None,
        environment=environment,
    )


def make_run(
    folder: Path,
    rewards: dict[str, dict[str, float]],
    *,
    env: str = "household",
    split: str = "test",
    fingerprint: str = "house/1",
    methods: str = "{dmpo: {}, dpo: {objective: dpo}}",
) -> str:
    """A run of which only the episodes are there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    config = folder.with_suffix(".yaml")
    text = CONFIG.format(name="x", env=env, split=split, output=folder, methods=methods)
    config.write_text(text, encoding="utf-8")
    run = open_run(load_config(config))
    for method, by_task in rewards.items():
        path = run.directory.evaluation(method, split)
        path.parent.mkdir(exist_ok=True)
        header = {"rollouts": 1, "environment": fingerprint, "agent": method, "settings": {}}
        episodes = [episode(t, r, environment=fingerprint).to_json() for t, r in by_task.items()]
        path.write_text("".join(json.dumps(line) + "\n" for line in [header, *episodes]), encoding="utf-8")
    return str(folder)


def rewards(won: str) -> dict[str, float]:
    """The reward of each task: one won for every ``1``."""
    return {f"t{number:02d}": float(result) for number, result in enumerate(won)}


def test_two_runs_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wins 1100 1100 against 0100 0001: gained t00, t04, t05; lost t07; mean (3 - 1) / 8 = 0.25.

    The differences 1, 0, 0, 0, 1, 1, 0, -1 have squares 4 in all, so s^2 = (4 - 8 * 0.0625) / 7 = 0.5, and
    7.84888 * 0.5 / 0.0625 = 62.8: 63 tasks, 55 more. Eight find 2.80159 * 0.70711 / 2.82843 = 0.700.
    """
    first = make_run(tmp_path / "a", {"dmpo": rewards("11001100")})
    second = make_run(tmp_path / "b", {"dmpo": rewards("01000001")})
    assert run_app(["compare", first, second]) == 0
    said = capsys.readouterr().out
    assert "a:dmpo less b:dmpo on test, 8 tasks:" in said
    assert "average reward +0.250 [" in said
    assert "undecided (95% interval, paired by task)" in said
    assert "better on 3, equal on 4, worse on 1 tasks" in said
    assert "55 more tasks (63 in all) would tell the two apart with probability 80%" in said
    assert "8 tasks find a difference of 0.700 with probability 80%" in said
    assert "solved by a:dmpo only: 3\n    t00\n    t04\n    t05\n" in said
    assert "solved by b:dmpo only: 1\n    t07\n" in said


def test_methods_of_one_run_and_tasks_that_only_one_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "a", {"dpo": rewards("1" * 40), "sft": rewards("0" * 38)})
    assert run_app(["compare", run, run, "--method-a", "dpo", "--method-b", "sft"]) == 0
    said = capsys.readouterr().out
    assert "dpo less sft on test, 38 tasks:" in said
    assert "2 tasks that only dpo evaluated are left out" in said
    assert "these tasks tell the two apart" in said
    assert "    and 18 more (--all lists them)" in said
    assert run_app(["compare", run, run, "--method-a", "dpo", "--method-b", "sft", "--all"]) == 0
    assert "    t37\n" in capsys.readouterr().out


def test_an_evaluation_that_is_not_finished_is_called_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make_run(tmp_path / "a", {"dmpo": rewards("11")})
    second = make_run(tmp_path / "b", {"dmpo": rewards("01")})
    manifest = Manifest.read(tmp_path / "a" / "manifest.json")
    manifest.finish("evaluate:dmpo:test", seconds=1.0, result={})
    assert run_app(["compare", first, second]) == 0
    said = capsys.readouterr().out
    assert "the evaluation of b:dmpo is not finished" in said
    assert "the evaluation of a:dmpo" not in said


def test_the_same_rewards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "a", {"dmpo": rewards("10"), "dpo": rewards("01")})
    assert run_app(["compare", run, run, "--method-b", "dpo"]) == 0
    assert "no number of tasks is known to tell the two apart" in capsys.readouterr().out


def test_the_best_of_several_samples_is_called_an_oracle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of t00's samples 0 and 1 the 1 counts, of t01's 0 and 0 a 0; SFT has 0 and 0: 0.5 more."""
    run = make_run(tmp_path / "a", {"sft": rewards("00")}, methods="[best_of_n]")
    again = [episode(task, reward).to_json() | {"id": f"{task}#1"} for task, reward in rewards("00").items()]
    path = tmp_path / "a" / "evaluation" / "best_of_n-test.jsonl"
    make_run(tmp_path / "a", {"best_of_n": rewards("10")}, methods="[best_of_n]")
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in again)
    assert run_app(["compare", run, run, "--method-b", "sft"]) == 0
    said = capsys.readouterr().out
    assert "best_of_n less sft on test, 2 tasks:" in said
    assert "average reward +0.500 [" in said
    assert "best_of_n counts each task's best sample, chosen by the test's own reward: an oracle" in said


def test_names_of_tasks_do_not_reach_the_terminal_raw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "a", {"dmpo": {EVIL: 1.0, "b": 0.0}, "dpo": {EVIL: 0.0, "b": 0.0}})
    assert run_app(["compare", run, run, "--method-b", "dpo"]) == 0
    said = capsys.readouterr().out
    assert "task⟨U+001B⟩[31m⟨U+202E⟩7" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("second", "arguments", "code", "message"),
    [
        ({}, ["--method-a", "dmop"], 2, "has no method 'dmop'; it has dmpo, dpo, sft"),
        ({"split": "other"}, [], 4, "have evaluated no test split in common (test; other)"),
        ({"env": "alfworld"}, [], 3, "was evaluated in household and"),
        ({"fingerprint": "house/2"}, [], 3, "was evaluated in house/1 and .*:dmpo in house/2; rewards of"),
    ],
)
def test_what_does_not_compare_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    second: dict[str, str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    runs = [
        make_run(tmp_path / "a", {"dmpo": rewards("10")}),
        make_run(tmp_path / "b", {"dmpo": rewards("01")}, **second),
    ]
    assert run_app(["compare", *runs, *arguments]) == code
    said = capsys.readouterr().err
    before, _, after = message.partition(" and .*")
    assert before in said
    assert after in said


def test_a_run_with_itself_and_no_run_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "a", {"dmpo": rewards("10")})
    assert run_app(["compare", run, run]) == 2
    assert "choose with --method-a and --method-b" in capsys.readouterr().err
    assert run_app(["compare", run, str(tmp_path / "nothing")]) == 4
    assert "holds no run" in capsys.readouterr().err


def test_without_success_flips_go_by_reward() -> None:
    ours = [episode("a", 0.5, known=False), episode("b", 0.25, known=False)]
    theirs = [episode("a", 0.25, known=False), episode("b", 0.5, known=False)]
    found = compare_episodes(ours, theirs, names=("x", "y"), split="test")
    assert (found.gained, found.lost) == (("a",), ("b",))
    assert found.comparison.success is None


def test_no_task_in_common() -> None:
    with pytest.raises(DataError, match="x and y evaluated no task of test in common"):
        compare_episodes([episode("a", 1.0)], [episode("b", 1.0)], names=("x", "y"), split="test")


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["compare", "--help"]) == 0
    assert "Example: multiturn compare" in capsys.readouterr().out.replace("`", "")
