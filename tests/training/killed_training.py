"""Run as a program: trains until it kills itself with SIGKILL, in the middle of a step or of a checkpoint.

Usage: killed_training.py FOLDER full|lora STEP step|checkpoint
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import torch
from training_samples import lora, pairs, policy
from transformers import TrainerCallback

from multiturn.training import DMPOConfig, DMPOTrainer


def make_trainer(folder: str, kind: str, callbacks: list[TrainerCallback] | None = None) -> DMPOTrainer:
    """Three epochs of three steps with two micro-batches each; adapter dropout; saves every 2 steps."""
    tiny = policy()
    args = DMPOConfig(
        output_dir=folder,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        num_train_epochs=3,
        learning_rate=3e-3,
        save_steps=2,
        logging_steps=1,
        seed=7,
    )
    return DMPOTrainer(
        tiny.model,
        args,
        train_dataset=pairs(11),
        processing_class=tiny.tokenizer,
        peft_config=lora(lora_dropout=0.1) if kind == "lora" else None,
        callbacks=callbacks,
    )


class _Kill(TrainerCallback):
    """Kills the process between the two micro-batches of a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    folder, kind, step, place = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    trainer: Any = make_trainer(folder, kind, [_Kill(step)] if place == "step" else None)
    if place == "checkpoint":
        save = trainer._save_rng_state

        def killed(output_dir: str) -> None:
            if trainer.state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            save(output_dir)

        trainer._save_rng_state = killed
    trainer.train()


if __name__ == "__main__":
    main()
