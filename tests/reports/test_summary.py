"""The summary: its schema, its findings, and what it warns of."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from made_up import make_up, one_split, two_splits

from multiturn.evaluation.compare import compare
from multiturn.evaluation.evaluate import summarize
from multiturn.reports.summary import SUMMARY_SCHEMA, build_summary, describe_pairs
from multiturn.trajectory import Message, Outcome, PreferencePair, Trajectory

INTERVAL = {"mean", "low", "high", "level", "method", "tasks", "types"}


def play(rewards: list[float], *, crashed: int = 0) -> list[Trajectory]:
    return [
        Trajectory(
            id=f"t{i}",
            task_id=f"t{i}",
            messages=(Message(role="user", content="Go."), Message(role="assistant", content="Gone.")),
            reward=reward,
            success=reward == 1.0,
            outcome=Outcome.ENVIRONMENT_ERROR if i < crashed else Outcome.COMPLETED,
        )
        for i, reward in enumerate(rewards)
    ]


def summary_of(methods: dict[str, list[Trajectory]], **arguments: Any) -> dict[str, Any]:
    others = [name for name in methods if name != "sft"]
    return build_summary(
        run={"name": "x"},
        evaluations={"test": {name: summarize(found, resamples=300) for name, found in methods.items()}},
        comparisons={
            "test": [
                compare(methods[name], methods["sft"], names=(name, "sft"), resamples=300) for name in others
            ]
        },
        **arguments,
    )


def test_the_schema() -> None:
    summary = one_split().summary
    assert summary == json.loads(json.dumps(summary, allow_nan=False))
    assert set(summary) == {
        "schema",
        "run",
        "level",
        "baseline",
        "methods",
        "main_method",
        "headline",
        "findings",
        "splits",
        "pairs",
        "rounds",
        "trainings",
        "stages",
        "warnings",
    }
    assert summary["schema"] == SUMMARY_SCHEMA
    assert summary["methods"] == ["sft", "dpo", "dmpo"]
    assert summary["main_method"] == "dmpo"
    method = summary["splits"]["test"]["methods"]["dmpo"]
    assert set(method["reward"]) == INTERVAL
    assert set(method["by_type"]["pick_two"]) == {"tasks", "reward", "success", "turns"}
    assert sum(method["outcomes"].values()) == method["episodes"] == 120
    comparison = summary["splits"]["test"]["comparisons"][0]
    assert set(comparison["reward"]) == INTERVAL
    assert comparison["better"] + comparison["equal"] + comparison["worse"] == comparison["tasks"] == 120
    assert len(comparison["differences"]) == 120
    assert list(summary["trainings"]) == ["sft", "dpo", "dmpo"]
    assert {"loss", "rewards/margins", "logratios/chosen"} <= set(summary["trainings"]["dmpo"]["curves"])
    assert "train_loss" not in summary["trainings"]["dmpo"]["curves"]
    assert [stage["name"] for stage in summary["stages"]][:2] == ["expert", "sft"]


@pytest.mark.parametrize(
    ("rewards", "headline"),
    [
        ([1.0] * 12 + [0.0] * 18, "DMPO beats SFT by +0.40 ["),
        ([0.0] * 30, "No difference between DMPO and SFT that 30 tasks can show: 0.00 ["),
    ],
)
def test_the_headline_says_what_was_found(rewards: list[float], headline: str) -> None:
    summary = summary_of({"sft": play([0.0] * 30), "dmpo": play(rewards)})
    assert summary["headline"].startswith(headline)
    assert summary["headline"].endswith("].")


def test_a_loss_is_a_headline_too() -> None:
    summary = summary_of({"sft": play([1.0] * 15 + [0.0] * 15), "dmpo": play([0.0] * 30)})
    assert summary["headline"].startswith("DMPO falls behind SFT: \N{MINUS SIGN}0.50 [")
    assert summary["findings"][0]["verdict"] == "worse"


def test_several_splits_share_a_headline() -> None:
    headline = two_splits().summary["headline"]
    assert headline.startswith("DMPO beats SFT by +")
    assert " on seen and +" in headline
    assert headline.endswith(" on unseen.")


def test_without_a_comparison_there_is_no_claim() -> None:
    summary = build_summary(run={}, evaluations={"test": {"mine": summarize(play([1.0, 0.0]))}, "empty": {}})
    assert (summary["headline"], summary["findings"], list(summary["splits"])) == ("", [], ["test"])


def test_the_main_method_is_the_one_trained_with_dmpo() -> None:
    methods = {"sft": play([0.0, 1.0]), "a": play([0.0, 1.0]), "b": play([0.0, 1.0])}
    trainings = {"a": {"objective": "dpo", "log": []}, "b": {"objective": "dmpo", "log": []}}
    assert summary_of(methods, trainings=trainings)["main_method"] == "b"
    assert summary_of(methods)["main_method"] == "a"


def test_what_a_reader_must_know_is_a_warning() -> None:
    history = {
        "objective": "dmpo",
        "log": [],
        "warnings": [{"step": 3, "warning": "The chosen log-ratio is falling."}],
        "data": {"rows": 10, "used": 8, "dropped": {"longer than max_length": 2}, "cut": 1},
    }
    summary = summary_of(
        {"sft": play([0.0] * 5), "dmpo": play([1.0] * 5, crashed=2)},
        trainings={"dmpo": history},
        warnings=["Only one epoch."],
    )
    assert summary["warnings"] == [
        "Only one epoch.",
        "Training of DMPO: The chosen log-ratio is falling.",
        "Training of DMPO: 2 of 10 rows left out (longer than max_length).",
        "Training of DMPO: 1 conversations cut at a turn boundary.",
        "DMPO on test: 2 of 5 episodes ended in an environment error and are left out.",
    ]


def test_numbers_that_are_none_become_null() -> None:
    log = [{"step": 1, "loss": math.nan}, {"step": 2, "loss": math.inf}, {"epoch": 1.0}]
    summary = summary_of({"sft": play([0.0])}, trainings={"sft": {"log": log}})
    assert summary["trainings"]["sft"]["curves"]["loss"] == {"step": [1, 2], "value": [None, None]}
    assert summary["trainings"]["sft"]["last"]["loss"] is None
    json.dumps(summary, allow_nan=False)


def test_the_last_value_is_a_mean_over_the_last_tenth() -> None:
    """Of the losses 1 to 20 the last tenth is 19 and 20: 19.5."""
    log = [{"step": i, "loss": float(i)} for i in range(1, 21)]
    summary = summary_of({"sft": play([0.0])}, trainings={"sft": {"log": log}})
    assert summary["trainings"]["sft"]["last"]["loss"] == 19.5


def test_pairs_are_described_with_the_turns_of_both_sides() -> None:
    """Chosen 1, 2 and 6 turns: mean 3, median 2."""

    def side(turns: int) -> tuple[Message, ...]:
        return (Message(role="assistant", content="a"), Message(role="user", content="b")) * turns

    prompt = (Message(role="user", content="Go."),)
    pairs = [PreferencePair(id=str(n), prompt=prompt, chosen=side(n), rejected=side(4)) for n in (1, 2, 6)]
    described = describe_pairs(pairs, counts={"pairs": 3}, dropped={"tie": 2})
    assert described["num_turns"]["chosen"] == {"mean": 3.0, "median": 2, "max": 6}
    assert (described["counts"], described["dropped"]) == ({"pairs": 3}, {"tie": 2})
    assert describe_pairs([], counts={}, dropped={})["num_turns"] == {}


def test_turn_weights_are_those_of_the_method() -> None:
    """T = 2, gamma = 0.5: phi = 1 and (0.5 - 0.25) / (1 - 0.25) = 1/3. Trajectory DPO weighs all alike."""
    pairs = {"counts": {}, "dropped": {}, "num_turns": {"chosen": {"median": 2}, "rejected": {"median": 1}}}
    trainings = {
        "dmpo": {"objective": "dmpo", "gamma": 0.5, "log": []},
        "dpo": {"objective": "dpo", "gamma": 0.5, "log": []},
        "sft": {"objective": "sft", "log": []},
    }
    found = summary_of({"sft": play([0.0])}, trainings=trainings, pairs=pairs)["trainings"]
    assert found["dmpo"]["weights"] == {"chosen": pytest.approx([1.0, 1 / 3]), "rejected": [1.0]}
    assert found["dpo"]["weights"] == {"chosen": [1.0, 1.0], "rejected": [1.0]}
    assert (found["sft"]["weights"], found["dpo"]["gamma"], found["dmpo"]["gamma"]) == (None, None, 0.5)


def test_the_same_run_gives_the_same_summary() -> None:
    again = make_up(("seen", "unseen"), tasks=30)
    assert json.dumps(again.summary) == json.dumps(two_splits().summary)
