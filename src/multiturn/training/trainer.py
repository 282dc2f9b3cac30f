"""The trainer behind SFT, DMPO and trajectory DPO: one forward pass, any objective of per-turn sums."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from transformers import PrinterCallback, ProgressCallback
from typing_extensions import override

from multiturn.errors import TrainingError
from multiturn.training.callbacks import CollapseWatch, GradientCheck, ProgressBar
from multiturn.training.data import RenderedRows
from multiturn.training.metrics import MetricMeans, refuse_non_finite
from multiturn.training.model_card import Origin
from multiturn.training.reporting import ReportingTrainer
from multiturn.training.setup import longest_of, recompute_activations, render_sets, require_trainable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerState
    from transformers.trainer_utils import EvalLoopOutput

    from multiturn.objective import ObjectiveOutput
    from multiturn.tokens import Rendered
    from multiturn.training.batch import MicroBatch
    from multiturn.training.config import TurnTrainingArguments
    from multiturn.training.data import RenderedRow
    from multiturn.training.objectives import Task
    from multiturn.training.reference import Reference
    from multiturn.trajectory import Json

__all__ = ["Optimizers", "TurnTrainer"]

logger = logging.getLogger(__name__)

Optimizers: TypeAlias = "tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None]"
"""An optimizer and a schedule of the user's own."""


