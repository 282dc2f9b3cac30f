"""docs/method.md: its example of an objective of one's own runs, and configurations know every name."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import yaml

from multiturn.objective import PAIR_OBJECTIVES, WEIGHTINGS
from multiturn.pipeline.config import Config
from multiturn.pipeline.objectives import OBJECTIVES, READ_BY
from multiturn.pipeline.objectives import WEIGHTINGS as CONFIGURED_WEIGHTINGS
from multiturn.training.objectives import PairTask

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).resolve().parents[2] / "docs" / "method.md"


def block(language: str, containing: str) -> str:
    """The fenced block of a language that contains a text."""
    page = PAGE.read_text(encoding="utf-8")
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    (one,) = [text for text in found if containing in text]
    return one


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's module, where Python finds it."""
    (tmp_path / "my_objectives.py").write_text(block("python", "boosted ="), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    monkeypatch.delitem(sys.modules, "my_objectives", raising=False)


def test_it_is_as_short_as_it_looks() -> None:
    code = [line for line in block("python", "boosted =").splitlines() if line.strip()]
    assert len(code) <= 20


@pytest.mark.usefixtures("example")
def test_the_example_by_hand() -> None:
    """Log-ratios of 2, 1 and 1, 1 at beta = 1/2, gamma = 1: phi(., 2) = (1, 1/2).

    boosted: m = (2 + 1/2) / 2 - (1 + 1/2) / 2 = 1/2, so the loss is e^-1/2. With the first half of the turns
    alone m = (2 - 1) / 2 = 1/2 as well, and -log sigmoid(1/2) = log(1 + e^-1/2).
    """
    policy = torch.tensor([[-1.0, -1.0], [-2.0, -2.0]])
    reference = torch.tensor([[-3.0, -2.0], [-3.0, -3.0]])
    turns, tokens = torch.tensor([2, 2]), torch.tensor([4, 4])
    half = torch.tensor([0.5])
    boosted = PairTask("my_objectives:boosted", 0.5, 1.0)
    assert boosted.name == "BOOSTED"
    losses = boosted.score(policy, reference, turns, tokens).losses
    torch.testing.assert_close(losses, torch.exp(-half))
    early = PairTask("dpo", 0.5, 1.0, weighting="my_objectives:early")
    losses = early.score(policy, reference, turns, tokens).losses
    torch.testing.assert_close(losses, torch.log1p(torch.exp(-half)))


@pytest.mark.usefixtures("example")
def test_the_example_in_a_run_and_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = yaml.safe_load(block("yaml", "my_objectives"))
    config = Config.model_validate({"name": "x", "environment": {"name": "household"}, **content})
    for name in config.methods:
        method = config.method(name)
        task = PairTask(method.objective, method.beta, method.gamma, weighting=method.weighting)
        assert method.objective in repr(task)
        assert repr(method.weighting) in repr(task)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block("python", "DMPOConfig"), str(PAGE), "exec"), names)  # noqa: S102 - our own page
    assert "my_objectives:early" in repr(names["args"])


def test_configurations_know_every_objective_and_who_reads_what() -> None:
    """The names are written down twice, once where torch is not loaded."""
    assert list(OBJECTIVES) == [*PAIR_OBJECTIVES, "sft"]
    assert tuple(WEIGHTINGS) == CONFIGURED_WEIGHTINGS
    for setting in ("label_smoothing", "target_margin"):
        readers = [name for name, one in PAIR_OBJECTIVES.items() if getattr(one, setting) is not None]
        assert list(READ_BY[setting]) == readers
    assert list(READ_BY["weighting"]) == list(PAIR_OBJECTIVES)
    assert all(line and "\n" not in line for line in OBJECTIVES.values())
