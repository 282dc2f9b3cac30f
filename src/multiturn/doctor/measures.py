"""The checks that load the model and measure it: memory and time of the trainings, speed of the replies.

What is predicted is what was measured on a few rows, times how many there will be: `estimates` has the
formulas. Trainings on pairs are predicted before there are pairs, from pairs that share nothing.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch
from transformers import TrainerCallback

from multiturn.agents.base import Request
from multiturn.agents.local import LocalAgent
from multiturn.doctor import estimates, workload
from multiturn.doctor.estimates import MeasuredTraining
from multiturn.doctor.finding import note, ok, problem, warning
from multiturn.doctor.made_up import pairs_like
from multiturn.doctor.surroundings import GIB
from multiturn.memory import available_host_memory, host_memory, peak_host_memory
from multiturn.pipeline import operations
from multiturn.pipeline.methods import PREFERENCE
from multiturn.pipeline.trainings import pair_trainer, sft_trainer
from multiturn.progress import duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from multiturn.agents.base import Reply
    from multiturn.doctor.finding import Finding
    from multiturn.doctor.patient import Patient
    from multiturn.pipeline.config import DecodingSettings
    from multiturn.pipeline.train_settings import PreferenceSettings, TrainSettings
    from multiturn.training.trainer import TurnTrainer
    from multiturn.trajectory import PreferencePair, Trajectory

__all__ = ["decoding", "memory_findings", "pair_training", "sft_training"]

_STEPS: Final = 3
"""Optimizer steps that are run; the first warms up and is not counted."""
_ROWS: Final = 16
"""Rows of a measured step at most."""
_SLOTS: Final = 8
"""Conversations that are answered side by side at most, to see how fast that goes."""
_TIGHT: Final = 0.8
"""A share of the memory beyond which there is little left for longer conversations."""


_RowT = TypeVar("_RowT")
_SettingsT = TypeVar("_SettingsT", bound="TrainSettings")


class _StepEnds(TrainerCallback):
    """Notes when each optimizer step ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """After the optimizer."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def sft_training(patient: Patient) -> Iterator[Finding]:
    """How much time and memory SFT takes."""
    config = patient.config
    rows, settings = _few(_spread(patient, patient.demonstrations), config.sft)
    if not rows:
        return
    free = _room()
    with tempfile.TemporaryDirectory() as folder:
        trainer = sft_trainer(
            config.model,
            rows,
            settings=settings,
            prompt=config.prompt,
            precision=config.precision,
            output=Path(folder),
            steps=_STEPS,
        )
        measured = _measured(trainer, config.sft)
    yield from memory_findings("sft", _predicted(patient, measured, config.sft, sides=1), free)
    if not patient.real:
        yield note(f"a step of SFT on {measured.rows} made-up rows takes {measured.seconds:.2f} s")
        return
    count = workload.demonstrations(config, len(patient.tasks(config.environment.train_split)))
    seconds = estimates.training_seconds(measured, rows=count, epochs=config.sft.epochs)
    yield note(
        f"sft: {count} demonstrations, {config.sft.epochs:g} epochs: about {duration(seconds)} "
        f"({measured.seconds:.2f} s for {measured.rows} rows)",
        seconds=seconds,
        row_seconds=measured.seconds / measured.rows,
    )


def pair_training(patient: Patient) -> Iterator[Finding]:
    """How much time and memory trainings on pairs take; those that differ in neither are measured once."""
    config = patient.config
    known: dict[str, MeasuredTraining] = {}
    free = _room()
    pairs = _pairs(patient)
    for name in config.of_kind(PREFERENCE) if pairs else ():
        settings = config.method(name)
        if settings.objective == "sft":
            yield note(f"methods.{name}: takes what SFT takes for as many rows as there are pairs")
            continue
        key = repr(settings.model_copy(update=_ALIKE))
        first = key not in known
        if first:
            known[key] = _measure_pairs(patient, settings, pairs)
        measured = known[key]
        if first:
            predicted = _predicted(patient, measured, settings, sides=2)
            yield from memory_findings(f"methods.{name}", predicted, free)
        yield _pair_time(patient, name, settings, measured)


_ALIKE: Final[dict[str, Any]] = {
    "objective": "dpo",
    "beta": 0.1,
    "gamma": 0.7,
    "weighting": None,
    "label_smoothing": None,
    "target_margin": None,
    "learning_rate": 1e-6,
    "epochs": 1.0,
    "schedule": "constant",
    "warmup": 0.0,
    "report_to": None,
    "checkpoints": 0,
}
"""Settings that change neither the memory nor the time of a step, all the same."""


def _measure_pairs(
    patient: Patient, settings: PreferenceSettings, pairs: Sequence[PreferencePair]
) -> MeasuredTraining:
    config = patient.config
    few, few_settings = _few(pairs, settings)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pair_trainer(
            config.model,
            few,
            settings=few_settings,
            prompt=config.prompt,
            precision=config.precision,
            output=Path(folder),
            steps=_STEPS,
        )
        return _measured(trainer, settings)


def _pair_time(
    patient: Patient, name: str, settings: PreferenceSettings, measured: MeasuredTraining
) -> Finding:
    config = patient.config
    said = f"{measured.seconds:.2f} s for {measured.rows} pairs"
    count, rough = len(patient.pairs), ""
    if not count and patient.real:
        count = workload.episodes_explored(config, len(patient.tasks(config.environment.train_split)))
        rough = " at most, if each episode makes a pair that shares nothing but its prompt"
    if not count:
        return note(f"methods.{name}: {said}")
    seconds = estimates.training_seconds(measured, rows=count, epochs=settings.epochs) * config.rounds
    rounds = f", {config.rounds} rounds" if config.rounds > 1 else ""
    return note(
        f"methods.{name}: {count} pairs, {settings.epochs:g} epochs{rounds}: about "
        f"{duration(seconds)}{rough} ({said})",
        seconds=seconds,
        row_seconds=measured.seconds / measured.rows,
    )


def decoding(patient: Patient) -> Iterator[Finding]:
    """How fast the model answers, and what follows for exploration and evaluation."""
    config = patient.config
    rows = patient.demonstrations
    if not rows:
        return
    rendered = [patient.renderer.render(row.messages, tools=row.tools) for row in rows]
    turns = statistics.fmean(row.num_turns for row in rendered)
    reply = sum(row.scored_tokens for row in rendered) / sum(row.num_turns for row in rendered)
    speeds: dict[int, float] = {}
    counts = {"explore": 0, "evaluate": 0}
    if patient.real:
        there = {split: len(patient.tasks(split)) for split in config.environment.test_splits}
        train = len(patient.tasks(config.environment.train_split))
        rounds = config.rounds if config.of_kind(PREFERENCE) else 1
        counts["explore"] = workload.episodes_explored(config, train) * rounds
        counts["evaluate"] = workload.episodes_evaluated(config, there)
    for name, settings in (("explore", config.explore), ("evaluate", config.evaluate)):
        slots = min(settings.slots, len(rows), _SLOTS)
        if slots not in speeds:
            speeds[slots] = _token_seconds(patient, settings, rows[:slots])
        speed = f"{1 / speeds[slots]:.0f} tokens/s with {slots} conversations side by side"
        said = min(reply, settings.max_new_tokens)
        figures = {"episodes": counts[name], "token_seconds": speeds[slots]}
        if not counts[name]:
            yield note(f"{name}: {speed}", **figures)
            continue
        most = max(config.environment.max_turns or turns, turns)
        low, high = (
            estimates.rollout_seconds(
                episodes=counts[name],
                turns=each,
                reply_tokens=said,
                token_seconds=speeds[slots],
                turn_seconds=patient.turn_seconds,
            )
            for each in (turns, most)
        )
        longer = f", {duration(high)} if all end at the turn limit" if most > turns else ""
        yield note(
            f"{name}: {counts[name]} episodes of {turns:.1f} turns as the expert's take about "
            f"{duration(low)}{longer} ({speed})",
            seconds=low,
            most_seconds=high,
            **figures,
        )


def memory_findings(name: str, predicted: float, free: float | None) -> Iterator[Finding]:
    """Whether a training has the memory that it will take.

    Args:
        name: The training's key in the configuration.
        predicted: Bytes that it takes.
        free: Bytes that there are for it; None where nobody knows.
    """
    said = f"{name}: takes about {predicted / GIB:.2f} GiB of memory"
    if free is None:
        yield note(said, predicted_bytes=predicted)
        return
    figures = {"predicted_bytes": predicted, "free_bytes": free}
    said += f", of {free / GIB:.1f} that there are"
    remedy = "set max_tokens_per_batch, a smaller micro_batch_size, gradient_checkpointing or lora"
    if predicted > free:
        yield problem(said, remedy, **figures)
    elif predicted > _TIGHT * free:
        yield warning(said, remedy, **figures)
    else:
        yield ok(said, **figures)


def _measured(trainer: TurnTrainer, settings: TrainSettings) -> MeasuredTraining:
    """Train for a few steps."""
    on_gpu = torch.cuda.is_available()
    ends = _StepEnds()
    trainer.add_callback(ends)
    model: Any = trainer.model
    held = float(torch.cuda.memory_allocated() if on_gpu else host_memory())
    held += workload.TRAINED * sum(p.numel() for p in model.parameters() if p.requires_grad)
    rows: Sequence[Any] = trainer.train_dataset.rows  # type: ignore[union-attr]
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    lengths = sorted((sum(len(s.token_ids) for s in row.sequences) for row in rows), reverse=True)
    tokens = sum(lengths[: settings.rows_at_once])
    once = getattr(settings, "reference", None) in ("auto", "cached")  # others are part of every step
    if settings.max_tokens_per_batch is not None:
        tokens = min(sum(lengths), settings.max_tokens_per_batch)
    measured = MeasuredTraining(
        rows=len(rows),
        seconds=statistics.median(after - before for before, after in itertools.pairwise(ends.times)),
        reference_seconds=trainer.clock.seconds()["reference"] if once else 0.0,
        held=held,
        peak=float(torch.cuda.max_memory_allocated() if on_gpu else peak_host_memory()),
        pass_tokens=tokens,
    )
    gc.collect()
    return measured


def _predicted(patient: Patient, measured: MeasuredTraining, settings: TrainSettings, *, sides: int) -> float:
    """The memory of a pass that is as large as the settings allow."""
    tokens = settings.max_tokens_per_batch
    if tokens is None:
        longest = max(_length(patient, row) for row in patient.demonstrations)
        tokens = settings.rows_at_once * sides * min(longest, settings.max_length or longest)
    return estimates.peak_memory(measured, pass_tokens=tokens)


def _token_seconds(patient: Patient, settings: DecodingSettings, rows: Sequence[Trajectory]) -> float:
    """The seconds of a token of second replies, which read on where the first ones ended.

    So a conversation's beginning, which is read once for an episode, does not count for every turn.
    """
    agent = LocalAgent(
        operations.load_model(patient.config.model),
        capacity=len(rows),
        max_new_tokens=settings.max_new_tokens,
        chat_template=patient.config.prompt.chat_template,
        max_context=settings.max_context,
    )
    with contextlib.closing(agent):
        for turn in (0, 1):
            for slot, row in enumerate(rows):
                starts = [i for i, message in enumerate(row.messages) if message.role == "assistant"]
                messages = row.messages[: starts[min(turn, len(starts) - 1)]]
                agent.submit(Request(slot=slot, messages=messages, seed=slot))
            began = time.perf_counter()
            replies: list[Reply] = []
            while len(replies) < len(rows):
                replies += agent.poll()
            seconds = time.perf_counter() - began
    written = sum(len(reply.message.token_ids or ()) for reply in replies if reply.message is not None)
    return seconds / max(1, written)


def _pairs(patient: Patient) -> list[PreferencePair]:
    """A few of the run's pairs; before there are any, the worst that may be made of its demonstrations."""
    if patient.pairs:
        return patient.pairs[:: max(1, len(patient.pairs) // _ROWS)][:_ROWS]
    return pairs_like(_spread(patient, patient.demonstrations))


def _spread(patient: Patient, rows: Sequence[Trajectory]) -> list[Trajectory]:
    """Short ones, long ones, and the longest of all."""
    ordered = sorted(rows, key=lambda row: _length(patient, row), reverse=True)
    return ordered[:: max(1, -(-len(ordered) // _ROWS))]


def _length(patient: Patient, row: Trajectory) -> int:
    return patient.renderer.render(row.messages, tools=row.tools).scored_length


def _room() -> float | None:
    """The memory that a training may take: what is free, and what this process holds, which it would too."""
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    free = available_host_memory()
    return None if free is None else float(free + host_memory())


def _few(rows: Sequence[_RowT], settings: _SettingsT) -> tuple[Sequence[_RowT], _SettingsT]:
    """Rows for one step, and settings that make one of them, in passes as large as they would be."""
    at_once = min(settings.rows_at_once, len(rows))
    count = len(rows) // at_once * at_once if at_once else 0
    update = {"batch_size": count, "micro_batch_size": at_once}
    return rows[:count], settings.model_copy(update=update)
