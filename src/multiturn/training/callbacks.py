"""What watches a training: the progress bar, the check of the gradients, the watch for collapse."""

from __future__ import annotations

import contextlib
import logging
import math
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from multiturn.errors import TrainingError
from multiturn.progress import progress
from multiturn.training.processes import gradient_norm, in_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from multiturn.progress import Bar

__all__ = ["CollapseWatch", "GradientCheck", "ProgressBar"]

logger = logging.getLogger(__name__)

SMOOTHING: Final = 0.8
"""How much of the smoothed log-ratio one optimizer step keeps: about five steps are averaged."""
_COLLAPSE: Final = "collapse:"
"""How its warning begins."""
FIRST_VERDICT: Final = 3
"""Optimizer steps before the watch for collapse says anything."""


class ProgressBar(TrainerCallback):
    """Shows rows done, an ETA and the latest loss; rows are counted by the trainer itself.

    Args:
        label: What is being trained, for example ``"DMPO"``.
        rows: The number of rows that all epochs hold, and how many of them a step count stands for.
    """

    def __init__(self, label: str, rows: Callable[[TrainerState], tuple[int, int]]) -> None:
        self._label = label
        self._rows = rows
        self._stack = contextlib.ExitStack()
        self._bar: Bar | None = None
        self._done = 0
        self._note: str | None = None

    def advance(self, rows: int) -> None:
        """Count rows that went through a forward and a backward pass."""
        self._done += rows
        if self._bar is not None:
            self._bar.advance(rows, note=self._note)

    def close(self) -> None:
        """End the bar, also after an exception."""
        self._stack.close()
        self._bar = None

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Open the bar."""
        total, done = self._rows(state)
        self._done = done
        quiet = args.disable_tqdm is True or not state.is_world_process_zero
        self._bar = self._stack.enter_context(progress(self._label, total=total, done=done, quiet=quiet))

    @override
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count what other processes have done of the step."""
        self.advance(self._rows(state)[1] - self._done)

    @override
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Remember what to show behind the bar."""
        shown = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}
        parts = [f"{text} {logs[name]:.3g}" for name, text in shown.items() if logs and name in logs]
        if parts:
            self._note = ", ".join(parts)
            self.advance(0)


class GradientCheck(TrainerCallback):
    """Refuses an optimizer step whose gradient is not finite.

    Args:
        rows_of_step: Names the rows of the current step.
    """

    def __init__(self, rows_of_step: Callable[[], str]) -> None:
        self._rows_of_step = rows_of_step

    @override
    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module | None = None,
        **_: Any,
    ) -> None:
        """Check the norm.

        Raises:
            TrainingError: It is not finite.
        """
        # float16's loss scaling skips such steps by itself.
        if model is None or getattr(args, "autocast_dtype", None) == torch.float16:
            return
        if not math.isfinite(gradient_norm(model)):
            raise TrainingError(
                f"the gradient is not finite in step {state.global_step + 1} (rows {self._rows_of_step()}); "
                "nothing of this step was kept. Lower the learning rate, or look at these rows"
            )


class CollapseWatch(TrainerCallback):
    """Warns once when the policy unlearns the chosen actions themselves.

    A preference loss only sees differences: it can fall while chosen and rejected both become ever less
    likely, the chosen merely more slowly. The watch follows the chosen log-ratio for each turn in nats: the
    mean over the turns of a step, then an exponential average over steps.

    Args:
        threshold: Nats for each turn below which it warns.
        record: Called once with the step and the message.
    """

    def __init__(self, threshold: float, record: Callable[[int, str], None]) -> None:
        self._threshold = threshold
        self._record = record
        self._start(warned=False)

    def _start(self, *, warned: bool) -> None:
        self._nats = torch.zeros(())
        self._turns = 0
        self._smoothed = 0.0
        self._steps = 0
        self._warned = warned

    def add(self, logratios: torch.Tensor, turns: int) -> None:
        """Take in a micro-batch: the chosen log-ratios of its pairs, ``[B]``, and their turns in all."""
        nats = logratios.detach().sum()
        self._nats = nats + self._nats.to(nats)
        self._turns += turns

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Watch afresh; a training that is gone on with may have had its warning before."""
        warnings = [str(record.get("warning", "")) for record in state.log_history]
        self._start(warned=any(warning.startswith(_COLLAPSE) for warning in warnings))

    @override
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Judge after each optimizer step."""
        # A step's turns are spread over the processes; all of them come to the same verdict.
        nats, turns = in_all(torch.stack([self._nats, torch.full_like(self._nats, self._turns)])).tolist()
        self._nats, self._turns = torch.zeros_like(self._nats), 0
        if not turns:
            return
        mean = nats / turns
        self._steps += 1
        self._smoothed = SMOOTHING * self._smoothed + (1.0 - SMOOTHING) * mean
        smoothed = self._smoothed / (1.0 - SMOOTHING**self._steps)  # no bias towards the start at 0
        if self._warned or self._steps < FIRST_VERDICT or smoothed >= -self._threshold:
            return
        self._warned = True
        message = (
            f"{_COLLAPSE} by step {state.global_step} the chosen actions have become "
            f"{math.exp(min(-smoothed, 700.0)):.3g} times less likely for each turn than under the reference "
            f"(mean log-ratio {smoothed:.2f} nats a turn). The policy is unlearning what the pairs prefer: "
            "lower the learning rate, train for fewer steps, or raise beta"
        )
        if state.is_world_process_zero:
            logger.warning(message)
        self._record(state.global_step, message)
