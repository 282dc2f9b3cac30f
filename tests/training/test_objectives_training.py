"""Every objective through the trainer: what it learns, what it needs, and how its settings are refused."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from training_samples import lora, pair, pairs, policy

from multiturn.cli.app import run_app
from multiturn.errors import ConfigError
from multiturn.models import turn_logps
from multiturn.objective import PAIR_OBJECTIVES, WEIGHTINGS
from multiturn.pipeline.config import PromptSettings
from multiturn.pipeline.load import load_config
from multiturn.pipeline.objectives import OBJECTIVES
from multiturn.pipeline.train_settings import PreferenceSettings
from multiturn.pipeline.trainings import train_on_pairs
from multiturn.tokens import Renderer, collate
from multiturn.training import DMPOConfig, DMPOTrainer
from multiturn.training.objectives import PairTask, find_weighting
from multiturn.trajectory import Message, PreferencePair

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiturn.models import Policy

AT_THE_REFERENCE = {"ipo": 25.0, "hinge": 1.0}
"""Losses of margin 0 at beta 0.1: 1 / (4 * 0.01) and 1 - 0; the others' is log 2."""
RULES = """
import torch
def first(num_turns, gamma, /, *, max_turns=None):
    columns = int(num_turns.max()) if max_turns is None else max_turns
    return (torch.arange(columns)[None, :] < torch.ones(len(num_turns), 1)).double()
def narrow(num_turns, gamma, /, *, max_turns=None):
    return torch.ones(len(num_turns), 1)
def endless(num_turns, gamma, /, *, max_turns=None):
    columns = int(num_turns.max()) if max_turns is None else max_turns
    return torch.ones(len(num_turns), columns)
def once(num_turns, gamma, /, *, max_turns=None):
    if len(num_turns) != 3:
        raise KeyError("gone")
    return first(num_turns, gamma, max_turns=max_turns)
def plain(num_turns):
    return torch.ones(len(num_turns), 1)
constant = 3
"""


def _trainer(policy: Policy, args: DMPOConfig, **options: Any) -> DMPOTrainer:
    options.setdefault("train_dataset", pairs(8))
    return DMPOTrainer(policy.model, args, processing_class=policy.tokenizer, **options)


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module `own_rules` where Python finds it."""
    (tmp_path / "own_rules.py").write_text(RULES, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    monkeypatch.delitem(sys.modules, "own_rules", raising=False)


@pytest.fixture
def no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computing a reference is an error."""
    from multiturn.models import reference

    monkeypatch.delattr(reference, "_compute")


@pytest.mark.parametrize("objective", list(PAIR_OBJECTIVES))
def test_every_objective_learns(tiny: Policy, run_options: dict[str, Any], objective: str) -> None:
    """Its loss falls, on pairs that it was not trained on too, and the margin grows."""
    beta = 2.0 if objective == "simpo" else 0.1
    args = DMPOConfig(**run_options, objective=objective, beta=beta, learning_rate=3e-3, num_train_epochs=4)
    args.per_device_train_batch_size, args.gradient_accumulation_steps = 4, 1
    trainer = _trainer(tiny, args, eval_dataset=[pair(100 + i, chosen=2, rejected=2) for i in range(4)])
    before = trainer.evaluate()
    if objective != "simpo":
        assert before["eval_loss"] == pytest.approx(AT_THE_REFERENCE.get(objective, math.log(2)), abs=1e-5)
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"]
    assert after["eval_rewards/margins"] > before["eval_rewards/margins"] + 0.1
    assert after["eval_rewards/accuracies"] == 1.0
    logged = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    assert logged[-1] < logged[0]


@pytest.mark.parametrize("weighting", list(WEIGHTINGS))
def test_any_weighting_with_any_objective(tiny: Policy, run_options: dict[str, Any], weighting: str) -> None:
    args = DMPOConfig(**run_options, objective="hinge", weighting=weighting, max_steps=4, learning_rate=3e-3)
    trainer = _trainer(tiny, args)
    trainer.train()
    logged = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    assert logged[0] == pytest.approx(1.0, abs=1e-5)
    assert logged[-1] < logged[0]


def test_dpo_with_the_weights_of_dmpo_trains_as_dmpo(tmp_path: Path) -> None:
    losses = {}
    for objective, weighting in (("dmpo", None), ("dpo", "phi"), ("dpo", None), ("dmpo", "uniform")):
        args = DMPOConfig(
            output_dir=str(tmp_path / f"{objective}-{weighting}"),
            objective=objective,
            weighting=weighting,
            max_steps=3,
            learning_rate=3e-3,
            logging_steps=1,
            save_strategy="no",
        )
        trainer = _trainer(policy(), args)
        trainer.train()
        losses[objective, weighting] = [r["loss"] for r in trainer.state.log_history if "loss" in r]
    assert losses["dmpo", None] == losses["dpo", "phi"] != losses["dpo", None]
    assert losses["dpo", None] == losses["dmpo", "uniform"]


