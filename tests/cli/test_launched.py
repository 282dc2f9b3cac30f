"""The command line under a launcher: several processes train together, one of them speaks and writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from multiturn.cli.app import run_app
from multiturn.models import save_policy, scratch_policy

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = [
    *["--model", "tiny", "--precision", "fp32", "--epochs", "2", "--learning-rate", "1e-3"],
    *["--set", "batch_size=4", "--set", "checkpoints=1"],
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model and seven pairs, which two processes cannot share evenly."""
    save_policy(scratch_policy(vocab_size=400, hidden_size=32, layers=1, heads=2), tmp_path / "tiny")
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Open door {number}."}],
            "chosen": [{"role": "assistant", "content": "open door"}],
            "rejected": [
                {"role": "assistant", "content": "sleep"},
                {"role": "user", "content": "Nothing happens."},
                {"role": "assistant", "content": "open door"},
            ],
        }
        for number in range(7)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MULTITURN_PROGRESS", "plain")
    return tmp_path


def test_two_processes_train_one_model(folder: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, "-m", "multiturn", "train", "pairs.jsonl", "--output", "together", *SETTINGS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(  # noqa: S603 - our own program
        command, check=False, capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "model: together/model\n"
    told = done.stderr.splitlines()
    assert told[:2] == ["pairs.jsonl: 7 rows, read as trl", "DMPO: 0/14 started"]
    assert told[2].startswith("DMPO: 14/14 done in")
    assert "of computation" in told[3]
    assert len(told) == 4
    assert sorted(path.name for path in (folder / "together").iterdir()) == [
        "history.json",
        "model",
        "reference",
    ]

    assert run_app(["train", "pairs.jsonl", "--output", "alone", *SETTINGS]) == 0
    together, alone = (
        load_file(folder / name / "model" / "model.safetensors") for name in ("together", "alone")
    )
    assert together.keys() == alone.keys()
    for name, tensor in together.items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")


@pytest.mark.usefixtures("second_of_two")
@pytest.mark.parametrize("verb", [["report", "x"], ["run", "x.yaml"], ["env", "list"]])
def test_verbs_for_one_process_refuse_several(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(verb) != 0
    said = capsys.readouterr().err
    assert f"error in process 1: `multiturn {verb[0]}` runs in one process" in said


@pytest.mark.usefixtures("second_of_two")
@pytest.mark.parametrize("settings", [["batch_size=5"], ["batch_size=6", "micro_batch_size=2"]])
def test_a_batch_that_processes_cannot_share(
    settings: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = [word for setting in settings for word in ("--set", setting)]
    assert run_app(["train", "pairs.jsonl", "--model", "tiny", "--output", "out", *changes]) != 0
    assert "cannot be shared by 2 processes; make it a multiple of 2" in capsys.readouterr().err


def test_a_launcher_with_another_precision(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert run_app(["train", "pairs.jsonl", "--output", "out", *SETTINGS]) != 0
    assert "precision is fp32, the launcher's mixed_precision bf16" in capsys.readouterr().err
