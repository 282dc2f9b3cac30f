"""The table for the terminal."""

from __future__ import annotations

import io
import json
from typing import Any

from made_up import one_split, two_splits
from rich.console import Console

from multiturn.evaluation.evaluate import summarize
from multiturn.reports.summary import build_summary
from multiturn.reports.table import format_table


def printed(summary: dict[str, Any], *, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(format_table(summary))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_it_fits_into_eighty_columns() -> None:
    text = printed(one_split().summary)
    assert "…" not in text
    for word in ("SFT", "DPO", "DMPO", "average", "success", "turns", "invalid", "against", "95% intervals"):
        assert word in text
    comparison = one_split().summary["splits"]["test"]["comparisons"][1]
    assert f"{comparison['better']}/{comparison['equal']}/{comparison['worse']}" in text
    assert "[red]" not in text


def test_the_control_fits_as_well() -> None:
    text = printed(json.loads(json.dumps(one_split().summary).replace('"dpo"', '"sft-chosen"')))
    assert "SFT-chosen" in text
    assert "…" not in text


def test_splits_are_told_apart() -> None:
    text = printed(two_splits().summary)
    assert text.index("seen") < text.index("unseen")


def test_a_single_method_needs_no_baseline() -> None:
    found = summarize(one_split().episodes["test"]["dpo"], resamples=100)
    text = printed(build_summary(run={}, evaluations={"test": {"[bold]runs/x\x1b[2J": found}}))
    assert "against" not in text
    assert "[bold]runs/x⟨U+001B⟩[2J" in text
