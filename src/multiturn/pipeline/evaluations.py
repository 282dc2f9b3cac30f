"""The evaluation episodes of a run, as its results count them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from multiturn.evaluation.best_of import best_episodes, summarize_best
from multiturn.evaluation.evaluate import MethodSummary, summarize
from multiturn.pipeline.methods import BEST_OF_N
from multiturn.rollouts.store import read_rollouts

if TYPE_CHECKING:
    from multiturn.pipeline.config import Config
    from multiturn.pipeline.run_directory import RunDirectory
    from multiturn.trajectory import Trajectory

__all__ = ["Evaluated", "evaluated", "is_best_of_n", "read_evaluation"]


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluated:
    """One policy on one split.

    Attributes:
        episodes: The episodes that count: for a best of several samples, each task's best one.
        summary: What they amount to.
    """

    episodes: list[Trajectory]
    summary: MethodSummary


def is_best_of_n(config: Config, name: str) -> bool:
    """Whether a name of the results is that of a best of several samples."""
    return name in config.methods and config.kind(name) == BEST_OF_N


def read_evaluation(config: Config, directory: RunDirectory, name: str, split: str) -> list[Trajectory]:
    """The episodes that count of one policy on one split.

    Args:
        config: The run's configuration.
        directory: Where the run lies.
        name: What the policy is called in results.
        split: The split.

    Raises:
        DataError: The file cannot be read.
    """
    episodes = read_rollouts(directory.evaluation(name, split))
    return best_episodes(episodes) if is_best_of_n(config, name) else episodes


def evaluated(config: Config, directory: RunDirectory, name: str, split: str) -> Evaluated:
    """As `read_evaluation`, with what the episodes amount to."""
    episodes = read_rollouts(directory.evaluation(name, split))
    if is_best_of_n(config, name):
        return Evaluated(best_episodes(episodes), summarize_best(episodes))
    return Evaluated(episodes, summarize(episodes))
