"""What a configuration may say of methods and rounds, and what it meant before there were kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from multiturn.errors import ConfigError
from multiturn.pipeline.load import load_config
from multiturn.pipeline.methods import BestOfNSettings, MethodRound, RftSettings
from multiturn.pipeline.train_settings import PreferenceSettings

if TYPE_CHECKING:
    from pathlib import Path

    from multiturn.pipeline.config import Config

MINIMAL = "name: tiny\nenvironment: {name: household}\n"


def config_of(folder: Path, text: str) -> Config:
    path = folder / "run.yaml"
    path.write_text(MINIMAL + text, encoding="utf-8")
    return load_config(path)


def test_a_list_names_known_methods(tmp_path: Path) -> None:
    config = config_of(tmp_path, "methods: [sft, best_of_n, rft, dpo, dmpo, ipo]\npreference: {beta: 0.3}\n")
    assert list(config.methods) == ["best_of_n", "rft", "dpo", "dmpo", "ipo"]
    assert config.of_kind("preference") == ["dpo", "dmpo", "ipo"]
    assert config.method("dpo") == PreferenceSettings(objective="dpo", beta=0.3)
    assert config.best_of_n("best_of_n") == BestOfNSettings(samples=10, temperature=1.0, top_p=1.0)
    assert config.of_kind("rft") == ["rft"]


def test_a_list_is_short_for_a_mapping(tmp_path: Path) -> None:
    short = config_of(tmp_path, "methods: [best_of_n, dpo]\n")
    long = config_of(tmp_path, "methods: {best_of_n: {kind: best_of_n}, dpo: {objective: dpo}}\n")
    assert short == long


def test_methods_of_any_kind_and_name(tmp_path: Path) -> None:
    text = """
sft: {epochs: 2, learning_rate: 3.0e-4, tasks: 40}
methods:
  rft: {max_per_task: 4, tasks: null}
  rft-on: {kind: rft, start: sft, epochs: 1}
  best-of-4: {kind: best_of_n, samples: 4}
  best_of_n:
"""
    config = config_of(tmp_path, text)
    assert config.rft("rft") == RftSettings(epochs=2, learning_rate=3e-4, max_per_task=4)
    assert config.rft("rft-on") == RftSettings(epochs=1, learning_rate=3e-4, tasks=40, start="sft")
    assert config.best_of_n("best-of-4").samples == 4
    assert config.of_kind("best_of_n") == ["best-of-4", "best_of_n"]
    assert [settings.epochs for settings in config.trainings()] == [2, 1]


def test_what_was_a_method_on_pairs_still_is(tmp_path: Path) -> None:
    """In a mapping a name alone never meant an objective, and one with an objective was trained with it."""
    config = config_of(tmp_path, "methods: {dpo: {}, rft: {objective: sft}, x-round2: {}}\n")
    assert config.of_kind("preference") == ["dpo", "rft", "x-round2"]
    assert config.method("dpo").objective == "dmpo"
    assert config.method("rft").objective == "sft"
    assert config.method_rounds() == [MethodRound("dpo"), MethodRound("rft"), MethodRound("x-round2")]


def test_only_methods_on_pairs_have_later_rounds(tmp_path: Path) -> None:
    config = config_of(tmp_path, "methods: [best_of_n, rft, dmpo]\nrounds: 3\n")
    names = [entry.name for entry in config.method_rounds()]
    assert names == ["best_of_n", "rft", "dmpo", "dmpo-round2", "dmpo-round3"]


@pytest.mark.parametrize(
    ("addition", "complaint"),
    [
        ("methods: [dmop]", "methods: 'dmop' is no known method; did you mean 'dmpo'?"),
        ("methods: [best-of-n]", "methods: 'best-of-n' is no known method; did you mean 'best_of_n'?"),
        ("methods: [xyz]", "methods: 'xyz' is no known method; known ones: sft, rft, best_of_n, dmpo, dpo"),
        ("methods: [dpo, dpo]", "methods: a method stands in the list twice"),
        ("methods: [{a: {objective: sft}}]", "methods: a list holds names alone; write a mapping"),
        ("methods: [sft]", "methods: dictionary should have at least 1 item"),
        ("methods: dpo", "methods: input should be a valid dictionary"),
        (
            "methods: {best_of_n: {sample: 4}}",
            "methods.best_of_n.sample: unknown key; did you mean 'samples'?",
        ),
        (
            "methods: {best_of_n: {temperature: 0}}",
            "methods.best_of_n.temperature: input should be greater than 0",
        ),
        ("methods: {best_of_n: {beta: 1}}", "methods.best_of_n.beta: unknown key; known keys: kind, samples"),
        ("methods: {rft: {max_task: 4}}", "methods.rft.max_task: unknown key; did you mean 'max_per_task'?"),
        ("methods: {rft: {start: bse}}", "methods.rft.start: input should be 'base' or 'sft'"),
        ("methods: {rft: {beta: 0.1}}", "methods.rft.beta: unknown key"),
        ("methods: {x: {kid: rft}}", "methods.x.kid: unknown key; did you mean 'kind'?"),
        ("methods: {x: {kind: best_of_m}}", "methods.x.kind: 'best_of_m' is no kind of method; did you mean"),
        ("methods: {x: {kind: 3}}", "methods.x.kind: '3' is no kind of method; use one of preference, rft"),
        ("methods: {x: {kind: preference, gama: 1}}", "methods.x.gama: unknown key; did you mean 'gamma'?"),
        (
            "expert: {tasks: 5}\nmethods: {rft: {tasks: 6}}",
            "methods.rft.tasks: 6 is more than expert.tasks 5",
        ),
        ("rounds: 0", "rounds: input should be greater than or equal to 1"),
        ("round: 2", "round: unknown key; did you mean 'rounds'?"),
        ("rounds: 2\nmethods: [rft]", "rounds: is more than 1, but no method is trained on pairs"),
        ("rounds: 2\nmethods: {dmpo-round2: {}}", "methods.dmpo-round2: names that end like this belong to"),
    ],
)
def test_a_bad_method_is_named(tmp_path: Path, addition: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(tmp_path, addition + "\n")
    assert str(caught.value).startswith(f"{tmp_path / 'run.yaml'}: {complaint}")


@pytest.mark.parametrize("section", [RftSettings, BestOfNSettings])
def test_every_setting_is_documented(section: Any) -> None:
    for key in section.__annotations__:
        assert f"        {key}: " in section.__doc__
