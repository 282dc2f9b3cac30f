"""Killed and resumed: the same weights, to the last bit, as without the interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from killed_training import make_trainer
from training_samples import pairs, policy, weights
from transformers import TrainerCallback

from multiturn.errors import ConfigError, RunStateError
from multiturn.training import DMPOConfig, DMPOTrainer, latest_checkpoint
from multiturn.training.checkpoints import is_complete, remove_checkpoints, remove_stale

HERE = Path(__file__).parent


def _train_until_killed(folder: Path, kind: str, step: int, place: str) -> None:
    command = [sys.executable, str(HERE / "killed_training.py"), str(folder), kind, str(step), place]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "MULTITURN_PROGRESS": "off"}
    finished = subprocess.run(command, env=environment, check=False, capture_output=True, timeout=300)  # noqa: S603 - our own program
    assert finished.returncode == -signal.SIGKILL, finished.stderr.decode()


@pytest.mark.parametrize(
    ("kind", "step", "place", "resumes_from"),
    [
        # In the middle of step 6 of 9, in the last epoch but one: the checkpoint of step 4 is good.
        ("lora", 5, "step", 4),
        # While the checkpoint of step 6 is written, at the end of an epoch: its optimizer is there, its
        # random states and its state file are not.
        ("full", 6, "checkpoint", 4),
    ],
)
def test_killed_and_resumed(kind: str, step: int, place: str, resumes_from: int, tmp_path: Path) -> None:
    whole = make_trainer(str(tmp_path / "whole"), kind)
    whole.train()
    _train_until_killed(tmp_path / "killed", kind, step, place)
    if place == "checkpoint":
        half = tmp_path / "killed" / "checkpoint-6"
        assert (half / "optimizer.pt").exists()
        assert not is_complete(half)
    checkpoint = latest_checkpoint(tmp_path / "killed")
    assert checkpoint == tmp_path / "killed" / f"checkpoint-{resumes_from}"
    resumed = make_trainer(str(tmp_path / "killed"), kind)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 9
    expected, found = weights(whole.model), weights(resumed.model)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    # And the record of the training is the same, step by step.
    shown = ("step", "loss", "rewards/margins", "learning_rate", "num_input_tokens_seen")
    for one, other in zip(whole.state.log_history[:9], resumed.state.log_history[:9], strict=True):
        assert {k: one[k] for k in shown} == {k: other[k] for k in shown}


def test_resuming_does_not_compute_the_reference_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from multiturn.models import reference

    folder = str(tmp_path / "out")
    make_trainer(folder, "full").train()
    monkeypatch.delattr(reference, "_compute")
    remove_checkpoints(folder)
    make_trainer(folder, "full").train()


def test_another_training_is_not_resumed(tmp_path: Path) -> None:
    options: dict[str, Any] = {"output_dir": str(tmp_path), "max_steps": 1, "save_steps": 1}

    def trainer(seed: int = 0, count: int = 4, **more: Any) -> DMPOTrainer:
        tiny = policy(seed)
        args = DMPOConfig(**{**options, **more})
        return DMPOTrainer(tiny.model, args, train_dataset=pairs(count), processing_class=tiny.tokenizer)

    trainer().train()
    for other, says in (
        (trainer(seed=1), "model: "),
        (trainer(count=5), "data: "),
        (trainer(gamma=0.1), "task: .*gamma=0.7.* then, .*gamma=0.1.* now"),
        (trainer(seed=0, per_device_train_batch_size=2), "rows_per_step: 32 then, 16 now"),
    ):
        with pytest.raises(RunStateError, match=says):
            other.train(resume_from_checkpoint=True)


def test_checkpoints_that_are_not_complete(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "missing") is None

    def checkpoint(step: int, state: str, *, optimizer: bool = True) -> Path:
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(state)
        (folder / "scheduler.pt").touch()
        if optimizer:
            (folder / "optimizer.pt").touch()
        return folder

    checkpoint(3, json.dumps({"global_step": 3}))
    good = checkpoint(5, json.dumps({"global_step": 5}))
    checkpoint(7, '{"global_step": 7, "log_hist')
    checkpoint(9, json.dumps({"global_step": 9}), optimizer=False)
    checkpoint(11, json.dumps({"global_step": 10}))
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-100").write_text("a file")
    assert latest_checkpoint(tmp_path) == good
    remove_checkpoints(tmp_path)
    assert latest_checkpoint(tmp_path) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-100", "checkpoint-x"]


def test_trainings_that_share_a_folder(tmp_path: Path) -> None:
    """One left its checkpoint of step 2; another begins anew there and is stopped behind its step 1."""

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                raise KeyboardInterrupt

    def trainer(gamma: float, folder: Path, *callbacks: TrainerCallback) -> DMPOTrainer:
        tiny = policy()
        args = DMPOConfig(output_dir=str(folder), gamma=gamma, max_steps=2, save_steps=1)
        data: dict[str, Any] = {"train_dataset": pairs(2), "processing_class": tiny.tokenizer}
        return DMPOTrainer(tiny.model, args, callbacks=list(callbacks), **data)

    shared = tmp_path / "shared"
    trainer(0.7, shared).train()
    with pytest.raises(KeyboardInterrupt):
        trainer(0.1, shared, Stop()).train()
    with pytest.raises(RunStateError, match=r"checkpoint-2 belongs to another .*gamma=0.7.* then"):
        trainer(0.1, shared).train(resume_from_checkpoint=True)
    # Which training a checkpoint belongs to does not depend on the folder that the new one writes to.
    with pytest.raises(RunStateError, match="checkpoint-1 belongs to another"):
        trainer(0.7, tmp_path / "other").train(resume_from_checkpoint=str(shared / "checkpoint-1"))
    resumed = trainer(0.1, shared)
    resumed.train(resume_from_checkpoint=str(shared / "checkpoint-1"))
    assert resumed.state.global_step == 2


@pytest.mark.parametrize("at", ["the end", "the same step"])
def test_killed_while_a_checkpoint_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """What is left has no weights any more and must not be taken for a complete one."""
    folder = tmp_path / "checkpoint-4"
    folder.mkdir()
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 4}))
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt"):
        (folder / name).touch()
    assert is_complete(folder)

    def killed(path: Path, **_: Any) -> None:
        (Path(path) / "model.safetensors").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_checkpoints(tmp_path) if at == "the end" else remove_stale(tmp_path, 4)
    assert not is_complete(folder)
    assert latest_checkpoint(tmp_path) is None


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    trainer = make_trainer(str(tmp_path), "full")
    with pytest.raises(ConfigError, match="no complete checkpoint"):
        trainer.train(resume_from_checkpoint=True)
    with pytest.raises(ConfigError, match="not a complete checkpoint"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
