"""What the checks of a run look at, each fetched once."""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from multiturn.doctor.made_up import made_up_conversations
from multiturn.doctor.sample import Sample, look_at
from multiturn.errors import DataError, MultiturnError
from multiturn.jsonl import read_pairs
from multiturn.models import ModelSpec, load_tokenizer, model_facts
from multiturn.pairs.selection import reaches
from multiturn.pipeline import operations
from multiturn.pipeline.manifest import Manifest
from multiturn.pipeline.run import directory_of
from multiturn.pipeline.train_settings import SftSettings
from multiturn.rollouts.store import read_rollouts
from multiturn.tokens import NO_TURN, Renderer
from multiturn.trajectory import Outcome, Trajectory

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transformers import PreTrainedTokenizerBase

    from multiturn.envs.base import Task
    from multiturn.models import ModelFacts
    from multiturn.pipeline.config import Config
    from multiturn.pipeline.run_directory import RunDirectory
    from multiturn.pipeline.train_settings import TrainSettings
    from multiturn.trajectory import Message, PreferencePair

__all__ = ["TRIED_TASKS", "ConversationTokens", "ExpertEpisodes", "Patient"]

TRIED_TASKS: Final = 8
"""How many training tasks the expert plays where the run has no trajectories yet."""
_LOG = logging.getLogger(__name__)

_RowT = TypeVar("_RowT", bound="Trajectory | PreferencePair")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConversationTokens:
    """How many tokens a conversation has.

    Attributes:
        length: Tokens up to the last one that is scored; what follows it is never computed.
        turns: Tokens of each assistant turn.
    """

    length: int
    turns: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExpertEpisodes:
    """What the expert has played, or what stands in for it.

    Attributes:
        rows: Those with at least one turn.
        source: Where they come from.
        unplayed: Why the expert has played none, so that `rows` are made up; empty where it has.
        failed: Episodes of the expert that the environment did not survive.
        fault: What the environment said in the last of them.
    """

    rows: list[Trajectory]
    source: str
    unplayed: str = ""
    failed: int = 0
    fault: str = ""


