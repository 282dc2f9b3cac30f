"""A `transformers.Trainer` that can be killed at any moment and goes on exactly where it stopped."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer
from typing_extensions import override

from multiturn.errors import ConfigError
from multiturn.files import written
from multiturn.training.checkpoints import (
    check_identity,
    checkpoint_to_resume,
    no_shard_bars,
    note_identity,
    recorded_seconds,
    remove_stale,
)
from multiturn.training.processes import gathered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from transformers.trainer_utils import TrainOutput

    from multiturn.trajectory import Json

__all__ = ["ResumableTrainer"]


class ResumableTrainer(Trainer):
    """Resumes from complete checkpoints only, and only those of the same training; counts its seconds."""

    _seconds_before = 0.0
    _started = 0.0
    _identity: Mapping[str, Json] = {}

    def before_training(self) -> None:
        """Called with the initial weights, before a checkpoint's are loaded."""

    def after_training(self) -> None:
        """Called when training has ended, by an exception too."""

    def identity(self) -> dict[str, Json]:
        """What must be the same for a checkpoint to be gone on from."""
        return {}

    @override
    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train to the end.

        Args:
            resume_from_checkpoint: True goes on from the latest complete checkpoint in `output_dir`; a path
                names one.
            trial: For hyperparameter search; passed on.
            ignore_keys_for_eval: Passed on.

        Returns:
            The number of steps, the mean loss and the speed.

        Raises:
            ConfigError: There is no complete checkpoint to go on from, or not the same for all processes.
            RunStateError: The checkpoint belongs to other weights, data or another objective.
            TrainingError: The loss or the gradient is not finite; the message names the rows.
        """
        checkpoint = checkpoint_to_resume(self._folder, requested=resume_from_checkpoint)
        if len(set(gathered(None if checkpoint is None else checkpoint.name))) > 1:
            raise ConfigError(
                f"the processes of this training see different checkpoints in {self._folder}; output_dir "
                "must be a folder that all machines share"
            )
        self._identity = self.identity()
        if checkpoint is not None:
            check_identity(checkpoint, self._identity)
        self.before_training()
        self._seconds_before = 0.0 if checkpoint is None else recorded_seconds(checkpoint)
        self._started = time.monotonic()
        try:
            return super().train(
                resume_from_checkpoint=None if checkpoint is None else str(checkpoint),
                trial=trial,
                ignore_keys_for_eval=ignore_keys_for_eval,
            )
        finally:
            self.after_training()

    @property
    def seconds(self) -> float:
        """Seconds of training, those before an interruption included (up to the last record)."""
        return self._seconds_before + time.monotonic() - self._started

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; a training record gets the seconds of training so far."""
        if "loss" in logs:
            logs["seconds"] = round(self.seconds, 3)
        super().log(logs, start_time)

    @property
    def _folder(self) -> Path:
        return Path(self.args.output_dir or ".")

    @override
    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.args.should_save:
            folder, step = Path(self._get_output_dir(trial=trial)), self.state.global_step
            remove_stale(folder, step)
            note_identity(folder / f"checkpoint-{step}", self._identity)
        self.accelerator.wait_for_everyone()
        with no_shard_bars(), written(self._folder):
            super()._save_checkpoint(model, trial)

    @override
    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # The state file follows. It says that the checkpoint is complete: with the part of every process.
        self.accelerator.wait_for_everyone()

    @override
    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # Tied weights are saved once; what is tied to them is not missing.
        tied = set(getattr(self.model, "_tied_weights_keys", None) or ())
        if set(load_result.missing_keys) - tied or load_result.unexpected_keys:
            super()._issue_warnings_after_load(load_result)
