"""What the checks of a run look at, each fetched once."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from multiturn.jsonl import read_pairs
from multiturn.models.load import ModelSpec, load_tokenizer
from multiturn.pipeline import operations
from multiturn.pipeline.run import directory_of
from multiturn.rollouts.store import read_rollouts
from multiturn.tokens import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from multiturn.pipeline.config import Config
    from multiturn.pipeline.run_directory import RunDirectory
    from multiturn.trajectory import PreferencePair, Trajectory

__all__ = ["TRIED_TASKS", "Patient"]

TRIED_TASKS: Final = 8
"""How many training tasks the expert plays where the run has no trajectories yet."""


class Patient:
    """A run that is about to be begun, or gone on with.

    Args:
        config: Its configuration.

    Attributes:
        config: Its configuration.
        directory: Where it lies, or will.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.directory: RunDirectory = directory_of(config)

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        model = self.config.model
        spec = (
            ModelSpec(name=model) if isinstance(model, str) else ModelSpec(scratch=model.get("scratch", {}))
        )
        return load_tokenizer(spec)

    @functools.cached_property
    def renderer(self) -> Renderer:
        """What turns the run's conversations into tokens."""
        return Renderer(self.tokenizer, chat_template=self.config.prompt.chat_template)

    @property
    def began(self) -> bool:
        """Whether the expert has played."""
        return self.directory.expert.exists()

    @functools.cached_property
    def trajectories(self) -> list[Trajectory]:
        """The expert's: those of the run where it has begun, otherwise of a few tasks played now."""
        if self.began:
            return read_rollouts(self.directory.expert)
        environment = self.config.environment
        tasks = operations.list_tasks(environment, environment.train_split, None)[:TRIED_TASKS]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "expert.jsonl"
            operations.roll_out_expert(
                environment=environment,
                prompt=self.config.prompt,
                jobs=operations.jobs_for(tasks),
                path=path,
                title="the expert plays a few tasks",
            )
            return read_rollouts(path)

    @functools.cached_property
    def demonstrations(self) -> list[Trajectory]:
        """Those that are good enough to be imitated."""
        least = self.config.expert.min_reward
        return [t for t in self.trajectories if t.reward is not None and t.reward >= least]

    @functools.cached_property
    def pairs(self) -> list[PreferencePair]:
        """The run's pairs; none before there are any."""
        return read_pairs(self.directory.pairs) if self.directory.pairs.exists() else []
