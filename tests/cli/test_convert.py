"""``multiturn convert``, and the verbs that read any format: what a user sees."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from multiturn.cli.app import run_app
from multiturn.jsonl import read_pairs, read_trajectories

USER = {"role": "user", "content": "Open the door."}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MULTITURN_PROGRESS", "plain")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.chdir(tmp_path)


def log(action: str, score: float | None, **fields: Any) -> dict[str, Any]:
    return {"messages": [USER, {"role": "assistant", "content": action}], "score": score, **fields}


def write(name: str, *records: object) -> str:
    Path(name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return name


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["convert", "--help"]) == 0
    assert "Example: multiturn convert" in " ".join(capsys.readouterr().out.replace("`", "").split())


def test_a_conversion_says_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    path = write("logs.jsonl", log("open door", 1.0), {"messages": 3}, log("sleep", None))
    assert run_app(["convert", path, "out.jsonl", "--to", "sharegpt"]) == 3
    said = capsys.readouterr().err
    assert (
        "error: logs.jsonl:2: 'messages' is missing or not a list of messages (unusable rows: 1 of 3" in said
    )
    assert not Path("out.jsonl").exists()
    assert run_app(["convert", path, "out.jsonl", "--to", "sharegpt", "--skip-bad"]) == 0
    shown = capsys.readouterr()
    assert shown.out == (
        "out.jsonl: 2 of 3 rows, from openai to sharegpt\nleft out: no_messages (1)\n"
        "not held by sharegpt: reward (1)\n"
    )
    assert "convert: 3/3" in shown.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--to", "csv"], 2, "--to: there is no format 'csv'"),
        (["--to", "trl"], 2, "--to: logs.jsonl holds trajectories, which trl does not"),
        (["--to", "openai", "--from", "alpaca"], 2, "--from: there is no format 'alpaca'"),
        (["--to", "openai", "--from", "agentgym"], 3, "logs.jsonl:1: 'conversations' is missing"),
        (["--to", "openai", "--dataset-split", "x"], 2, "--dataset-split is for saved datasets"),
    ],
)
def test_bad_conversions(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    path = write("logs.jsonl", log("open door", 1.0))
    assert run_app(["convert", path, "out.jsonl", *arguments]) == code
    assert says in capsys.readouterr().err


def test_pairs_of_logs(capsys: pytest.CaptureFixture[str]) -> None:
    """The same prompt is the same task; ids that nobody gave are told apart by their file."""
    first = write("a.jsonl", log("open door", 0.9), log("sleep", 0.1))
    second = write("b.jsonl", log("knock", 0.5), {"messages": "?"})
    made = ["pairs", first, second, "--skip-bad", "--strategy", "all-above-margin", "--output", "p.jsonl"]
    assert run_app(made) == 0
    shown = capsys.readouterr()
    assert shown.out == "p.jsonl: 3 pairs; dropped: none\n"
    assert "a.jsonl: 2 rows, read as openai" in shown.err
    assert "b.jsonl: 2 rows, read as openai; unusable rows: 1 of 2: 1 no_messages" in shown.err
    assert [pair.id for pair in read_pairs("p.jsonl")] == [
        "a.jsonl:line-1 > a.jsonl:line-2",
        "a.jsonl:line-1 > b.jsonl:line-1",
        "b.jsonl:line-1 > a.jsonl:line-2",
    ]
    assert run_app(["pairs", first, "--output", "p.jsonl", "--min-gap", "0.85"]) == 3
    assert "none of 2 rollouts makes a preference pair (dropped: 2 unpaired; compared and not paired: 1 " in (
        capsys.readouterr().err
    )


def test_pairs_with_an_expert_who_has_no_return() -> None:
    experts = write("e.jsonl", log("open door", None))
    rollouts = write("r.jsonl", log("sleep", None, info={"won": False}))
    given = [
        "--experts",
        experts,
        "--rollouts",
        rollouts,
        "--reward-field",
        "info.won",
        "--output",
        "p.jsonl",
    ]
    assert run_app(["pairs", *given]) == 3
    assert run_app(["pairs", *given, "--expert-reward", "1", "--shared-turns", "context"]) == 0
    (pair,) = read_pairs("p.jsonl")
    assert (pair.info["chosen_reward"], pair.info["rejected_reward"]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "there is nothing to pair"),
        (["a.jsonl", "--strategy", "expert-vs-rollout"], "give both --experts and --rollouts"),
        (["a.jsonl", "--strategy", "odd"], "--strategy: strategy: input should be 'expert-vs-rollout'"),
        (["a.jsonl", "--shared-turns", "odd"], "--shared-turns: shared_turns: input should be 'score'"),
    ],
)
def test_bad_pairings(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    write("a.jsonl", log("open door", 1.0))
    assert run_app(["pairs", *arguments, "--output", "p.jsonl"]) == 2
    assert says in capsys.readouterr().err


def test_warnings_of_length_and_of_held_out_tasks(caplog: pytest.LogCaptureFixture) -> None:
    records = []
    for task in range(20):
        records += [log("open door", 1.0, task_id=task), log("sleep " * 9, 0.0, task_id=task)]
    path = write("a.jsonl", *records)
    held_out = write("test.jsonl", log("x", None, task_id=3))
    with caplog.at_level(logging.WARNING, logger="multiturn"):
        assert run_app(["pairs", path, "--held-out", held_out, "--output", "p.jsonl"]) == 0
    said = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("p.jsonl: length bias: chosen sides have 9.0 characters") for line in said)
    assert any("held out in test.jsonl" in line for line in said)


def test_the_verbs_refuse_each_others_files(capsys: pytest.CaptureFixture[str]) -> None:
    logs = write("a.jsonl", log("open door", 1.0))
    answer = {"role": "assistant", "content": "x"}
    pairs = write("p.jsonl", {"prompt": [USER], "chosen": [answer], "rejected": [answer]})
    assert run_app(["train", logs, "--model", "m", "--output", "o"]) == 3
    assert "a.jsonl: holds trajectories, not pairs; make pairs of them with" in capsys.readouterr().err
    assert run_app(["sft", pairs, "--model", "m", "--output", "o"]) == 3
    assert "p.jsonl: holds pairs, not trajectories" in capsys.readouterr().err


def test_training_reads_any_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives at the trainer from ms-swift's pairs and from AgentGym's trajectories."""
    arrived: list[Any] = []
    for name in ("train_on_pairs", "train_on_demonstrations"):
        monkeypatch.setattr(
            f"multiturn.pipeline.trainings.{name}", lambda _, data, **__: arrived.append(data)
        )
    yes, no = {"role": "assistant", "content": "open door"}, {"role": "assistant", "content": "sleep"}
    swift = write("s.jsonl", {"messages": [USER, yes], "rejected_messages": [USER, no]}, {"messages": 3})
    assert run_app(["train", swift, "--model", "m", "--output", "o", "--skip-bad"]) == 0
    said = [{"from": "human", "value": "x", "loss": None}, {"from": "gpt", "value": "y", "loss": True}]
    Path("g.json").write_text(
        json.dumps([{"conversations": said, "item_id": "i", "score": r} for r in (1, 0)])
    )
    assert run_app(["sft", "g.json", "--model", "m", "--output", "o"]) == 0
    pairs, demonstrations = arrived
    assert [pair.chosen[0].content for pair in pairs] == ["open door"]
    assert [(t.task_id, t.reward) for t in demonstrations] == [("i", 1.0)]


def test_a_context_turn_is_never_learned() -> None:
    from multiturn.training.rows import read_trajectory

    said = [
        {"from": "human", "value": "Rules.", "loss": None},
        {"from": "gpt", "value": "OK", "loss": False},
        {"from": "human", "value": "x", "loss": None},
        {"from": "gpt", "value": "y", "loss": True},
    ]
    Path("g.json").write_text(json.dumps([{"conversations": said, "item_id": "i"}]))
    assert run_app(["convert", "g.json", "own.jsonl", "--to", "multiturn"]) == 0
    (own,) = read_trajectories("own.jsonl")
    (conversation,) = read_trajectory(own, 0).conversations
    assert (own.context_turns, conversation.unscored, len(conversation.messages)) == (1, 1, 4)
