"""Letting an agent play."""

from __future__ import annotations

from typing import TYPE_CHECKING

from multiturn.agents.base import Request
from multiturn.rollouts.jobs import Job, reply_seed
from multiturn.rollouts.play import play
from multiturn.rollouts.report import CollectReport
from multiturn.rollouts.settings import CollectSettings
from multiturn.trajectory import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from multiturn.agents.base import Agent
    from multiturn.envs.slots import EnvironmentSlot, SlotAnswer
    from multiturn.rollouts.episode import Episode

__all__ = ["CollectReport", "CollectSettings", "Job", "collect"]


def collect(
    agent: Agent,
    slots: Sequence[EnvironmentSlot],
    jobs: Sequence[Job],
    path: Path | str,
    settings: CollectSettings,
    *,
    title: str = "rollout",
) -> CollectReport:
    """Let an agent play all jobs that the file does not hold yet; see `multiturn.rollouts.play.play`.

    What an episode becomes does not depend on when and beside which others it is played, as far as the
    agent's replies do not.

    Args:
        agent: Who plays.
        slots: Where; more than the agent's capacity are of no use.
        jobs: What.
        path: The file of the episodes.
        settings: How.
        title: What the progress bar says.

    Returns:
        The report on all jobs.

    Raises:
        ConfigError: Two jobs are the same, or there is no such task.
        RunStateError: The file holds episodes of another agent, environment or setting.
        EnvironmentFaultError: The environment fails again and again.
        AgentFaultError: The agent could not be asked; episodes that it concerns are not in the file.
    """
    return play(_AgentPlayer(agent, settings.seed), slots, jobs, path, settings, title=title)


class _AgentPlayer:
    """An agent at the table."""

    def __init__(self, agent: Agent, seed: int) -> None:
        self.fingerprint = agent.fingerprint
        self.capacity = agent.capacity
        self._agent = agent
        self._seed = seed
        self._open: dict[int, Episode] = {}

    @property
    def busy(self) -> bool:
        """Whether a reply is being written."""
        return bool(self._open)

    def ask(self, index: int, episode: Episode, slot: EnvironmentSlot) -> bool:  # noqa: ARG002
        """Ask the agent."""
        seed = reply_seed(self._seed, episode.job, episode.turns)
        self._agent.submit(Request(slot=index, messages=tuple(episode.messages), seed=seed))
        self._open[index] = episode
        return False

    def advise(self, index: int, episode: Episode, answer: SlotAnswer) -> str | None:
        """Never called: the slot is not asked."""
        raise NotImplementedError

    def poll(self) -> list[tuple[int, str | None]]:
        """The actions of the replies that are ready."""
        decided: list[tuple[int, str | None]] = []
        for reply in self._agent.poll():
            episode = self._open.pop(reply.slot)
            if reply.fault is not None:
                episode.abandon(reply.fault)
                decided.append((reply.slot, None))
            elif reply.message is None:
                episode.stop(Outcome.CONTEXT_OVERFLOW)
                decided.append((reply.slot, None))
            else:
                decided.append((reply.slot, episode.act(reply.message, truncated=reply.truncated)))
        return decided

    def release(self, index: int) -> None:
        """The conversation is over."""
        self._open.pop(index, None)
        self._agent.release(index)
