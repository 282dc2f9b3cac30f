"""The sections of a configuration that say how models are trained."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from multiturn.errors import ConfigError
from multiturn.pipeline.objectives import Objective, Weighting, check_read
from multiturn.pipeline.section import Count, Fraction, Positive, Section

__all__ = ["LoraSettings", "PreferenceSettings", "Schedule", "SftSettings", "Trackers", "TrainSettings"]

Schedule = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
]
"""Those of transformers' schedules that need no settings of their own."""


def _named(value: object) -> object:
    """Trackers in a list, however they are written; none is None."""
    names = value.split(",") if isinstance(value, str) else value
    if isinstance(names, list | tuple):
        names = [name.strip() if isinstance(name, str) else name for name in names]
    return None if names in (None, [], ["none"]) else names


def _known_trackers(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if names:
        from multiturn.training.trackers import tracker_names  # loads torch, which few settings need

        try:
            tracker_names(names)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("report_to: ")) from None
    return names


Trackers: TypeAlias = Annotated[
    tuple[str, ...] | None, BeforeValidator(_named), AfterValidator(_known_trackers)
]
"""Names of trackers; that their packages are there is asked when a training begins."""


class LoraSettings(Section):
    """Low-rank adapters instead of full fine-tuning.

    Attributes:
        rank: The adapters' rank.
        alpha: Their scale; null takes twice the rank.
        dropout: Dropout on the adapters' input.
        targets: Module names, or ``all-linear``.
        quantization: ``nf4`` keeps the model's own weights in 4 bits while the adapter is trained (QLoRA). It
            needs a CUDA GPU and bitsandbytes. Null keeps them as they are.
    """

    rank: Count = 16
    alpha: Count | None = None
    dropout: Fraction = 0.0
    targets: str | tuple[str, ...] = "all-linear"
    quantization: Literal["nf4"] | None = None


class TrainSettings(Section):
    """What SFT and preference training have in common.

    Attributes:
        learning_rate: The peak learning rate.
        epochs: Passes over the data; fractions are allowed.
        batch_size: Rows (trajectories or pairs) to an optimizer step.
        micro_batch_size: Rows to a forward pass, a divisor of ``batch_size``; null takes the whole batch.
        schedule: How the learning rate goes after the warm-up, by transformers' name for it.
        warmup: The fraction of steps spent warming up.
        weight_decay: AdamW's weight decay.
        max_grad_norm: Gradients are clipped to this norm.
        max_length: Tokens in a conversation at most; null takes the model's own limit.
        overlong: What happens to longer ones.
        lora: Adapters, or null for full fine-tuning.
        gradient_checkpointing: Trades time for memory.
        layout: ``forest`` (shared prefixes stand once), ``packed``, ``padded``, or ``auto``: a forest where
            the model takes one.
        head: ``fused`` (log-probabilities without logits), ``logits``, or ``auto``.
        max_tokens_per_batch: Tokens of a forward pass at most, shared ones counted once, padding not; it
            takes the place of ``micro_batch_size``.
        keep_tasks_together: Whether rows with the same prompt come in the same optimizer step.
        checkpoints: How many checkpoints are spread over a training, so that a killed one loses little.
        report_to: Trackers that follow the training: ``tensorboard``, ``wandb``, ``trackio``, ``mlflow``
            and more, one or a list; null (or ``none``) for none. See ``docs/training.md``.
    """

    learning_rate: Positive
    epochs: Positive = 3.0
    batch_size: Count = 32
    micro_batch_size: Count | None = None
    schedule: Schedule = "cosine"
    warmup: Fraction = 0.03
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    max_grad_norm: Positive = 1.0
    max_length: Count | None = None
    overlong: Literal["error", "drop", "cut"] = "error"
    lora: LoraSettings | None = None
    gradient_checkpointing: bool = False
    layout: Literal["auto", "forest", "packed", "padded"] = "auto"
    head: Literal["auto", "fused", "logits"] = "auto"
    max_tokens_per_batch: Count | None = None
    keep_tasks_together: bool = True
    checkpoints: Annotated[int, Field(ge=0)] = 4
    report_to: Trackers = None

    @property
    def rows_at_once(self) -> int:
        """Rows to a forward pass, as many as the batch has at most."""
        return min(self.micro_batch_size or self.batch_size, self.batch_size)

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        # Found out here, and not by the training that comes after hours of exploration.
        if self.batch_size % self.rows_at_once:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of micro_batch_size {self.micro_batch_size}; "
                "change either"
            )
        return self


class SftSettings(TrainSettings):
    """Supervised fine-tuning on expert trajectories.

    Attributes:
        tasks: How many of the expert's successful trajectories to use; null takes all.
    """

    learning_rate: Positive = 1e-5
    batch_size: Count = 64
    tasks: Count | None = None


class PreferenceSettings(TrainSettings):
    """Preference training, common to all methods; a method may override any of it.

    Attributes:
        objective: A key of `multiturn.pipeline.objectives.OBJECTIVES`, or ``module:objective``. ``sft`` is
            the control, which learns the chosen side of every pair and nothing of the rejected one: what the
            others gain over it comes from the preference, not from more demonstrations.
        beta: The strength of the constraint to the reference; 2 to 10 for ``simpo``, which has none.
        gamma: The discount of a turn, for the weightings ``phi`` and ``exponential``.
        weighting: ``phi``, ``uniform``, ``exponential``, ``last`` or ``module:function``; null takes the
            objective's own.
        label_smoothing: The share of swapped pairs, for ``cdpo`` and ``robust``; null takes 0.1.
        target_margin: The lead in reward that ``simpo`` aims at; null takes 0.5.
        chosen_nll: The weight of the chosen side's negative log-likelihood beside the pairwise loss; the
            paper has none.
        reference: ``cached`` (computed once, kept on disk), ``live`` (a frozen second model at every step),
            ``adapter-off`` (the policy without its adapter at every step), or ``auto``: cached.
    """

    learning_rate: Positive = 1e-6
    schedule: Schedule = "constant_with_warmup"
    warmup: Fraction = 0.1
    objective: Objective = "dmpo"
    beta: Positive = 0.1
    gamma: Fraction = 0.7
    weighting: Weighting | None = None
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] | None = None
    target_margin: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None
    chosen_nll: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    reference: Literal["auto", "cached", "live", "adapter-off"] = "auto"

    @model_validator(mode="after")
    def _read(self) -> Self:
        check_read(self.objective, self.model_dump())
        return self
