"""The checks that load the model and measure it: memory and time of the trainings, of the rollouts, disk.

Times are predictions: what was measured on a few rows, times how many there will be. A prediction for
trainings on pairs is made before there are pairs, so it is rough.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import TrainerCallback

from multiturn.agents.base import Request
from multiturn.agents.local import LocalAgent
from multiturn.doctor.finding import note, ok, problem, warning
from multiturn.memory import available_host_memory, peak_host_memory
from multiturn.pipeline import operations
from multiturn.pipeline.methods import BEST_OF_N
from multiturn.pipeline.trainings import sft_trainer
from multiturn.progress import duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiturn.doctor.finding import Finding
    from multiturn.doctor.patient import Patient
    from multiturn.pipeline.config import Config

__all__ = ["decoding", "disk", "training"]

_STEPS: Final = 3
"""Optimizer steps that are run; the first warms up and is not counted."""
_REPLIES: Final = 4
"""Conversations that are answered side by side to see how fast that goes."""
_TIGHT: Final = 0.8
"""A share of the memory beyond which there is little left for longer conversations."""
_GIB: Final = 2**30
_BYTES_SAVED: Final = 4
"""Bytes that a saved weight takes: float32."""
_BYTES_CHECKPOINT: Final = 12
"""Bytes that a trained weight takes in a checkpoint: itself and the optimizer's two moments."""


class _StepEnds(TrainerCallback):
    """Notes when each optimizer step ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """After the optimizer."""
        self.times.append(time.perf_counter())


def training(patient: Patient) -> Iterator[Finding]:
    """How much time and memory a step of SFT takes, and what follows for all trainings."""
    config = patient.config
    rows = patient.demonstrations
    if not rows:
        return
    free = _free_memory()
    ends = _StepEnds()
    with tempfile.TemporaryDirectory() as folder:
        trainer = sft_trainer(
            config.model,
            rows,
            settings=config.sft,
            prompt=config.prompt,
            precision=config.precision,
            output=Path(folder),
            steps=_STEPS,
        )
        trainer.add_callback(ends)
        trainer.train()
    seconds = statistics.median(after - before for before, after in itertools.pairwise(ends.times))
    batch = min(config.sft.batch_size, len(rows))
    per_row = seconds / batch
    yield from _memory(_peak_memory(), free)
    count = _demonstrations(config)
    if count is None:
        yield note(f"a step of SFT on {batch} demonstrations takes {seconds:.1f} s")
        return
    total = math.ceil(count / config.sft.batch_size) * config.sft.epochs * config.sft.batch_size * per_row
    yield note(
        f"a step of SFT on {batch} demonstrations takes {seconds:.1f} s; with {count} demonstrations and "
        f"{config.sft.epochs:g} epochs SFT takes about {duration(total)}"
    )
    pairs = len(patient.pairs) or _explored(config)
    if pairs:
        # Both sides are trained on, and the reference reads them once, a third of a step's work.
        work = sum(pairs * (2 * settings.epochs + 2 / 3) for settings in config.trainings())
        yield note(
            f"with {pairs} pairs as long as demonstrations, {len(config.trainings())} trainings on them take "
            f"about {duration(work * per_row * config.rounds)}, less where the sides share a beginning"
        )


def decoding(patient: Patient) -> Iterator[Finding]:
    """How fast the model answers, and what follows for exploration and evaluation."""
    config = patient.config
    rows = patient.demonstrations[:_REPLIES]
    if not rows:
        return
    turns = [len([m for m in row.messages if m.role == "assistant"]) for row in patient.demonstrations]
    said = [
        patient.renderer.render(row.messages).scored_tokens / count
        for row, count in zip(rows, turns, strict=False)
    ]
    tokens = max(1, round(statistics.fmean(said)))
    agent = LocalAgent(
        operations.load_model(config.model),
        capacity=len(rows),
        max_new_tokens=min(tokens, config.evaluate.max_new_tokens),
        chat_template=config.prompt.chat_template,
        max_context=config.evaluate.max_context,
    )
    with contextlib.closing(agent):
        began = time.perf_counter()
        for slot, row in enumerate(rows):
            first = next(i for i, message in enumerate(row.messages) if message.role == "assistant")
            agent.submit(Request(slot=slot, messages=row.messages[:first], seed=slot))
        waiting = len(rows)
        while waiting:
            waiting -= len(agent.poll())
        per_turn = (time.perf_counter() - began) / len(rows)
    mean_turns = statistics.fmean(turns)
    episodes = {"exploration": _explored(config), "evaluation": _evaluated(config)}
    for name, count in episodes.items():
        if count:
            yield note(
                f"{name}: {count} episodes of about {mean_turns:.1f} turns take about "
                f"{duration(count * mean_turns * per_turn)} ({per_turn:.2f} s a turn, {tokens} tokens each)"
            )


def disk(patient: Patient) -> Iterator[Finding]:
    """Whether the disk holds what the run saves."""
    policy = operations.load_model(patient.config.model)
    weights = sum(parameter.numel() for parameter in policy.model.parameters())
    models = 1 + len(patient.config.trainings()) * patient.config.rounds
    # A new checkpoint is whole before the one before it goes.
    needed = weights * (models * _BYTES_SAVED + 2 * _BYTES_CHECKPOINT)
    root = patient.directory.root
    there = next(path for path in (root, *root.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    said = f"{models} models and checkpoints take about {needed / _GIB:.1f} GiB; {free / _GIB:.1f} are free"
    if needed > free:
        yield problem(said, "make room, set output to another disk, or checkpoints to 0")
    else:
        yield ok(said)


def _memory(peak: int, free: int | None) -> Iterator[Finding]:
    said = f"training took {peak / _GIB:.1f} GiB at most"
    if free is None:
        yield note(said)
        return
    said += f" of {free / _GIB:.1f} that were free"
    if peak > _TIGHT * free:
        yield warning(
            f"{said}; pairs have two sides, and longer ones need more",
            "set max_tokens_per_batch, a smaller micro_batch_size, or gradient_checkpointing: true",
        )
    else:
        yield ok(said)


def _peak_memory() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_host_memory()


def _free_memory() -> int | None:
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else available_host_memory()


def _demonstrations(config: Config) -> int | None:
    """How many demonstrations SFT will learn; None where only the expert knows."""
    return config.sft.tasks or config.expert.tasks


def _explored(config: Config) -> int:
    """Episodes of a round of exploration; 0 where only the expert knows."""
    settings, tasks = config.explore, config.expert.tasks
    left = None if tasks is None else max(0, tasks - settings.skip)
    known = [count for count in (settings.tasks, left) if count is not None]
    return min(known) * settings.samples if known else 0


def _evaluated(config: Config) -> int:
    """Episodes of all evaluations; 0 where only the environment knows."""
    per_method = (config.evaluate.tasks or 0) * len(config.environment.test_splits)
    policies = 1 + sum(
        config.best_of_n(entry.method).samples if config.kind(entry.method) == BEST_OF_N else 1
        for entry in config.method_rounds()
    )
    return per_method * policies
