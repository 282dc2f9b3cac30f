"""The checks of a run's data: the chat template, lengths, pairs."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, TypeVar

from multiturn.doctor import workload
from multiturn.doctor.finding import note, ok, problem, warning
from multiturn.errors import DataError
from multiturn.pairs.balance import length_warnings
from multiturn.pipeline.train_settings import PreferenceSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from multiturn.doctor.finding import Finding
    from multiturn.doctor.patient import Patient
    from multiturn.doctor.sample import Sample
    from multiturn.pipeline.train_settings import TrainSettings
    from multiturn.trajectory import PreferencePair, Trajectory

__all__ = ["lengths", "pairs", "replies", "template"]

_RowT = TypeVar("_RowT", bound="Trajectory | PreferencePair")


def template(patient: Patient) -> Iterator[Finding]:
    """Whether the chat template takes the run's conversations, with every turn where it belongs."""
    yield _taken(patient, patient.trajectories, "trajectories", patient.expert.source)
    if patient.pairs:
        source = f"both sides, the run's own {patient.directory.pairs.name}"
        yield _taken(patient, patient.pair_sample, "pairs", source)
    if "strftime_now" in patient.renderer.template_source:
        yield warning(
            "the chat template writes the current date: what is trained on today is read otherwise tomorrow, "
            "and the reference is computed anew each day",
            "set prompt.chat_template to a variant without it, for example llama-3-training",
        )
    there, good = len(patient.expert.rows), patient.demonstrations.total
    if not good:
        yield problem(
            f"none of the expert's {there} trajectories reaches expert.min_reward "
            f"{patient.config.expert.min_reward}",
            "lower expert.min_reward",
        )
    elif good < there:
        yield note(f"{good} of the expert's {there} trajectories reach expert.min_reward")


def lengths(patient: Patient) -> Iterator[Finding]:
    """Whether conversations fit into the limits of each training, and into the model.

    Trainings on pairs are looked at with the pairs once there are some, both sides of them, and with the
    demonstrations before. Of made-up conversations the lengths say nothing.
    """
    paired = patient.pair_sample
    pair_tokens = _lengths(patient, paired)
    if patient.real and patient.counted(patient.demonstrations.rows):
        yield _typical(patient, "demonstrations", patient.demonstrations)
    if pair_tokens:
        yield _typical(patient, "sides of pairs", paired)
    for name, settings in workload.named_trainings(patient.config).items():
        context = patient.facts.context
        if settings.max_length is not None and context is not None and settings.max_length > context:
            yield warning(
                f"{name}.max_length is {settings.max_length}, and the model's context {context} tokens",
                "set max_length to that, or choose another model",
            )
        if pair_tokens and isinstance(settings, PreferenceSettings):
            if settings.objective == "sft":
                sides = [row[:1] for row in pair_tokens]
                yield from _too_long(name, settings, context, sides, f"chosen sides{paired.remark}")
            else:
                yield from _too_long(name, settings, context, pair_tokens, f"pairs{paired.remark}")
        elif patient.real:
            shown = patient.demonstrations_for(settings)
            tokens = _lengths(patient, shown)
            yield from _too_long(name, settings, context, tokens, f"demonstrations{shown.remark}")


def replies(patient: Patient) -> Iterator[Finding]:
    """Whether the policy may say as much, in one turn and in all, as the expert does.

    What is made up the expert has not said, so nothing is said of it.
    """
    if not patient.real:
        return
    shown = patient.demonstrations
    counted = [tokens for _, (tokens,) in patient.counted(shown.rows)]
    if not counted:
        return
    spoken = [count for tokens in counted for count in tokens.turns]
    longest = max(tokens.length for tokens in counted)
    for name, decoding in workload.played_stages(patient.config).items():
        over = sum(count > decoding.max_new_tokens for count in spoken)
        if over:
            yield warning(
                f"{name}.max_new_tokens is {decoding.max_new_tokens}, but {over} of the expert's "
                f"{len(spoken)} turns have more tokens (up to {max(spoken)}){shown.remark}",
                f"raise {name}.max_new_tokens: replies like the expert's are cut off",
            )
        limits = [limit for limit in (decoding.max_context, patient.facts.context) if limit is not None]
        if limits and longest > min(limits):
            yield warning(
                f"{name}: episodes end at {min(limits)} tokens, and the expert's have up to {longest}",
                f"raise {name}.max_context, or choose a model with a longer context",
            )
    usual = [count for _, (tokens,) in patient.counted(shown.spread) for count in tokens.turns]
    mean = statistics.fmean(usual or spoken)
    yield note(
        f"the expert's turns have {mean:.0f} tokens on average, {max(spoken)} at most{shown.remark}",
        mean=mean,
        longest=max(spoken),
    )


