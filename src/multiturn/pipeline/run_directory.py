"""Where everything of a run lies."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from multiturn.pipeline.methods import REFERENCE

if TYPE_CHECKING:
    from pathlib import Path

    from multiturn.pipeline.methods import MethodRound

__all__ = ["RoundFiles", "RunDirectory"]


@dataclasses.dataclass(frozen=True)
class RoundFiles:
    """What one round of a method trains on.

    Attributes:
        exploration: The rollouts that its pairs were made of.
        pairs: The preference pairs.
        reference: The log-probabilities of the policy that the round begins with.
    """

    exploration: Path
    pairs: Path
    reference: Path


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """The layout of a run's directory.

    Attributes:
        root: The directory.
    """

    root: Path

    @property
    def manifest(self) -> Path:
        """Configuration, versions and finished stages."""
        return self.root / "manifest.json"

    @property
    def expert(self) -> Path:
        """The expert's trajectories."""
        return self.root / "expert.jsonl"

    @property
    def exploration(self) -> Path:
        """The SFT policy's rollouts on training tasks."""
        return self.root / "exploration.jsonl"

    @property
    def pairs(self) -> Path:
        """The preference pairs."""
        return self.root / "pairs.jsonl"

    @property
    def pair_scores(self) -> Path:
        """Log-probabilities of the turns of some pairs, for the report."""
        return self.root / "pair_scores.json"

    @property
    def summary(self) -> Path:
        """All results as JSON."""
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        """All results as one HTML page."""
        return self.root / "report.html"

    @property
    def reference(self) -> Path:
        """The reference's per-turn log-probabilities, shared by all preference trainings."""
        return self.training(REFERENCE)

    @property
    def lock(self) -> Path:
        """Held by the process that works on the run."""
        return self.root / ".lock"

    def training(self, name: str) -> Path:
        """The folder of one training, by its policy's name in results: ``model`` when it is done."""
        return self.root / "training" / name

    def model(self, name: str) -> Path:
        """The model that one training ended with."""
        return self.training(name) / "model"

    def round(self, entry: MethodRound) -> RoundFiles:
        """What one round of a method trains on; all methods share it in the first round."""
        if entry.number == 1:
            return RoundFiles(self.exploration, self.pairs, self.reference)
        folder = self.root / "rounds" / str(entry.number) / entry.method
        return RoundFiles(folder / "exploration.jsonl", folder / "pairs.jsonl", folder / REFERENCE)

    def evaluation(self, name: str, split: str) -> Path:
        """The episodes of one policy on one test split, by the name that it has in results."""
        return self.root / "evaluation" / f"{name}-{split}.jsonl"