class Patient:
    """A run that is about to be begun, or gone on with.

    Args:
        config: Its configuration.

    Attributes:
        config: Its configuration.
        directory: Where it lies, or will.
        turn_seconds: What a turn takes in the environment; 0 as long as nobody knows.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.directory: RunDirectory = directory_of(config)
        self.turn_seconds = 0.0
        self._splits: dict[str, list[Task]] = {}
        # By the row's `id()`; the row is kept beside it, so that no other row gets the same.
        self._counted: dict[int, tuple[object, tuple[ConversationTokens, ...]]] = {}

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
    def expert(self) -> ExpertEpisodes:
        """The expert's episodes: those of the run where it has begun, otherwise of a few tasks played now.

        Where neither can be had, made-up conversations, and why.
        """
        source = "a few tasks that the expert has played now"
        try:
            episodes: list[Trajectory] = []
            if self.directory.expert.exists():
                episodes = read_rollouts(self.directory.expert)
            if any(row.num_turns for row in episodes):
                source = f"the run's own {self.directory.expert.name}"
                self.turn_seconds = self._recorded_turn_seconds()
            else:
                episodes = self._play()
        except Exception as error:  # noqa: BLE001 - whatever an environment's factory or expert raises
            _LOG.debug("the expert cannot play", exc_info=error)
            said = str(error) if isinstance(error, MultiturnError) else f"{type(error).__name__}: {error}"
            return self._made_up(said)
        faults = [
            str(row.info.get("fault", "")) for row in episodes if row.outcome is Outcome.ENVIRONMENT_ERROR
        ]
        played = [row for row in episodes if row.num_turns]
        if played:
            return ExpertEpisodes(
                rows=played, source=source, failed=len(faults), fault=faults[-1] if faults else ""
            )
        return self._made_up(self._why_no_turn(len(episodes), faults))

    @property
    def real(self) -> bool:
        """Whether `trajectories` are episodes of the environment."""
        return not self.expert.unplayed

    @functools.cached_property
    def trajectories(self) -> Sample[Trajectory]:
        """The expert's that are looked at; made-up ones where it cannot play."""
        return look_at(self.expert.rows, _characters)

    @functools.cached_property
    def demonstrations(self) -> Sample[Trajectory]:
        """Those that are good enough to be imitated; `total` counts all of the expert's that are."""
        return look_at(self._good, _characters)

    def demonstrations_for(self, settings: TrainSettings) -> Sample[Trajectory]:
        """The demonstrations that a training may read: the first so many; for a pair's chosen side, each."""
        if isinstance(settings, SftSettings) and settings.tasks is not None:
            return look_at(self._good[: settings.tasks], _characters)
        return self.demonstrations

    @property
    def pairs(self) -> list[PreferencePair]:
        """The run's pairs; none before there are any, or where they cannot be read (see `unread_pairs`)."""
        return self._pairs_file[0]

    @property
    def unread_pairs(self) -> str:
        """Why the file of the pairs cannot be read; empty where it can, or is not there."""
        return self._pairs_file[1]

    @functools.cached_property
    def pair_sample(self) -> Sample[PreferencePair]:
        """The pairs whose tokens are looked at."""
        return look_at(self.pairs, _characters)

    def tokens(self, row: Trajectory | PreferencePair) -> tuple[ConversationTokens, ...]:
        """The tokens of a trajectory, or of a pair's two sides, chosen and rejected; counted once.

        Raises:
            DataError: The chat template refuses it; the message names it.
        """
        if id(row) not in self._counted:
            counts = tuple(self._count(messages, row, where=where) for where, messages in _conversations(row))
            self._counted[id(row)] = (row, counts)
        return self._counted[id(row)][1]

    def counted(self, rows: Iterable[_RowT]) -> list[tuple[_RowT, tuple[ConversationTokens, ...]]]:
        """Those rows that the chat template takes, with their tokens; the others are a check's own matter."""
        found = []
        for row in rows:
            try:
                found.append((row, self.tokens(row)))
            except DataError:
                continue
        return found

    @functools.cached_property
    def _good(self) -> list[Trajectory]:
        least = self.config.expert.min_reward
        return [row for row in self.expert.rows if reaches(row.reward, least)]

    @functools.cached_property
    def _pairs_file(self) -> tuple[list[PreferencePair], str]:
        """The pairs that the run's file holds, and why it cannot be read."""
        if not self.directory.pairs.exists():
            return [], ""
        try:
            return read_pairs(self.directory.pairs), ""
        except DataError as error:
            return [], str(error)

    def _recorded_turn_seconds(self) -> float:
        """What a turn took when the run's expert played; 0 where that stage has not ended yet."""
        if not self.directory.manifest.exists():
            return 0.0
        stage = Manifest.read(self.directory.manifest).stages.get("expert", {})
        collected = stage.get("result", {}).get("collect", {})
        if not collected.get("played"):
            return 0.0
        turns = collected["turns"] * collected["played"] / collected["episodes"]
        return float(collected["seconds"] / max(1.0, turns))

    def _count(
        self, messages: Sequence[Message], row: Trajectory | PreferencePair, *, where: str
    ) -> ConversationTokens:
        rendered = self.renderer.render(messages, tools=row.tools, where=where)
        turns = collections.Counter(turn for turn in rendered.turns if turn != NO_TURN)
        return ConversationTokens(length=rendered.scored_length, turns=tuple(turns.values()))

    def _made_up(self, unplayed: str) -> ExpertEpisodes:
        return ExpertEpisodes(
            rows=made_up_conversations(self.config.prompt),
            source="made up, since the expert could not play",
            unplayed=unplayed,
        )

    def _why_no_turn(self, episodes: int, faults: Sequence[str]) -> str:
        environment = self.config.environment
        if not episodes:
            return f"split {environment.train_split!r} of {environment.name} has no tasks"
        if faults:
            return f"the environment failed in {len(faults)} of {episodes} episodes, lastly: {faults[-1]}"
        return f"{environment.name} has no expert, or it gives up at once: {episodes} episodes without a turn"

    def _play(self) -> list[Trajectory]:
        environment = self.config.environment
        tasks = self.tasks(environment.train_split)[:TRIED_TASKS]
        if not tasks:
            return []
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


def _conversations(row: Trajectory | PreferencePair) -> list[tuple[str, tuple[Message, ...]]]:
    """The conversations of a row, each with what errors call it."""
    if isinstance(row, Trajectory):
        return [(row.id, row.messages)]
    sides = (("chosen", row.chosen), ("rejected", row.rejected))
    return [(f"{row.id}, {name}", row.prompt + side) for name, side in sides]


def _characters(row: Trajectory | PreferencePair) -> int:
    """About how long a row is: its characters, which are there without any tokenizer."""
    return sum(len(message.content) for _, messages in _conversations(row) for message in messages)
