"""A trainer whose optimizer steps are made of forward and backward passes over laid-out rows."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from multiturn.errors import TrainingError
from multiturn.progress import duration, tell
from multiturn.training.clock import StepClock
from multiturn.training.data import RenderedRows
from multiturn.training.engines import EngineTrainer
from multiturn.training.forwards import Forwards
from multiturn.training.sampling import StepSampler, eval_sampler, train_sampler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn
    from torch.utils.data import Sampler

    from multiturn.tokens import Rendered
    from multiturn.training.batch import MicroBatch
    from multiturn.training.config import TurnTrainingArguments
    from multiturn.training.data import RenderedRow
    from multiturn.trajectory import Json

__all__ = ["PassTrainer"]


class PassTrainer(EngineTrainer):
    """Splits the rows of each optimizer step into passes, runs them, and knows where time and tokens went.

    Attributes:
        args: The settings.
        forwards: How the model is run.
        clock: Where the time goes.
        total_tokens: Tokens of the sequences that were trained on in this process, without padding and
            fillers.
        computed_tokens: Tokens that the model was given for them: fewer where prefixes are shared, more where
            rows are padded.
    """

    args: TurnTrainingArguments
    total_tokens = 0
    computed_tokens = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(data_collator=_collected, **options)
        args = self.args
        self.forwards = Forwards(args.layout, args.head, args.max_tokens_per_batch, self.accelerator)
        self.clock = StepClock(args.device)
        self._open = contextlib.ExitStack()  # the phase that is being timed, where no block can hold it
        self._sampler: StepSampler | None = None
        self.add_callback(_StepWatch(self.before_first_step, self._enter_epoch, self._open))

    def count(self, row: RenderedRow) -> int:
        """What a row counts for in the mean over a step."""
        raise NotImplementedError

    def before_first_step(self) -> None:
        """Called when the model is wrapped and ready to run."""

    def stored(self, sequences: Sequence[Rendered]) -> Tensor | None:
        """The reference's sums ``[S, T]`` where they are known before the pass."""
        raise NotImplementedError

    @property
    def timing(self) -> dict[str, Json]:
        """Seconds of each phase, and tokens, of this process."""
        return {
            **{name: round(seconds, 3) for name, seconds in self.clock.seconds().items()},
            "layout": self.forwards.layout,
            "total_tokens": self.total_tokens,
            "computed_tokens": self.computed_tokens,
        }

    @override
    def after_training(self) -> None:
        """Say where the time went."""
        self._open.close()
        self.forwards.release()
        seconds = self.clock.seconds()
        spent = sum(seconds.values())
        if not spent or not self.total_tokens or not self.is_world_process_zero():
            return
        shares = ", ".join(f"{name} {value / spent:.0%}" for name, value in seconds.items())
        saved = 1.0 - self.computed_tokens / self.total_tokens
        if self.forwards.layout == "padded":
            tokens = f"padding added {-saved:.0%} to the tokens"
        else:
            tokens = f"{saved:.0%} of the tokens were shared"
        tell(f"{duration(spent)} of computation: {shares}; {tokens}", quiet=bool(self.args.disable_tqdm))

    # ---- a step ----

    @override
    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """The passes of one optimizer step, and what its rows count for together, over all processes.

        The base class expects one entry for each batch of the loader. With a token budget the passes of all
        rows are in the last one.
        """
        with self.clock.phase("data"):
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
            rows = [row for batch in batches for row in batch]
            items = torch.tensor(
                sum(int(weight) * self.count(row) for weight, row in rows), dtype=torch.int64, device=device
            )
            if self.forwards.max_tokens is not None and batches:
                batches = [*([[]] * (len(batches) - 1)), rows]
            passes = [[self.micro_batch(p) for p in self.forwards.passes(b)] if b else [] for b in batches]
        if self.accelerator.num_processes > 1:
            items = self.accelerator.gather(items).sum()
        return passes, items

    def micro_batch(self, rows: Sequence[tuple[float, RenderedRow]]) -> MicroBatch:
        """Rows, each with its weight, laid out, with what is known of the reference."""
        return self.forwards.micro_batch(rows, self.stored)

    @override
    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of the passes of one entry.

        Raises:
            TrainingError: The memory does not hold a pass; the message says what to change.
        """
        loss = torch.zeros((), device=self.args.device)
        last = self.accelerator.sync_gradients
        for index, micro in enumerate(inputs):
            with self._accumulating(model) if index < len(inputs) - 1 else contextlib.nullcontext():
                try:
                    loss = loss + super().training_step(model, micro, num_items_in_batch)
                except (RuntimeError, MemoryError) as error:
                    if not _is_full(error):
                        raise
                    raise TrainingError(_full_memory(micro)) from error
                finally:
                    self._open.close()
            self.total_tokens += micro.total_tokens
            self.computed_tokens += micro.computed_tokens
        if last:
            self._open.enter_context(self.clock.phase("optimizer"))
        return loss

    def time_backward(self) -> None:
        """Called when the loss of a pass is there: what follows until the pass ends is its backward pass."""
        self._open.enter_context(self.clock.phase("backward"))

    @contextlib.contextmanager
    def _accumulating(self, model: nn.Module) -> Iterator[None]:
        """Take no step, and keep gradients in their process where that is wanted: another pass follows."""
        state: Any = self.accelerator.gradient_state
        before, accumulating = state.sync_gradients, False
        state._set_sync_gradients(accumulating)
        try:
            with contextlib.nullcontext() if self.reduces_every_pass else self.accelerator.no_sync(model):
                yield
        finally:
            state._set_sync_gradients(before)

    @override
    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs.to(self.args.device)

    @override
    def floating_point_ops(self, inputs: Any) -> int:
        """Six for each computed token and parameter of the layers; attention is not in it."""
        model: Any = self.model
        tokens = sum(micro.computed_tokens for micro in inputs)
        return 6 * int(tokens) * int(model.num_parameters(exclude_embeddings=True))

    @override
    def _track_num_input_tokens(self, inputs: Any) -> None:
        tokens = torch.tensor(sum(micro.total_tokens for micro in inputs), device=self.args.device)
        gathered: Any = self.accelerator.gather(tokens)
        self.state.num_input_tokens_seen += int(gathered.sum())

    # ---- rows ----

    @property
    def rows_per_step(self) -> int:
        """Rows of an optimizer step, over all processes."""
        processes: int = self.accelerator.num_processes
        return self.args.train_batch_size * self.args.gradient_accumulation_steps * processes

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; the last may have fewer rows."""
        rows = len(self.train_dataset) if isinstance(self.train_dataset, RenderedRows) else 0
        return max(1, -(-rows // self.rows_per_step))

    def rows_behind(self, steps: int) -> int:
        """The rows of all epochs that so many steps have trained on."""
        rows = len(self.train_dataset) if isinstance(self.train_dataset, RenderedRows) else 0
        epochs, more = divmod(steps, self.steps_per_epoch)
        return epochs * rows + min(more * self.rows_per_step, rows)

    @override
    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        rows = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(rows, RenderedRows):
            sampler: Sampler[int] | None = super()._get_train_sampler(train_dataset)
            return sampler
        self._sampler = train_sampler(
            rows,
            self.args,
            rows_per_step=self.rows_per_step,
            processes=self.accelerator.num_processes,
            share=self.forwards.share,
        )
        return self._sampler

    def _enter_epoch(self, steps: int) -> None:
        """Tell the sampler its epoch; with several processes a loader that resumes within one does not."""
        if self._sampler is not None:
            self._sampler.set_epoch(steps // self.steps_per_epoch)

    @override
    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int] | None:
        if self.accelerator.num_processes == 1 or not isinstance(eval_dataset, RenderedRows):
            sampler: Sampler[int] | None = super()._get_eval_sampler(eval_dataset)
            return sampler
        return eval_sampler(
            eval_dataset,
            batch_size=self.args.eval_batch_size,
            processes=self.accelerator.num_processes,
            share=self.forwards.share,
        )


def _collected(rows: list[Any]) -> Any:
    """Rows stay what they are; what a step gets of them decides how they are laid out."""
    return rows


class _StepWatch(TrainerCallback):
    """Tells the trainer when the first step begins, and ends the phase of the optimizer.

    Args:
        before_first_step: Called before the first step.
        enter_epoch: Called before each epoch with the number of steps done.
        phase: The phase that is timed at the moment; it ends before records and checkpoints are written.
    """

    def __init__(
        self,
        before_first_step: Callable[[], None],
        enter_epoch: Callable[[int], None],
        phase: contextlib.ExitStack,
    ) -> None:
        self._before_first_step = before_first_step
        self._enter_epoch = enter_epoch
        self._phase = phase

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """When the model is wrapped and has its weights."""
        self._before_first_step()

    @override
    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Before the loader is asked for its batches."""
        self._enter_epoch(state.global_step)

    @override
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """After the optimizer and the schedule."""
        self._phase.close()


def _is_full(error: Exception) -> bool:
    """Whether memory ran out; torch has no class for that on a CPU."""
    text = str(error).lower()
    full = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return full or "out of memory" in text or "can't allocate memory" in text


def _full_memory(micro: MicroBatch) -> str:
    """Which pass did not fit, and what to change."""
    rows, named = len(micro.ids), ", ".join(micro.ids[:8])
    said = (
        f"the memory does not hold a pass over {rows} {'row' if rows == 1 else 'rows'} with "
        f"{micro.computed_tokens} tokens ({named}{', ...' if rows > 8 else ''}); set "
    )
    if rows == 1:
        return said + (
            "gradient_checkpointing=True, which does not change the result, train an adapter (LoRA), or cut "
            "longer rows (max_length with overlong='cut'): a row is not split"
        )
    return said + (
        f"max_tokens_per_batch below {micro.budget_tokens}, or gradient_checkpointing=True. Neither changes "
        "the result: the rows of an optimizer step are only split into more passes"
    )
