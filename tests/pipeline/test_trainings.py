"""What a run's settings make of pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multiturn.pipeline import trainings
from multiturn.pipeline.config import PromptSettings
from multiturn.pipeline.train_settings import PreferenceSettings
from multiturn.training.rows import read_pair, read_trajectory
from multiturn.trajectory import Message, PreferencePair

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pytest

    from multiturn.trajectory import Role


def turn(role: Role, content: str) -> Message:
    return Message(role=role, content=content)


def test_the_control_scores_the_chosen_side_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt's own assistant turn is not scored, neither by pairwise training nor by its control."""
    pair = PreferencePair(
        id="p",
        prompt=(turn("user", "mug?"), turn("assistant", "look"), turn("user", "a mug 1")),
        chosen=(turn("assistant", "take mug 1"), turn("user", "taken"), turn("assistant", "put mug 1")),
        rejected=(turn("assistant", "look"),),
    )
    seen: dict[str, Any] = {}

    def train_sft(policy: object, rows: Sequence[object], arguments: Any, **_: object) -> dict[str, Any]:
        seen.update(rows=rows, arguments=arguments)
        return {}

    monkeypatch.setattr(trainings, "train_sft", train_sft)
    monkeypatch.setattr(trainings, "load_model", lambda spec: spec)
    trainings.train_on_pairs(
        "model",
        [pair],
        settings=PreferenceSettings(objective="sft", batch_size=2, learning_rate=0.5),
        prompt=PromptSettings(),
        precision="fp32",
        seed=0,
        output=tmp_path,
    )
    (control,) = (read_trajectory(row, 0).conversations[0] for row in seen["rows"])
    chosen = read_pair(pair, 0).conversations[0]
    assert (control.messages, control.unscored, control.tools) == (
        chosen.messages,
        chosen.unscored,
        chosen.tools,
    )
    assert chosen.unscored == 1
    assert seen["arguments"].learning_rate == 0.5


def test_the_settings_of_an_objective_reach_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def train_preference(policy: object, pairs: object, arguments: Any, **_: object) -> dict[str, Any]:
        seen.append(arguments)
        return {}

    monkeypatch.setattr(trainings, "load_model", lambda spec: spec)
    monkeypatch.setattr(trainings, "train_preference", train_preference)
    for settings in (
        PreferenceSettings(objective="cdpo", label_smoothing=0.2, weighting="last"),
        PreferenceSettings(objective="simpo", target_margin=0.3, beta=2.0),
    ):
        trainings.train_on_pairs(
            "model", [], settings=settings, prompt=PromptSettings(), precision="fp32", seed=0, output=tmp_path
        )
    assert [(args.objective, args.weighting) for args in seen] == [("cdpo", "last"), ("simpo", None)]
    assert [(args.label_smoothing, args.target_margin) for args in seen] == [(0.2, None), (None, 0.3)]


def test_a_training_in_a_line() -> None:
    """11 steps: the last tenth are two, with losses 0.3 and 0.7 and accuracies 1 and 0."""
    losses = [9.0] * 9 + [0.3, 0.7]
    log: list[dict[str, float]] = [{"loss": loss, "rewards/accuracies": 1.0} for loss in losses]
    log[-1]["rewards/accuracies"] = 0.0
    log.append({"train_runtime": 3.0})  # what transformers says at the end is no step
    assert trainings.describe_training({"log": log}) == "loss 0.500, accuracy 0.50"
    assert trainings.describe_training({"log": [{"loss": 0.5}], "warnings": ["hot"]}) == "loss 0.500, hot"
    assert trainings.describe_training({"log": []}) == "done"