def pairs(patient: Patient) -> Iterator[Finding]:
    """Whether the pairs, where there are some, are enough and balanced."""
    if patient.unread_pairs:
        yield problem(patient.unread_pairs, "see the message; the run would end with it")
        return
    if not patient.pairs:
        yield note("no pairs yet; run this again once exploration is done")
        return
    count = len(patient.pairs)
    most = max((settings.batch_size for settings in patient.config.trainings()), default=1)
    if most > count:
        yield warning(
            f"{count} pairs are fewer than a batch of {most}: an epoch is one step",
            "lower batch_size, or explore more tasks",
        )
    else:
        yield ok(f"{count} pairs", pairs=count)
    for said in length_warnings(patient.pairs):
        yield warning(said, "compare the lengths of what it writes before and after training")


def _taken(patient: Patient, sample: Sample[_RowT], what: str, source: str) -> Finding:
    """Whether the template takes rows.

    Args:
        patient: The run.
        sample: The rows.
        what: What they are called.
        source: Where they come from.
    """
    refused: list[str] = []
    for row in sample.rows:
        try:
            patient.tokens(row)
        except DataError as error:
            refused.append(str(error))
    rows = f"{len(sample.rows)} {what} ({', '.join(filter(None, [source, sample.partly]))})"
    if not refused:
        return ok(f"the chat template takes {rows}")
    return problem(
        f"the chat template refuses {len(refused)} of {rows}: {refused[0]}",
        "set prompt.chat_template to one that takes them",
    )


def _lengths(patient: Patient, sample: Sample[_RowT]) -> list[tuple[int, ...]]:
    """The tokens of each row that is looked at: of the one conversation, or of chosen and rejected side."""
    return [tuple(side.length for side in sides) for _, sides in patient.counted(sample.rows)]


def _typical(patient: Patient, what: str, sample: Sample[_RowT]) -> Finding:
    """How long conversations are: on average without those that were chosen for their length."""
    looked_at = [side.length for _, sides in patient.counted(sample.rows) for side in sides]
    usual = [side.length for _, sides in patient.counted(sample.spread) for side in sides]
    mean, longest = statistics.fmean(usual or looked_at), max(looked_at)
    return ok(
        f"{what} have {mean:.0f} tokens on average, {longest} at most{sample.remark}",
        mean=mean,
        longest=longest,
    )


def _too_long(
    name: str, settings: TrainSettings, context: int | None, rows: Sequence[tuple[int, ...]], what: str
) -> Iterator[Finding]:
    """Whether rows are longer than a training takes.

    Args:
        name: The training's key in the configuration.
        settings: Its settings.
        context: Tokens that the model takes; None where it does not say.
        rows: The tokens of each row's conversations; a pair is too long where either side is.
        what: What the rows are called.
    """
    limit = context if settings.max_length is None else settings.max_length
    over = 0 if limit is None else sum(max(row) > limit for row in rows)
    if not over:
        return
    whose = "the model's context" if settings.max_length is None else f"{name}.max_length"
    are = "have a side that is" if any(len(row) > 1 for row in rows) else "are"
    said = f"{name}: {over} of {len(rows)} {what} {are} longer than {whose} {limit}"
    if settings.overlong == "error":
        yield problem(said, f"raise it, or set {name}.overlong to cut or drop")
    else:
        yield warning(f"{said}: overlong is {settings.overlong!r}", "raise it if memory allows")
