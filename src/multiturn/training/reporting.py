"""A trainer that tells trackers how it goes, and the world what came of it: models with a card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerState
from typing_extensions import override

from multiturn.files import whole_file
from multiturn.models.policy import CARD, as_trained
from multiturn.models.quiet import quiet
from multiturn.models.reference_cache import precision_of
from multiturn.models.wrapped import bare_model
from multiturn.training.checkpoints import STATE_FILE, checkpoint_to_resume
from multiturn.training.data import DataReport, RenderedRows
from multiturn.training.model_card import Origin, Trained, write_card
from multiturn.training.passes import PassTrainer
from multiturn.training.setup import adapter_settings
from multiturn.training.trackers import Tracking

if TYPE_CHECKING:
    from collections.abc import Collection

    from transformers.trainer_utils import TrainOutput

    from multiturn.training.objectives import Task
    from multiturn.trajectory import Json

__all__ = ["ReportingTrainer"]


class ReportingTrainer(PassTrainer):
    """Reports to the trackers of ``report_to``, and saves models as they were trained, with a card.

    Attributes:
        task: The objective.
        chat_template: The Jinja text the policy is trained with, where it is not the tokenizer's own.
        stop_ids: The token ids that end a turn under that template.
        origin: What the model was trained from.
    """

    def __init__(
        self,
        *,
        task: Task,
        chat_template: str | None,
        stop_ids: Collection[int],
        origin: Origin,
        **options: Any,
    ) -> None:
        self.task = task
        self.chat_template = chat_template
        self.stop_ids = frozenset(stop_ids)
        self.origin = origin
        args = options["args"]
        self._tracking = Tracking(args.report_to or (), args, method=task.name)
        with self._tracking.scope():  # some trackers read their settings when they are imported
            super().__init__(**options)
        if args.report_to:
            self.add_callback(self._tracking.callback())

    @property
    def data_report(self) -> DataReport:
        """What became of the rows of the training set."""
        if not isinstance(self.train_dataset, RenderedRows):
            return DataReport()
        return self.train_dataset.report

    @property
    def warnings_seen(self) -> list[dict[str, Json]]:
        """The warnings of this training, each with its step; they are part of the state that is saved."""
        return [dict(record) for record in self.state.log_history if "warning" in record]

    def record_warning(self, step: int, message: str) -> None:
        """Note a warning; it is part of the state that is saved."""
        history: list[Any] = self.state.log_history  # annotated for numbers only
        history.append({"step": step, "warning": message})

    def trained(self) -> Trained:
        """What the model's card says of this training."""
        rows = self.train_dataset
        model: Any = self.model
        return Trained(
            method=self.task.name,
            objective=self.task.settings,
            adapter=adapter_settings(model),
            precision=precision_of(model, self.args.autocast_dtype),
            layout=self.forwards.layout,
            data=self.data_report,
            data_fingerprint=rows.fingerprint() if isinstance(rows, RenderedRows) else "",
            log=self.state.log_history,
            warnings=[str(record["warning"]) for record in self.warnings_seen],
            steps=self.state.global_step,
            seconds=self.seconds if self.state.global_step else 0.0,
        )

    def card(self, *, adapter: bool = False) -> str:
        """The text of the trained model's card.

        Args:
            adapter: Whether it stands beside an adapter, not beside a whole model.
        """
        return write_card(self.trained(), self.args, self.origin, adapter=adapter)

    def finish_tracking(self) -> None:
        """End what trackers leave open, so that the next training of this process gets a run of its own."""
        self._tracking.finish()

    @override
    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """See `ResumableTrainer`; trackers go on with the run that an interrupted training began."""
        checkpoint = checkpoint_to_resume(self._folder, requested=resume_from_checkpoint)
        step = None
        if checkpoint is not None:
            step = TrainerState.load_from_json(str(checkpoint / STATE_FILE)).global_step
        self._tracking.settle(self.callback_handler.callbacks, step)
        with self._tracking.scope():
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; behind a training, too, trackers find their settings."""
        with self._tracking.scope():
            super().log(logs, start_time)

    @override
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save with the chat template of the training and what stops its turns."""
        model: Any = self.model
        tokenizer: Any = self.processing_class
        with (
            as_trained(
                bare_model(model), tokenizer, chat_template=self.chat_template, stop_ids=self.stop_ids
            ),
            quiet(),
        ):  # PEFT looks for the base model on the hub, and says so where it is not there
            super()._save(output_dir, state_dict)

    @override
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model so that plain transformers (PEFT, an adapter) can load it, with a card beside it."""
        super().save_model(output_dir, _internal_call)
        if not _internal_call and self.args.should_save:
            self.save_card(Path(output_dir or self.args.output_dir or "."))

    @override
    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write our card where transformers would write its own, before a push to the hub."""
        if self.is_world_process_zero():
            self.save_card(Path(self.args.output_dir or "."))

    def save_card(self, folder: Path) -> None:
        """Put the card beside a saved model or adapter, whole or not at all; for one process to do."""
        with whole_file(folder / CARD) as file:
            file.write(self.card(adapter=(folder / "adapter_config.json").is_file()))
