"""What came of a collection, in numbers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from multiturn.progress import duration
from multiturn.trajectory import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from multiturn.trajectory import Json, Trajectory

__all__ = ["CollectReport", "report_on"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CollectReport:
    """What came of a collection. All jobs count, whether they were played now or by an earlier attempt.

    Attributes:
        episodes: The jobs.
        played: Those of them that were played by this call.
        outcomes: How many episodes ended in which way.
        known: Episodes whose reward is known.
        mean_reward: The mean over these, None when there is none.
        successes: Episodes known to have solved their task.
        turns: The agent's turns in all.
        counts: Sums over episodes: ``invalid_actions`` (not understood by the environment),
            ``unusable_replies`` (no action could be read), ``truncated_replies`` (cut off at the limit of new
            tokens), ``faults`` (crashes and hangs of environments).
        tokens: Token ids that the agent produced in this call.
        seconds: How long this call took.
        usage: What this call asked of a server, by name (`multiturn.agents.server.ServerUsage`); empty for a
            local model.
    """

    episodes: int
    played: int
    outcomes: Mapping[str, int]
    known: int
    mean_reward: float | None
    successes: int
    turns: int
    counts: Mapping[str, int]
    tokens: int
    seconds: float
    usage: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def describe(self) -> str:
        """The report in a line."""
        parts = [f"{self.episodes} episodes"]
        if self.mean_reward is not None:
            parts.append(f"average reward {self.mean_reward:.3f}")
        parts += [f"{count} {name.replace('_', ' ')}" for name, count in self.outcomes.items()]
        parts += [f"{n} {name.replace('_', ' ')}" for name, n in self.counts.items() if n]
        if self.played:
            speed = f", {self.tokens / self.seconds:.0f} tokens/s" if self.tokens and self.seconds else ""
            parts.append(f"{self.played} played in {duration(self.seconds)}{speed}")
        parts += [f"{n:,} {name.replace('_', ' ')}" for name, n in self.usage.items() if n]
        return ", ".join(parts)

    def to_json(self) -> dict[str, Json]:
        """The report as JSON."""
        return dataclasses.asdict(self)


def report_on(
    trajectories: Sequence[Trajectory], *, played: int, tokens: int, seconds: float
) -> CollectReport:
    """Count.

    Args:
        trajectories: All jobs' trajectories.
        played: How many of them are new.
        tokens: The ids that the agent produced for the new ones.
        seconds: How long that took.
    """
    rewards = [t.reward for t in trajectories if t.reward is not None]
    outcomes = Counter(t.outcome for t in trajectories)
    counted = ("invalid_actions", "unusable_replies", "truncated_replies", "faults")
    return CollectReport(
        episodes=len(trajectories),
        played=played,
        outcomes={outcome.value: outcomes[outcome] for outcome in Outcome if outcomes[outcome]},
        known=len(rewards),
        mean_reward=sum(rewards) / len(rewards) if rewards else None,
        successes=sum(t.success is True for t in trajectories),
        turns=sum(t.num_turns for t in trajectories),
        counts={name: sum(_count(t, name) for t in trajectories) for name in counted},
        tokens=tokens,
        seconds=round(seconds, 3),
    )


def _count(trajectory: Trajectory, name: str) -> int:
    value = trajectory.info.get(name, 0)
    return value if isinstance(value, int) else 0
