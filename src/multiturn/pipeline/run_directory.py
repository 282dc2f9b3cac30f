"""Where everything of a run lies."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from multiturn.pipeline.config import REFERENCE

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["RunDirectory"]


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

    def training(self, method: str) -> Path:
        """The folder of one training: checkpoints while it runs, ``model`` when it is done."""
        return self.root / "training" / method

    def model(self, method: str) -> Path:
        """The model that one training ended with."""
        return self.training(method) / "model"

    def evaluation(self, method: str, split: str) -> Path:
        """The episodes of one method on one test split."""
        return self.root / "evaluation" / f"{method}-{split}.jsonl"