class TurnTrainer(ReportingTrainer):
    """A `transformers.Trainer` whose loss is a function of per-turn log-probability sums.

    Every row of an optimizer step counts by the task's own measure (a pair as one, a trajectory for SFT by
    its scored tokens) over the whole accumulated batch, so 1 x 8 and 8 x 1 give the same gradient.

    Args:
        model: The policy with its initial weights, also when a checkpoint will be resumed.
        args: The settings.
        task: The objective.
        train_dataset: Rendered rows to train on.
        eval_dataset: Rendered rows to evaluate on, or several sets by name.
        processing_class: The tokenizer, saved with every checkpoint.
        reference: Where the reference's log-probabilities come from; for tasks that need it.
        render: Renders rows that `evaluate` is given raw.
        chat_template: The Jinja text the policy is trained with, where it is not the tokenizer's own; it is
            saved with the trained model.
        stop_ids: The token ids that end a turn under it; the saved generation settings stop there.
        origin: What the model is trained from; its fingerprint guards resuming.
        collapse_warning_nats: See `DMPOConfig`; None watches nothing.
        callbacks: Further callbacks.
        optimizers: An optimizer and a schedule of your own.

    Raises:
        TrainingError: No row is left to train on.
    """

    args: TurnTrainingArguments

    def __init__(
        self,
        model: PreTrainedModel,
        args: TurnTrainingArguments,
        *,
        task: Task,
        train_dataset: RenderedRows[Any] | None,
        eval_dataset: RenderedRows[Any] | dict[str, RenderedRows[Any]] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        reference: Reference | None = None,
        render: Callable[[Any], RenderedRows[Any]] | None = None,
        chat_template: str | None = None,
        stop_ids: Collection[int] = (),
        origin: Origin | None = None,
        collapse_warning_nats: float | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: Optimizers = (None, None),
    ) -> None:
        if train_dataset is not None and len(train_dataset) == 0:
            raise TrainingError(f"nothing is left to train on: {train_dataset.report.describe()}")
        incomplete = train_dataset is not None and (train_dataset.report.dropped or train_dataset.report.cut)
        if train_dataset is not None and incomplete and args.process_index == 0:
            logger.warning("%s: %s", task.name, train_dataset.report.describe())
        self.reference = reference
        self._render = render
        self._means = {"train": MetricMeans(), "eval": MetricMeans()}
        self._step_ids: list[str] = []
        self._early_warnings: list[str] = []
        self._use_cache = getattr(model.config, "use_cache", True)
        if args.n_gpu > 1:
            # torch's DataParallel would split a batch in ways that the per-turn sums cannot follow.
            args._n_gpu = 1
        super().__init__(
            task=task,
            chat_template=chat_template,
            stop_ids=stop_ids,
            origin=origin or Origin(),
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        # `compute_loss` divides by what the whole accumulated batch holds; the base class must not as well.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self._bar = ProgressBar(task.name, self._rows_in_all)
        self.add_callback(self._bar)
        self.add_callback(GradientCheck(lambda: ", ".join(self._step_ids)))
        self._watch: CollapseWatch | None = None
        if collapse_warning_nats is not None:
            self._watch = CollapseWatch(collapse_warning_nats, self.record_warning)
            self.add_callback(self._watch)

    # ---- training ----

    @override
    def before_training(self) -> None:
        """Settle how the model is run, and compute the reference's log-probabilities that are stored."""
        require_trainable(self.model)
        self._means["train"].clear()  # of an earlier training, one that was broken off for example
        self.before_wrapping()
        if not self.sharded:
            recompute_activations(self.model, self.args)
            self._make_ready(self.model)

    @override
    def before_wrapping(self) -> None:
        """A live reference is a copy of the model that is not wrapped."""
        super().before_wrapping()
        model: Any = self.model
        if self.reference is not None and self.sharded:
            self.reference.keep(model)

    @override
    def before_first_step(self) -> None:
        """The same for engines whose model only runs wrapped."""
        if self.sharded:
            self._make_ready(self.model_wrapped)
        # Training has begun a record of its own, or loaded the one of a checkpoint.
        for message in self._early_warnings:
            if message not in [record["warning"] for record in self.warnings_seen]:
                self.record_warning(self.state.global_step, message)
        self._early_warnings.clear()

    def _make_ready(self, model: Any) -> None:
        self._settle(model, self.train_dataset, gradients=True)
        with self.clock.phase("reference"):
            self._prepare_reference(model, self.train_dataset)
            self._prepare_reference(model, self.eval_dataset)

    def _settle(self, model: Any, rows: Any, *, gradients: bool) -> None:
        """Settle how the model is run, with a check on some of the rows."""
        first = next(iter(rows.values()), None) if isinstance(rows, dict) else rows
        shown = first if isinstance(first, RenderedRows) and first.rows else None
        problem = self.forwards.settle(
            model, shown, longest=longest_of(rows, self.eval_dataset), gradients=gradients
        )
        if problem is not None:
            if self.is_world_process_zero():
                logger.warning(problem)
            self._early_warnings.append(problem)

    @override
    def after_training(self) -> None:
        """End the bar; leave the model without the autocast wrapper and able to use its cache again."""
        self._bar.close()
        super().after_training()
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        model: Any = self.model
        model.config.use_cache = self._use_cache

    @override
    def count(self, row: RenderedRow) -> int:
        """As the objective counts."""
        return self.task.count(row)

    @override
    def stored(self, sequences: Sequence[Rendered]) -> Tensor | None:
        """What the reference has stored."""
        return None if self.reference is None else self.reference.stored(sequences)

    @override
    def identity(self) -> dict[str, Json]:
        """Initial weights, data, objective, seed and rows of a step."""
        rows = self.train_dataset
        return {
            "model": self.origin.fingerprint,
            "data": rows.fingerprint() if isinstance(rows, RenderedRows) else "",
            "task": repr(self.task),
            "seed": self.args.seed,
            "rows_per_step": self.rows_per_step,
        }

    @override
    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """See `PassTrainer`."""
        self._step_ids.clear()
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    @override
    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of the passes of one entry."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.num_processes == 1:  # the bar counts the rows of several at the end of a step
            self._bar.advance(sum(len(micro.ids) for micro in inputs))
        return loss

    @override
    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This pass's share of the loss of its optimizer step.

        Raises:
            TrainingError: A row's loss is not finite.
        """
        self._step_ids += inputs.ids
        output = self._score(model, inputs)
        self._means["train"].add(output)
        if self._watch is not None and "logratios/chosen" in output.metrics:
            rows = len(inputs.ids)
            counted = inputs.weights.cpu() * inputs.num_turns[:rows]
            self._watch.add(output.metrics["logratios/chosen"] * inputs.weights, int(counted.sum()))
        total = (output.losses * output.counts).sum()
        items = output.counts.sum() if num_items_in_batch is None else num_items_in_batch
        # Gradients are averaged over processes, and each holds only a part of the sum.
        loss = total / items * self.accelerator.num_processes
        self.time_backward()
        return (loss, {"output": output}) if return_outputs else loss

    # ---- evaluation ----

    @override
    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """The loss and every metric of training on a dataset, their names prefixed.

        Args:
            eval_dataset: Rows, rendered or not, or the name of one of the evaluation sets; None takes what
                the trainer was given.
            ignore_keys: Passed on.
            metric_key_prefix: The prefix.
        """
        ours: Any = self.eval_dataset
        if self._render is not None and not isinstance(eval_dataset, str):
            eval_dataset = render_sets(eval_dataset, self._render)
        rows = ours[eval_dataset] if isinstance(eval_dataset, str) else eval_dataset
        alone = not self.forwards.settled
        self.wrap_for_evaluation()
        model: Any = self.model
        rows = ours if rows is None else rows
        self._settle(model, rows, gradients=False)
        try:
            self._prepare_reference(model, rows)
            metrics: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        finally:
            self.reshard()
            if alone:
                self.forwards.release()
        return metrics

    @override
    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate; means are over rows (or tokens), not over batches."""
        self._means["eval"].clear()
        result = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        means = self._means["eval"].take(self.accelerator)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in means.items()}
        return result._replace(metrics={**(result.metrics or {}), **metrics})

    @override
    def prediction_step(
        self,
        model: nn.Module,
        inputs: Any,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, None, None]:
        """The loss of one batch; the metrics are gathered on the way."""
        with torch.no_grad():
            output = self._score(model, self._prepare_inputs(self.micro_batch(inputs)))
        self._means["eval"].add(output)
        return output.loss.detach(), None, None

    # ---- logging ----

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; a training record gets the means over the rows of its steps."""
        if "loss" in logs:
            means = self._means["train"].take(self.accelerator)
            means.pop("loss", None)
            logs |= means
        super().log(logs, start_time)

    # ---- rows ----

    def _rows_in_all(self, state: TrainerState) -> tuple[int, int]:
        """Rows of the whole training, and rows behind the steps done."""
        return self.rows_behind(state.max_steps), self.rows_behind(state.global_step)

    def _score(self, model: nn.Module, micro: MicroBatch) -> ObjectiveOutput:
        """Run the policy (and a live reference) on a batch and the objective on their per-turn sums."""
        with self.accelerator.autocast():
            with self.clock.phase("forward"):
                policy = self.forwards.logps(model, micro)
            reference = micro.reference
            if reference is None and self.reference is not None:
                with self.clock.phase("reference"):
                    reference = self.reference.live(
                        self.accelerator.unwrap_model(model),
                        lambda scored: self.forwards.logps(scored, micro),
                    )
        output = self.task.score(policy, reference, micro.num_turns, micro.num_tokens)
        output = dataclasses.replace(output, counts=output.counts * micro.weights.to(output.counts))
        when = f"step {self.state.global_step + 1}" if model.training else "the evaluation"
        refuse_non_finite(output, reference, micro.ids, name=self.task.name, when=when)
        return output

    def _prepare_reference(self, model: Any, rows: Any) -> None:
        if self.reference is None or rows is None:
            return
        for dataset in rows.values() if isinstance(rows, dict) else [rows]:
            self.reshard()  # so that weights have their own precision, by which sums are kept
            self.reference.prepare(model, dataset, self.forwards, initial=self.state.global_step == 0)
