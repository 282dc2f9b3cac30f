"""What the checks of a run look at, each fetched once."""

from __future__ import annotations

import functools
import logging
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from multiturn.doctor.made_up import made_up_conversations
from multiturn.jsonl import read_pairs
from multiturn.models import ModelSpec, load_tokenizer, model_facts
from multiturn.pairs.selection import reaches
from multiturn.pipeline import operations
from multiturn.pipeline.run import directory_of
from multiturn.rollouts.store import read_rollouts
from multiturn.tokens import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from multiturn.envs.base import Task
    from multiturn.models import ModelFacts
    from multiturn.pipeline.config import Config
    from multiturn.pipeline.run_directory import RunDirectory
    from multiturn.trajectory import PreferencePair, Trajectory

__all__ = ["LOOKED_AT", "TRIED_TASKS", "Patient"]

TRIED_TASKS: Final = 8
"""How many training tasks the expert plays where the run has no trajectories yet."""
LOOKED_AT: Final = 256
"""Of a run that has begun, so many of the expert's episodes are looked at."""
_LOG = logging.getLogger(__name__)


class Patient:
    """A run that is about to be begun, or gone on with.

    Args:
        config: Its configuration.

    Attributes:
        config: Its configuration.
        directory: Where it lies, or will.
        source: Where `trajectories` come from, once they were asked for.
        turn_seconds: What a turn takes in the environment; 0 as long as nobody knows.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.directory: RunDirectory = directory_of(config)
        self.source = ""
        self.turn_seconds = 0.0
        self._splits: dict[str, list[Task]] = {}

    @property
    def model(self) -> ModelSpec:
        """Which model it is."""
        model = self.config.model
        return (
            ModelSpec(name=model) if isinstance(model, str) else ModelSpec(scratch=model.get("scratch", {}))
        )

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return load_tokenizer(self.model)

    @functools.cached_property
    def facts(self) -> ModelFacts:
        """How large the model is."""
        return model_facts(self.model)

    @functools.cached_property
    def renderer(self) -> Renderer:
        """What turns the run's conversations into tokens."""
        return Renderer(self.tokenizer, chat_template=self.config.prompt.chat_template)

    def tasks(self, split: str) -> list[Task]:
        """The tasks of a split, asked for once."""
        if split not in self._splits:
            self._splits[split] = operations.list_tasks(self.config.environment, split, None)
        return self._splits[split]

    @functools.cached_property
    def trajectories(self) -> list[Trajectory]:
        """The expert's: those of the run where it has begun, otherwise of a few tasks played now.

        Where neither can be had, made-up ones; what is wrong with the environment is another check's matter.
        """
        if self.directory.expert.exists():
            played = [row for row in read_rollouts(self.directory.expert)[:LOOKED_AT] if row.num_turns]
            if played:
                self.source = f"the run's own {self.directory.expert.name}"
                return played
        try:
            played = [row for row in self._play() if row.num_turns]
        except Exception as error:  # noqa: BLE001 - whatever an environment's factory or expert raises
            _LOG.debug("the expert cannot play", exc_info=error)
            played = []
        if played:
            self.source = "a few tasks that the expert has played now"
            return played
        self.source = "made up, since the expert could not play"
        return made_up_conversations(self.config.prompt)

    @property
    def real(self) -> bool:
        """Whether `trajectories` are episodes of the environment."""
        return bool(self.trajectories) and not self.source.startswith("made up")

    @functools.cached_property
    def demonstrations(self) -> list[Trajectory]:
        """Those that are good enough to be imitated."""
        least = self.config.expert.min_reward
        return [t for t in self.trajectories if reaches(t.reward, least)]

    @functools.cached_property
    def pairs(self) -> list[PreferencePair]:
        """The run's pairs; none before there are any."""
        return read_pairs(self.directory.pairs) if self.directory.pairs.exists() else []

    def _play(self) -> list[Trajectory]:
        environment = self.config.environment
        tasks = self.tasks(environment.train_split)[:TRIED_TASKS]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "expert.jsonl"
            began = time.perf_counter()
            report = operations.roll_out_expert(
                environment=environment,
                prompt=self.config.prompt,
                jobs=operations.jobs_for(tasks),
                path=path,
                title="the expert plays a few tasks",
            )
            self.turn_seconds = (time.perf_counter() - began) / max(1, report.turns)
            return read_rollouts(path)
