"""The checks of a run's data: the chat template, lengths, pairs."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

from multiturn.doctor import workload
from multiturn.doctor.finding import note, ok, problem, warning
from multiturn.errors import DataError
from multiturn.pairs.balance import length_warnings
from multiturn.tokens import NO_TURN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiturn.doctor.finding import Finding
    from multiturn.doctor.patient import Patient
    from multiturn.tokens import Rendered

__all__ = ["lengths", "pairs", "replies", "template"]


def template(patient: Patient) -> Iterator[Finding]:
    """Whether the chat template takes the run's conversations, with every turn where it belongs."""
    count = len(patient.trajectories)
    refused: list[str] = []
    for trajectory in patient.trajectories:
        try:
            patient.renderer.render(trajectory.messages, tools=trajectory.tools, where=trajectory.id)
        except DataError as error:
            refused.append(str(error))
    rows = f"{count} trajectories ({patient.source})"
    if refused:
        yield problem(
            f"the chat template refuses {len(refused)} of {rows}: {refused[0]}",
            "set prompt.chat_template to one that takes them",
        )
    else:
        yield ok(f"the chat template takes {rows}")
    if not patient.demonstrations:
        yield problem(
            f"none of the expert's {count} trajectories reaches expert.min_reward "
            f"{patient.config.expert.min_reward}",
            "lower expert.min_reward",
        )
    elif len(patient.demonstrations) < count:
        yield note(f"{len(patient.demonstrations)} of them reach expert.min_reward")


def lengths(patient: Patient) -> Iterator[Finding]:
    """Whether conversations fit into the limits of each training, and into the model."""
    tokens = [rendered.scored_length for rendered in _rendered(patient)]
    if not tokens:
        return
    mean, longest = sum(tokens) / len(tokens), max(tokens)
    yield ok(
        f"demonstrations have {mean:.0f} tokens on average, {longest} at most", mean=mean, longest=longest
    )
    context = patient.facts.context
    for name, settings in workload.named_trainings(patient.config).items():
        limit = context if settings.max_length is None else settings.max_length
        if settings.max_length is not None and context is not None and settings.max_length > context:
            yield warning(
                f"{name}.max_length is {settings.max_length}, and the model's context {context} tokens",
                "set max_length to that, or choose another model",
            )
        over = 0 if limit is None else sum(length > limit for length in tokens)
        if not over:
            continue
        what = "the model's context" if settings.max_length is None else f"{name}.max_length"
        said = f"{over} of {len(tokens)} demonstrations are longer than {what} {limit}"
        if settings.overlong == "error":
            yield problem(f"{name}: {said}", f"raise it, or set {name}.overlong to cut or drop")
        else:
            yield warning(f"{name}: {said}: overlong is {settings.overlong!r}", "raise it if memory allows")


def replies(patient: Patient) -> Iterator[Finding]:
    """Whether the policy may say as much, in one turn and in all, as the expert does."""
    rendered = _rendered(patient)
    if not rendered:
        return
    spoken = [count for row in rendered for count in _turn_tokens(row).values()]
    longest = max(row.scored_length for row in rendered)
    stages = {"explore": patient.config.explore, "evaluate": patient.config.evaluate}
    for name, decoding in stages.items():
        over = sum(count > decoding.max_new_tokens for count in spoken)
        if over:
            yield warning(
                f"{name}.max_new_tokens is {decoding.max_new_tokens}, but {over} of the expert's "
                f"{len(spoken)} turns have more tokens (up to {max(spoken)})",
                f"raise {name}.max_new_tokens: replies like the expert's are cut off",
            )
        limits = [limit for limit in (decoding.max_context, patient.facts.context) if limit is not None]
        if limits and longest > min(limits):
            yield warning(
                f"{name}: episodes end at {min(limits)} tokens, and the expert's have up to {longest}",
                f"raise {name}.max_context, or choose a model with a longer context",
            )
    yield note(
        f"the expert's turns have {sum(spoken) / len(spoken):.0f} tokens on average, {max(spoken)} at most",
        mean=sum(spoken) / len(spoken),
        longest=max(spoken),
    )


def pairs(patient: Patient) -> Iterator[Finding]:
    """Whether the pairs, where there are some, are enough and balanced."""
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


def _rendered(patient: Patient) -> list[Rendered]:
    """The demonstrations as tokens; those that the template refuses are another check's matter."""
    found = []
    for trajectory in patient.demonstrations:
        try:
            found.append(patient.renderer.render(trajectory.messages, tools=trajectory.tools))
        except DataError:
            continue
    return found


def _turn_tokens(rendered: Rendered) -> collections.Counter[int]:
    """The tokens of each turn."""
    return collections.Counter(turn for turn in rendered.turns if turn != NO_TURN)
