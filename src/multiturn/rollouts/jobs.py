"""Jobs: which tasks are played, how often, and the seed of every reply."""

from __future__ import annotations

import dataclasses
import hashlib

from multiturn.errors import ConfigError

__all__ = ["Job", "check_jobs", "reply_seed"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One episode to be played.

    Attributes:
        task_id: The task.
        task_type: The kind of task.
        split: The split the task belongs to.
        sample: Counts the episodes of one task, from 0.
    """

    task_id: str
    task_type: str = ""
    split: str = ""
    sample: int = 0

    @property
    def id(self) -> str:
        """The id of the trajectory, unique in its file."""
        return f"{self.task_id}#{self.sample}"


def reply_seed(seed: int, job: Job, turn: int) -> int:
    """The seed of one reply, in [0, 2**63): a function of these arguments and nothing else.

    Args:
        seed: The run's seed.
        job: The episode.
        turn: The turn, from 0.
    """
    digest = hashlib.sha256(f"{seed}\0{job.task_id}\0{job.sample}\0{turn}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


def check_jobs(jobs: list[Job]) -> None:
    """Refuse jobs that could not be told apart.

    Raises:
        ConfigError: Two jobs have the same id, or one has no task.
    """
    seen: set[str] = set()
    for job in jobs:
        if not job.task_id:
            raise ConfigError("a job has an empty task id; its episode could not be read back")
        if job.id in seen:
            raise ConfigError(f"job {job.id!r} is asked for twice; give repeated tasks different samples")
        seen.add(job.id)