@pytest.mark.usefixtures("no_reference")
def test_simpo_computes_and_keeps_no_reference(tiny: Policy, run_options: dict[str, Any]) -> None:
    """No pass, second model, folder or watch; and rows that are new after training can be evaluated."""
    args = DMPOConfig(**run_options, objective="simpo", beta=2.0, reference="live", max_steps=2)
    trainer = _trainer(tiny, args, eval_dataset=pairs(2))
    trainer.train()
    assert trainer.reference is None
    assert trainer._watch is None
    assert not (Path(str(args.output_dir)) / "reference").exists()
    record = trainer.state.log_history[0]
    assert not [name for name in record if name.startswith("logratios")]
    assert math.isfinite(trainer.evaluate([pair(77)])["eval_rewards/margins"])


def test_simpo_with_an_adapter(tiny: Policy, run_options: dict[str, Any]) -> None:
    args = DMPOConfig(**run_options, objective="simpo", beta=2.0, max_steps=3, learning_rate=1e-2)
    trainer = _trainer(tiny, args, peft_config=lora())
    trainer.train()
    logged = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    assert logged[-1] < logged[0]


def test_simpo_equals_a_computation_by_hand(tiny: Policy, run_options: dict[str, Any]) -> None:
    """Rewards are beta times the mean over scored tokens; the loss of a pair is log(1 + e^(target - m))."""
    rows = pairs(3)
    renderer = Renderer(tiny.tokenizer)
    expected = []
    tiny.model.eval()
    for row in rows:
        rewards = []
        for side in ("chosen", "rejected"):
            rendered = renderer.render([Message.from_json(m) for m in [*row["prompt"], *row[side]]])
            with torch.no_grad():
                total = float(turn_logps(tiny.model, collate([rendered])).sum())
            rewards.append(2.0 * total / sum(turn >= 0 for turn in rendered.turns))
        expected.append(math.log1p(math.exp(0.3 - (rewards[0] - rewards[1]))))
    args = DMPOConfig(**run_options, objective="simpo", beta=2.0, target_margin=0.3, max_steps=1)
    trainer = _trainer(tiny, args, train_dataset=rows)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(sum(expected) / 3, rel=1e-4)


def test_simpo_takes_no_reference_model(tiny: Policy, run_options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="'simpo' reads no reference; leave ref_model out"):
        _trainer(tiny, DMPOConfig(**run_options, objective="simpo"), ref_model=policy(seed=1).model)


def test_chosen_nll_goes_with_every_objective(tiny: Policy, run_options: dict[str, Any]) -> None:
    """At the reference the hinge is 1, so the loss is 1 + 0.5 times the chosen side's NLL per token."""
    args = DMPOConfig(**run_options, objective="hinge", chosen_nll=0.5, max_steps=1)
    trainer = _trainer(tiny, args)
    trainer.train()
    record = trainer.state.log_history[0]
    assert record["loss"] == pytest.approx(1 + 0.5 * record["nll/token"], rel=1e-5)


