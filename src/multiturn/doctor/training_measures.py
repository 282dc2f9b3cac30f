"""The checks that train for a few steps: how much time and memory the trainings take.

What is predicted is what was measured on a few rows, times how many there will be: `estimates` has the
formulas. Trainings on pairs are predicted before there are pairs, from pairs that share nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from multiturn.doctor import estimates, workload
from multiturn.doctor.few_steps import measure_pairs, measure_sft, rows_to_measure
from multiturn.doctor.finding import note, ok, problem, warning
from multiturn.doctor.machine_memory import GIB, release_memory, room
from multiturn.doctor.made_up import pairs_like
from multiturn.pipeline.methods import PREFERENCE, RFT
from multiturn.pipeline.objectives import OBJECTIVES
from multiturn.progress import duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiturn.doctor.estimates import MeasuredTraining
    from multiturn.doctor.finding import Finding
    from multiturn.doctor.patient import Patient
    from multiturn.pipeline.train_settings import PreferenceSettings, TrainSettings
    from multiturn.trajectory import PreferencePair

__all__ = ["memory_findings", "pair_training", "sft_training"]

_TIGHT: Final = 0.8
"""A share of the memory beyond which there is little left for longer conversations."""
_ALIKE: Final[dict[str, Any]] = {
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


def sft_training(patient: Patient) -> Iterator[Finding]:
    """How much time and memory SFT takes."""
    config = patient.config
    if not patient.demonstrations.rows:
        return
    rows = rows_to_measure(patient, patient.demonstrations_for(config.sft), config.sft)
    if not rows:
        yield _unmeasured("sft")
        return
    release_memory()
    free = room()
    measured = measure_sft(patient, rows)
    yield from memory_findings(_on_what("sft", patient), _predicted(measured, config.sft), free)
    if not patient.real:
        yield note(f"sft: a step on {measured.rows} made-up rows takes {measured.seconds:.2f} s")
        return
    count = workload.demonstrations(config, len(patient.tasks(config.environment.train_split)))
    seconds = estimates.training_seconds(measured, rows=count, epochs=config.sft.epochs)
    yield note(
        f"sft: {count} demonstrations, {config.sft.epochs:g} epochs: about {duration(seconds)} "
        f"({measured.seconds:.2f} s for {measured.rows} rows)",
        seconds=seconds,
        row_seconds=measured.seconds / measured.rows,
    )
    for name in config.of_kind(RFT):
        yield _rejection_time(patient, name, measured)


def pair_training(patient: Patient) -> Iterator[Finding]:
    """How much time and memory trainings on pairs take; those that differ in neither are measured once."""
    config = patient.config
    if not patient.pairs and not patient.demonstrations.rows:
        return
    known: dict[str, MeasuredTraining] = {}
    for method in config.of_kind(PREFERENCE):
        settings = config.method(method)
        name = f"methods.{method}"
        if settings.objective not in OBJECTIVES:
            name += f" ({settings.objective})"
        if settings.objective == "sft":
            yield note(f"{name}: takes what SFT takes for as many rows as there are pairs")
            continue
        key = _what_costs(settings)
        references = config.rounds - (key in known)  # in the first round all share what it says
        if key not in known:
            rows = _pairs_to_measure(patient, settings)
            if not rows:
                yield _unmeasured(name)
                continue
            release_memory()
            free = room()
            known[key] = measure_pairs(patient, settings, rows)
            shown = name if patient.pairs else _on_what(name, patient)
            yield from memory_findings(shown, _predicted(known[key], settings), free)
        yield _pair_time(patient, name, settings, known[key], references)


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


def _what_costs(settings: PreferenceSettings) -> str:
    """Equal for trainings whose steps take the same time and memory.

    Whether the reference is read is part of it. What somebody's own objective costs nobody knows, so it is
    like no other.
    """
    reads = workload.reads_reference(settings)
    objective = settings.objective
    if objective in OBJECTIVES:
        objective = "dpo" if reads else "simpo"
    update = _ALIKE | {"objective": objective} | ({} if reads else {"reference": "auto"})
    return repr(settings.model_copy(update=update))


def _pairs_to_measure(patient: Patient, settings: PreferenceSettings) -> list[PreferencePair]:
    """A few of the run's pairs; before there are any, the worst that may be made of its demonstrations."""
    if patient.pairs:
        return rows_to_measure(patient, patient.pair_sample, settings)
    return pairs_like(rows_to_measure(patient, patient.demonstrations, settings))


def _predicted(measured: MeasuredTraining, settings: TrainSettings) -> float:
    """The memory of a training whose passes are as large as the settings allow, in bytes."""
    tokens = estimates.widest_pass(
        row_tokens=measured.row_tokens,
        batch_size=settings.batch_size,
        rows_at_once=settings.rows_at_once,
        budget=settings.max_tokens_per_batch,
    )
    return estimates.peak_memory(measured, pass_tokens=tokens)


def _pair_time(
    patient: Patient, name: str, settings: PreferenceSettings, measured: MeasuredTraining, references: int
) -> Finding:
    """How long a training takes in all rounds, in which its reference is read so many times."""
    config = patient.config
    said = f"{measured.seconds:.2f} s for {measured.rows} pairs"
    count, rough = len(patient.pairs), ""
    if not count and patient.real:
        count = workload.most_pairs(config, len(patient.tasks(config.environment.train_split)))
        rough = " at most, if all that may become pairs do, and share nothing but their prompts"
    if not count:
        return note(f"{name}: {said}, which are made up")
    epochs = settings.epochs * config.rounds
    seconds = estimates.training_seconds(measured, rows=count, epochs=epochs, references=references)
    rounds = f", {config.rounds} rounds" if config.rounds > 1 else ""
    return note(
        f"{name}: {count} pairs, {settings.epochs:g} epochs{rounds}: about "
        f"{duration(seconds)}{rough} ({said})",
        seconds=seconds,
        row_seconds=measured.seconds / measured.rows,
    )


def _rejection_time(patient: Patient, name: str, measured: MeasuredTraining) -> Finding:
    """How long a rejection fine-tuning takes at most, if a row of it takes what one of SFT does."""
    config = patient.config
    settings = config.rft(name)
    there = len(patient.tasks(config.environment.train_split))
    demonstrations = min(size for size in (settings.tasks, config.expert.tasks, there) if size is not None)
    count = demonstrations + workload.episodes_explored(config, there)
    seconds = estimates.training_seconds(measured, rows=count, epochs=settings.epochs)
    return note(
        f"methods.{name}: {count} rows at most, {settings.epochs:g} epochs: about {duration(seconds)}, by "
        "the time of SFT's rows",
        seconds=seconds,
    )


def _on_what(name: str, patient: Patient) -> str:
    return name if patient.real else f"{name}, on made-up conversations"


def _unmeasured(name: str) -> Finding:
    return warning(
        f"{name}: not measured, since no row fits: each is refused by the chat template or too long",
        "see what the checks of the template and of lengths say",
    )
