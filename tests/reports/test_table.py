"""The table for the terminal."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

from made_up import one_split, two_splits
from rich.console import Console

from multiturn.evaluation.best_of import best_episodes, summarize_best
from multiturn.evaluation.compare import compare
from multiturn.evaluation.evaluate import summarize
from multiturn.reports.html import render_report
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


def test_an_oracle_is_called_one_and_is_not_the_headline() -> None:
    """A task's two samples earn 0 and 1: the best 1, a sample 0.5. What is told is about the trained one."""
    played = one_split().episodes["test"]
    samples = [
        dataclasses.replace(t, id=f"{t.task_id}#{n}", reward=float(n), success=n == 1)
        for n in (0, 1)
        for t in played["sft"]
    ]
    best = best_episodes(samples)
    summary = build_summary(
        run={},
        evaluations={
            "[red]x": {
                "sft": summarize(played["sft"], resamples=100),
                "best_of_n": summarize_best(samples),
                "rft": summarize(played["dpo"], resamples=100),
            }
        },
        comparisons={
            "[red]x": [
                compare(best, played["sft"], names=("best_of_n", "sft"), resamples=100),
                compare(played["dpo"], played["sft"], names=("rft", "sft"), resamples=100),
            ]
        },
        trainings={"rft": {"log": []}},
    )
    assert summary["main_method"] == "rft"
    assert "RFT" in summary["headline"]
    assert "best_of_n" not in summary["headline"]
    note = (
        "best_of_n is an oracle: of 2 samples a task the best counts, by the test's own reward. "
        "A sample earns 0.500 ["
    )
    assert note in " ".join(printed(summary).split())
    both = json.loads(json.dumps(summary))
    both["splits"]["y"] = both["splits"]["[red]x"]
    assert f"[red]x: {note}" in " ".join(printed(both).split())
    made = {"counts": {"rollouts": 3, "pairs": 1}, "dropped": {"tie": 2}}
    rounds = [{"name": "a-round2", "method": "a", "round": 2, **made}]
    pairs = {"counts": {"pairs": 3}, "dropped": {}, "num_turns": {}, "turn_counts": {}}
    page = render_report({**summary, "rounds": rounds, "pairs": pairs})
    assert note[:40] in page
    assert "2 the same reward as the other side</td>" in page