# ---- settings ----


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"objective": "ipoo"}, r"use one of dmpo, .*, simpo \(did you mean 'ipo'\?\), or 'module:name'"),
        ({"objective": 3}, "objective is 3"),
        ({"weighting": "lasst"}, r"use one of phi, uniform, exponential, last \(did you mean 'last'\?\)"),
        ({"weighting": 1.0}, "weighting 1.0; use names"),
        ({"label_smoothing": 0.1}, "objective 'dmpo' does not read it; leave it out, or use cdpo or robust"),
        ({"objective": "ipo", "target_margin": 1.0}, "'ipo' does not read it; leave it out, or use simpo"),
        ({"objective": "cdpo", "label_smoothing": 0.5}, r"label_smoothing is 0.5; it must be in \[0, 0.5\)"),
        ({"objective": "cdpo", "label_smoothing": "0.1"}, "label_smoothing is '0.1'"),
        ({"objective": "simpo", "target_margin": -1}, "target_margin is -1.0"),
        ({"objective": "simpo", "target_margin": True}, "target_margin is True"),
        ({"weighting": ":rule"}, "write 'module:name'"),
        ({"weighting": "absent_module:rule"}, "there is no module 'absent_module'"),
        ({"weighting": "own_rules:absent"}, "the module 'own_rules' has no 'absent'"),
        ({"weighting": "own_rules:constant"}, "is a int; make it a function"),
        (
            {"weighting": "own_rules:narrow"},
            r"'own_rules:narrow': it gives shape \[3, 1\]; it must be \[3, 5\]",
        ),
        ({"weighting": "own_rules:endless"}, "'own_rules:endless': it gives weight 1.0 to turn 1"),
        ({"weighting": "own_rules:plain"}, "'own_rules:plain': TypeError"),
        ({"objective": "own_rules:first"}, "is a function; make it a PairObjective"),
    ],
)
@pytest.mark.usefixtures("rules")
def test_unusable_settings_are_refused(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        DMPOConfig(output_dir=str(tmp_path), **options)


@pytest.mark.usefixtures("rules")
def test_a_weighting_that_fails_in_the_middle_is_named(tiny: Policy, run_options: dict[str, Any]) -> None:
    """It passes the trial with three trajectories and fails on the pairs of a step."""
    args = DMPOConfig(**run_options, weighting="own_rules:once", max_steps=1)
    with pytest.raises(ConfigError, match="weighting 'own_rules:once': KeyError: 'gone'"):
        _trainer(tiny, args).train()


@pytest.mark.usefixtures("rules")
def test_a_weighting_of_ones_own(tmp_path: Path) -> None:
    """The first turn alone is DMPO at gamma 0."""
    turns = torch.tensor([1, 2, 4])
    own = find_weighting("own_rules:first", 0.7)(turns, 0.7)
    assert torch.equal(own, WEIGHTINGS["phi"](turns, 0.0))
    args = DMPOConfig(output_dir=str(tmp_path), weighting="own_rules:first")
    assert "weighting='own_rules:first'" in repr(args.pair_task())


def test_what_a_resumed_training_must_agree_in() -> None:
    """The task's repr tells all settings apart, and shows what an objective has by itself."""
    tasks = [
        PairTask("dmpo", 0.1, 0.7),
        PairTask("dmpo", 0.1, 0.7, weighting="last"),
        PairTask("dmpo", 0.1, 0.7, chosen_nll=0.1),
        *(PairTask(name, 0.1, 0.7) for name in PAIR_OBJECTIVES if name != "dmpo"),
        PairTask("cdpo", 0.1, 0.7, label_smoothing=0.2),
        PairTask("simpo", 0.1, 0.7, target_margin=0.2),
    ]
    assert len({repr(task) for task in tasks}) == len(tasks)
    assert repr(PairTask("cdpo", 0.1, 0.7)) == repr(PairTask("cdpo", 0.1, 0.7, label_smoothing=0.1))
    assert "label_smoothing=0.1" in repr(PairTask("robust", 0.1, 0.7))
    assert "target_margin=0.5" in repr(PairTask("simpo", 0.1, 0.7))


# ---- runs and the command line ----


MINIMAL = "name: tiny\nenvironment: {name: household}\n"


def test_methods_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    listed = "".join(f"  {name}-method: {{objective: {name}}}\n" for name in OBJECTIVES)
    path.write_text(MINIMAL + "methods:\n" + listed, encoding="utf-8")
    config = load_config(path)
    assert [config.method(name).objective for name in config.methods] == list(OBJECTIVES)
    assert {config.method(name).label_smoothing for name in config.methods} == {None}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("{objective: ipoo}", "objective: use one of dmpo, dpo, ipo, .*, or module:objective"),
        (
            "{objective: ipo, weighting: lst}",
            "weighting: use one of phi, uniform, exponential, last",
        ),
        (
            "{objective: ipo, label_smoothing: 0.1}",
            "label_smoothing is set, .* use cdpo or robust",
        ),
        (
            "{objective: sft, weighting: last}",
            "weighting is set, but the objective 'sft'",
        ),
        (
            "{objective: cdpo, label_smoothing: 0.5}",
            "label_smoothing: input should be less than 0.5",
        ),
        (
            "{objective: simpo, target_margin: .inf}",
            "target_margin: input should be a finite number",
        ),
    ],
)
def test_unusable_methods_are_found_out_before_any_work(tmp_path: Path, settings: str, says: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL + f"methods:\n  a: {settings}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"methods\.a(: |\.){says}"):
        load_config(path)


def test_a_method_can_take_back_what_all_have_in_common(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    text = "preference: {weighting: last}\nmethods:\n  a: {objective: sft, weighting: null}\n  b: {}\n"
    path.write_text(MINIMAL + text, encoding="utf-8")
    config = load_config(path)
    assert [config.method(name).weighting for name in config.methods] == [None, "last"]


@pytest.mark.parametrize(("objective", "beta"), [("ipo", 0.1), ("simpo", 2.0)])
def test_a_method_trains(tmp_path: Path, objective: str, beta: float) -> None:
    """As a run would: from its settings to a trained model."""
    history = train_on_pairs(
        {"scratch": {"vocab_size": 300, "hidden_size": 32, "layers": 1}},
        [
            PreferencePair(
                id=str(row["id"]),
                prompt=tuple(Message.from_json(m) for m in row["prompt"]),
                chosen=tuple(Message.from_json(m) for m in row["chosen"]),
                rejected=tuple(Message.from_json(m) for m in row["rejected"]),
            )
            for row in pairs(4)
        ],
        settings=PreferenceSettings(
            objective=objective, beta=beta, batch_size=4, epochs=3, learning_rate=2e-3, checkpoints=0
        ),
        prompt=PromptSettings(),
        precision="fp32",
        seed=0,
        output=tmp_path,
    )
    losses = [record["loss"] for record in history["log"] if "loss" in record]
    assert losses[-1] < losses[0]
    assert (tmp_path / "model" / "config.json").is_file()
    assert (tmp_path / "reference").exists() == (objective != "simpo")


def test_the_command_line_lists_every_objective(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    assert run_app(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    for name, line in OBJECTIVES.items():
        assert sum(f"{name}: {line}" in shown_line for shown_line in shown.splitlines()) == 1, name
