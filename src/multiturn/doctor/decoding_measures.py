"""The check that lets the model answer: how fast it is, and what follows for exploration and evaluation."""

from __future__ import annotations

import contextlib
import statistics
import time
from typing import TYPE_CHECKING, Final

from multiturn.agents.base import Request
from multiturn.agents.local import LocalAgent
from multiturn.doctor import estimates, workload
from multiturn.doctor.finding import note, warning
from multiturn.doctor.machine_memory import release_memory
from multiturn.pipeline import operations
from multiturn.progress import duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from multiturn.agents.base import Reply
    from multiturn.doctor.finding import Finding
    from multiturn.doctor.patient import Patient
    from multiturn.pipeline.config import DecodingSettings
    from multiturn.trajectory import Trajectory

__all__ = ["decoding"]

_SLOTS: Final = 8
"""Conversations that are answered side by side at most, to see how fast that goes."""


def decoding(patient: Patient) -> Iterator[Finding]:
    """How fast the model answers, and what follows for exploration and evaluation."""
    counted = patient.counted(patient.demonstrations.spread)
    if not counted:
        return
    rows = [row for row, _ in counted]
    turns = statistics.fmean(len(tokens.turns) for _, (tokens,) in counted)
    reply = statistics.fmean(count for _, (tokens,) in counted for count in tokens.turns)
    episodes = _episodes(patient)
    speeds: dict[tuple[int, int, int | None], float | None] = {}
    for name, settings in workload.played_stages(patient.config).items():
        slots = min(settings.slots, len(rows), _SLOTS)
        key = (slots, settings.max_new_tokens, settings.max_context)
        if key not in speeds:
            speeds[key] = _token_seconds(patient, settings, rows[:slots])
        token_seconds = speeds[key]
        if token_seconds is None:
            yield warning(
                f"{name}: the policy wrote nothing, so no time is predicted: none of {slots} of the expert's "
                "conversations leaves room for a second reply",
                f"raise {name}.max_context, or choose a model with a longer context",
            )
            continue
        yield _prediction(
            patient,
            name,
            episodes=episodes[name],
            turns=turns,
            reply=min(reply, settings.max_new_tokens),
            token_seconds=token_seconds,
            slots=slots,
        )


def _episodes(patient: Patient) -> dict[str, int]:
    """The episodes of each stage in which the policy plays; 0 where nobody knows the tasks."""
    config = patient.config
    if not patient.real:
        return {"explore": 0, "evaluate": 0}
    there = {split: len(patient.tasks(split)) for split in config.environment.test_splits}
    each = workload.episodes_explored(config, len(patient.tasks(config.environment.train_split)))
    return {
        "explore": each * workload.explorations(config),
        "evaluate": workload.episodes_evaluated(config, there),
    }


def _prediction(
    patient: Patient,
    name: str,
    *,
    episodes: int,
    turns: float,
    reply: float,
    token_seconds: float,
    slots: int,
) -> Finding:
    """What all episodes of a stage take.

    Args:
        patient: The run.
        name: The stage's key in the configuration.
        episodes: How many there are; 0 where nobody knows.
        turns: Turns of the expert's episodes.
        reply: Tokens of a reply.
        token_seconds: Seconds of a token.
        slots: Conversations side by side in which that was measured.
    """
    speed = f"{1 / token_seconds:.0f} tokens/s with {slots} conversations side by side"
    if not episodes:
        return note(f"{name}: {speed}", episodes=0, token_seconds=token_seconds)
    most = max(patient.config.environment.max_turns or turns, turns)
    low, high = (
        estimates.rollout_seconds(
            episodes=episodes,
            turns=each,
            reply_tokens=reply,
            token_seconds=token_seconds,
            turn_seconds=patient.turn_seconds,
        )
        for each in (turns, most)
    )
    longer = f", {duration(high)} if all end at the turn limit" if most > turns else ""
    return note(
        f"{name}: {episodes} episodes of {turns:.1f} turns as the expert's take about "
        f"{duration(low)}{longer} ({speed})",
        seconds=low,
        most_seconds=high,
        episodes=episodes,
        token_seconds=token_seconds,
    )


def _token_seconds(patient: Patient, settings: DecodingSettings, rows: Sequence[Trajectory]) -> float | None:
    """The seconds of a token of second replies, which read on where the first ones ended.

    So a conversation's beginning, which is read once for an episode, does not count for every turn. None
    where nothing was written, since no conversation leaves room for a second reply.
    """
    release_memory()
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
    return seconds / written if written else None
