"""Letting the environment's own expert play."""

from __future__ import annotations

from typing import TYPE_CHECKING

from multiturn.rollouts.play import play
from multiturn.trajectory import Message, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from multiturn.agents.formats import ActionFormat
    from multiturn.envs.slots import EnvironmentSlot, SlotAnswer
    from multiturn.rollouts.episode import Episode
    from multiturn.rollouts.jobs import Job
    from multiturn.rollouts.report import CollectReport
    from multiturn.rollouts.settings import CollectSettings

__all__ = ["collect_expert"]


def collect_expert(
    slots: Sequence[EnvironmentSlot],
    jobs: Sequence[Job],
    path: Path | str,
    settings: CollectSettings,
    *,
    title: str = "expert",
) -> CollectReport:
    """Let the expert play all jobs that the file does not hold yet; see `multiturn.rollouts.play.play`.

    The conversations are those that an agent with the same settings would have. An episode that the expert
    does not win is stored with the reward it got; where it gives up, the episode is `Outcome.TRUNCATED` and
    ``info["expert_gave_up"]`` is true.

    Args:
        slots: Where.
        jobs: What.
        path: The file of the episodes.
        settings: How.
        title: What the progress bar says.

    Returns:
        The report on all jobs.

    Raises:
        ConfigError: Two jobs are the same, or there is no such task.
        RunStateError: The file holds episodes of another environment or setting.
        EnvironmentFaultError: The environment fails again and again.
    """
    return play(_ExpertPlayer(settings.format, len(slots)), slots, jobs, path, settings, title=title)


class _ExpertPlayer:
    """The environment's expert at the table: the slot itself is asked what to do."""

    fingerprint = "expert"
    busy = False

    def __init__(self, action_format: ActionFormat, capacity: int) -> None:
        self.capacity = capacity
        self._format = action_format

    def ask(self, index: int, episode: Episode, slot: EnvironmentSlot) -> bool:  # noqa: ARG002
        """Ask the slot's expert."""
        slot.start("expert")
        return True

    def advise(self, index: int, episode: Episode, answer: SlotAnswer) -> str | None:  # noqa: ARG002
        """The expert's action, as a message that an agent could have written."""
        if answer.expert is None:
            episode.stop(Outcome.TRUNCATED, expert_gave_up=True)
            return None
        content = self._format.compose(answer.expert.thought, answer.expert.action)
        return episode.act(Message(role="assistant", content=content))

    def poll(self) -> list[tuple[int, str | None]]:
        """Never has anything: the slots answer."""
        return []

    def release(self, index: int) -> None:
        """Nothing is kept."""
