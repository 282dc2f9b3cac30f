"""The documents say what the code does: labels, names and tables."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from objective_pairs import random_logps

from multiturn.evaluation.compare import Comparison
from multiturn.evaluation.evaluate import MethodSummary
from multiturn.objective import PAIR_OBJECTIVES, WEIGHTINGS, dmpo, dpo, sft, turn_weights
from multiturn.trajectory import Outcome

ROOT = Path(__file__).resolve().parents[2]
METHOD = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
METRICS = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
LABEL = re.compile(r"\bM(\d{1,2})\b")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_every_label_that_the_code_cites_heads_a_section() -> None:
    headings = " ".join(line for line in METHOD.splitlines() if line.startswith("#"))
    defined = {int(number) for number in LABEL.findall(headings)}
    assert defined >= {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}
    cited = {
        int(number)
        for path in (ROOT / "src").rglob("*.py")
        for number in LABEL.findall(path.read_text(encoding="utf-8"))
    }
    assert cited <= defined


def test_the_tables_of_weights_are_what_the_code_computes() -> None:
    rows = {
        float(cells(line)[0]): [float(cell) for cell in cells(line)[1:]]
        for line in METHOD.splitlines()
        if re.match(r"\| [01](\.\d+)? \| 1 \|", line)
    }
    by_default = next(cells(line) for line in METHOD.splitlines() if "what multiturn computes" in line)
    rows[0.7] = [float(cell) for cell in by_default[1:]]
    assert len(rows) == 8
    for gamma, row in rows.items():
        weights = turn_weights(torch.tensor([5]), gamma)[0]
        assert row == pytest.approx([*weights.tolist(), weights.sum().item()], abs=6e-4), gamma


def test_every_objective_stands_in_the_table_of_objectives() -> None:
    table = METHOD[METHOD.index("## The objectives") :].partition("###")[0].splitlines()
    rows = {cells(line)[0].strip("`"): cells(line) for line in table if line.startswith("| `")}
    assert set(rows) == {*PAIR_OBJECTIVES, "sft", "chosen_nll` > 0"}
    for name, objective in PAIR_OBJECTIVES.items():
        _, _, weight, _, reads, _, _ = rows[name]
        assert (weight == "1") == (objective.weighting is WEIGHTINGS["uniform"])
        assert ("no reference" not in reads) == objective.reads_reference
        for setting in ("label_smoothing", "target_margin"):
            assert (f"`{setting}`" in reads) == (getattr(objective, setting) is not None)


def test_every_metric_has_its_definition() -> None:
    logps = random_logps([2], [1])
    outputs = (
        dmpo(logps, beta=0.1, gamma=0.7),
        dpo(logps, beta=0.1),
        sft(torch.zeros(1, 1), torch.tensor([1])),
    )
    named = {name for output in outputs for name in output.metrics}
    named |= {field.name for part in (MethodSummary, Comparison) for field in dataclasses.fields(part)}
    named |= {outcome.value for outcome in Outcome}
    named |= {"loss", "grad_norm", "learning_rate", "verdict"}
    defined = {
        name
        for line in METRICS.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", cells(line)[0])
    }
    assert named - {"method", "baseline", "outcomes"} <= defined
