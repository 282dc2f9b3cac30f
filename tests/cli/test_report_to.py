"""Trackers on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multiturn.cli.app import run_app
from multiturn.models import save_policy, scratch_policy

TALK = {"messages": [{"role": "user", "content": "Open the door."}, {"role": "assistant", "content": "open"}]}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MULTITURN_PROGRESS", "off")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("talks.jsonl").write_text(json.dumps(TALK) + "\n")


def test_a_training_is_followed(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(
        "tensorboard", reason="tensorboard is not installed; pip install 'multiturn[trackers]'"
    )
    save_policy(scratch_policy(hidden_size=32, layers=1, heads=2), "tiny")
    command = ["sft", "talks.jsonl", "--model", "tiny", "--output", "out", "--epochs", "1", "--seed", "4"]
    assert run_app([*command, "--report-to", "tensorboard", "--set", "checkpoints=0"]) == 0
    assert capsys.readouterr().out == "model: out/model\n"
    assert len(list(Path("out/trackers/tensorboard/out-sft-seed4").glob("events.*"))) == 1
    assert "# out-sft-seed4" in Path("out/model/README.md").read_text()


def test_a_tracker_that_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["sft", "talks.jsonl", "--output", "out", "--report-to", "tensorbord"]) == 2
    assert "--report-to: report_to: there is no tracker 'tensorbord' (did you mean 'tensorboard'?)" in (
        " ".join(capsys.readouterr().err.split())
    )
