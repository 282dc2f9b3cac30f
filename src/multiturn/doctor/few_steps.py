"""A few optimizer steps of a run's trainings, on a few of its rows: what they take."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch
from transformers import TrainerCallback

from multiturn.doctor import workload
from multiturn.doctor.estimates import MeasuredTraining
from multiturn.doctor.machine_memory import PeakMemory, held_memory
from multiturn.pipeline.trainings import pair_trainer, sft_trainer
from multiturn.tokens import forest_size
from multiturn.training.reference import Cached, Live

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.doctor.patient import Patient
    from multiturn.doctor.sample import Sample
    from multiturn.pipeline.train_settings import PreferenceSettings, TrainSettings
    from multiturn.training.trainer import TurnTrainer
    from multiturn.trajectory import PreferencePair, Trajectory

__all__ = ["ROWS", "measure_pairs", "measure_sft", "rows_to_measure"]

ROWS: Final = 16
"""Rows of a measured step at most."""
_STEPS: Final = 3
"""Optimizer steps that are run; the first warms up and is not counted."""

_RowT = TypeVar("_RowT", bound="Trajectory | PreferencePair")
_SettingsT = TypeVar("_SettingsT", bound="TrainSettings")


def rows_to_measure(patient: Patient, sample: Sample[_RowT], settings: TrainSettings) -> list[_RowT]:
    """Rows for one measured step: the longest first, then others from long to short.

    So the step has the widest row that the training will have, and is otherwise like its steps. Their number
    is a multiple of the rows of a forward pass. Rows that the training would refuse or drop are left out.

    Args:
        patient: Counts their tokens; those of both sides of a pair.
        sample: What there is to choose from.
        settings: Of the training.

    Returns:
        At most `ROWS`; none where no row fits.
    """
    limit = patient.facts.context if settings.max_length is None else settings.max_length
    sized: list[tuple[int, _RowT]] = []
    for row, sides in patient.counted(sample.rows):
        lengths = [side.length for side in sides]
        if limit is not None and max(lengths) > limit:
            if settings.overlong != "cut":
                continue
            lengths = [min(length, limit) for length in lengths]
        sized.append((sum(lengths), row))
    if not sized:
        return []
    sized.sort(key=lambda each: -each[0])
    spread = {id(row) for row in sample.spread}
    (_, longest), *others = sized
    usual = [row for _, row in others if id(row) in spread]
    count = min(ROWS, 1 + len(usual))
    at_once = min(settings.rows_at_once, count)
    more = count // at_once * at_once - 1
    return [longest, *[usual[place * len(usual) // more] for place in range(more)]]


def measure_sft(patient: Patient, rows: Sequence[Trajectory]) -> MeasuredTraining:
    """Run a few steps of SFT.

    Args:
        patient: The run.
        rows: The demonstrations of each step, at least one.
    """
    config = patient.config
    with tempfile.TemporaryDirectory() as folder:
        trainer = sft_trainer(
            config.model,
            rows,
            settings=_for_one_step(config.sft, len(rows)),
            prompt=config.prompt,
            precision=config.precision,
            output=Path(folder),
            steps=_STEPS,
        )
        return _measured(trainer)


def measure_pairs(
    patient: Patient, settings: PreferenceSettings, rows: Sequence[PreferencePair]
) -> MeasuredTraining:
    """Run a few steps of a training on pairs.

    Args:
        patient: The run.
        settings: Of the training; the objective is not ``sft``.
        rows: The pairs of each step, at least one.
    """
    config = patient.config
    with tempfile.TemporaryDirectory() as folder:
        trainer = pair_trainer(
            config.model,
            rows,
            settings=_for_one_step(settings, len(rows)),
            prompt=config.prompt,
            precision=config.precision,
            output=Path(folder),
            steps=_STEPS,
        )
        return _measured(trainer)


def _for_one_step(settings: _SettingsT, rows: int) -> _SettingsT:
    """Settings that make one step of so many rows, in passes as large as they would be."""
    # All rows fit. A pair made up of one is a word longer, which is to be no reason to stop.
    update = {"batch_size": rows, "micro_batch_size": min(settings.rows_at_once, rows), "overlong": "cut"}
    return settings.model_copy(update=update)


def _measured(trainer: TurnTrainer) -> MeasuredTraining:
    ends = _StepEnds()
    trainer.add_callback(ends)
    model: Any = trainer.model
    held = held_memory() + workload.TRAINED * sum(p.numel() for p in model.parameters() if p.requires_grad)
    if isinstance(trainer.reference, Live):
        held += sum(p.numel() * p.element_size() for p in model.parameters())  # copied when it begins
    with PeakMemory() as peak:
        trainer.train()
    rows: Sequence[Any] = trainer.train_dataset.rows  # type: ignore[union-attr]
    stored = isinstance(trainer.reference, Cached)  # others are part of every step
    return MeasuredTraining(
        rows=len(rows),
        seconds=statistics.median(after - before for before, after in itertools.pairwise(ends.times)),
        reference_seconds=trainer.clock.seconds()["reference"] if stored else 0.0,
        held=held,
        peak=peak.bytes,
        pass_tokens=max(_tokens(trainer, each) for each in _passes(trainer)),
        row_tokens=max(_tokens(trainer, [row]) for row in rows),
    )


def _passes(trainer: TurnTrainer) -> list[list[Any]]:
    """The rows of each forward pass of a step, as the training has made them."""
    batches = list(trainer.get_train_dataloader())
    if trainer.forwards.max_tokens is not None:  # a budget splits the rows of the whole step
        batches = [[each for batch in batches for each in batch]]
    passes = [each for batch in batches for each in trainer.forwards.passes(batch)]
    return [[row for _, row in each] for each in passes]


def _tokens(trainer: TurnTrainer, rows: Sequence[Any]) -> int:
    """The tokens of rows in one pass: as a token budget counts them where there is one, else all."""
    share = trainer.forwards.max_tokens is not None and trainer.forwards.share
    return forest_size([sequence for row in rows for sequence in row.sequences], share=share)


class _StepEnds(TrainerCallback):
    """Notes when each optimizer step ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """After the optimizer."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
