"""What a configuration file may say, and what happens where it says something else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from multiturn.errors import ConfigError
from multiturn.pipeline.config import Config
from multiturn.pipeline.load import load_config, parse_override
from multiturn.pipeline.train_settings import PreferenceSettings

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))

MINIMAL = """\
name: tiny
environment:
  name: household
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_valid(path: Path) -> None:
    config = load_config(path)
    assert {config.method(name).objective for name in config.methods} >= {"dmpo", "dpo"}


def test_the_control_is_one_setting_away() -> None:
    quickstart = next(path for path in EXAMPLES if path.stem == "quickstart")
    config = load_config(quickstart, ["methods.sft-chosen.objective=sft"])
    assert [config.method(name).objective for name in config.methods] == ["dmpo", "dpo", "sft"]


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ("expert: {tasks: 5}\nsft: {tasks: 6}\n", "sft.tasks 6 is more than expert.tasks 5"),
        ("expert: {tasks: 5}\nexplore: {skip: 5}\n", "explore.skip 5 leaves none of the 5 tasks"),
    ],
)
def test_too_few_expert_tasks_are_found_out_before_any_work(
    tmp_path: Path, sections: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        load_config(written(tmp_path, MINIMAL + sections))


def test_policies_and_splits_whose_evaluations_would_share_a_file(tmp_path: Path) -> None:
    text = MINIMAL.replace("environment:", "methods: {a: {}, a-b: {}}\nenvironment:")
    splits = ["environment.test_splits=[b-c, c]"]
    with pytest.raises(ConfigError, match="a-b on c and a on b-c would share a file"):
        load_config(written(tmp_path, text), splits)


def test_a_bad_override_of_a_method_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--set: methods\.dmpo\.gama"):
        load_config(written(tmp_path, MINIMAL), ["methods.dmpo.gama=1"])


def test_defaults_are_the_papers(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, MINIMAL))
    dmpo = config.method("dmpo")
    assert (dmpo.objective, dmpo.beta, dmpo.gamma) == ("dmpo", 0.1, 0.7)
    assert (dmpo.learning_rate, dmpo.batch_size, dmpo.epochs, dmpo.warmup) == (1e-6, 32, 3, 0.1)
    assert (config.sft.learning_rate, config.sft.batch_size, config.sft.warmup) == (1e-5, 64, 0.03)


def test_a_method_overrides_the_common_settings(tmp_path: Path) -> None:
    text = MINIMAL + "preference: {beta: 0.3}\nmethods:\n  wide: {gamma: 0.9}\n  flat: {objective: dpo}\n"
    config = load_config(written(tmp_path, text))
    assert config.method("wide") == PreferenceSettings(beta=0.3, gamma=0.9)
    assert config.method("flat") == PreferenceSettings(beta=0.3, objective="dpo")


def test_overrides_win_and_later_ones_win_over_earlier_ones(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL)
    config = load_config(
        path, ["sft.epochs=2", "sft.epochs=5", "environment.options.seed=7", "sft.lora.rank=4"]
    )
    assert config.sft.epochs == 5
    assert config.environment.options == {"seed": 7}
    assert config.sft.lora is not None
    assert config.sft.lora.rank == 4


def test_an_override_without_a_dot_in_its_exponent_is_a_number(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, MINIMAL), ["sft.learning_rate=3e-5"])
    assert config.sft.learning_rate == 3e-5


@pytest.mark.parametrize(
    ("addition", "complaint"),
    [
        ("sft: {epoch: 2}", "sft.epoch: unknown key; did you mean 'epochs'?"),
        ("sft: {lora: {ran: 2}}", "sft.lora.ran: unknown key; did you mean 'rank'?"),
        ("methods: {dmpo: {gama: 0.5}}", "methods.dmpo.gama: unknown key; did you mean 'gamma'?"),
        ("preference: {gamma: 2}", "preference.gamma: input should be less than or equal to 1 (got 2)"),
        ("preference: {beta: 0}", "preference.beta: input should be greater than 0 (got 0)"),
        ("preference: {beta: .nan}", "preference.beta: input should be"),
        ("methods: {dmpo: {gamma: .nan}}", "methods.dmpo.gamma: input should be"),
        ("methods: {sft: {}}", "methods.sft: this name belongs to the policy"),
        ("methods: {}", "methods: dictionary should have at least 1 item"),
        ("explore: {temperature: -1}", "explore.temperature: input should be greater than or equal to 0"),
        ("seed: -1", "seed: input should be greater than or equal to 0"),
        ("preference: {schedule: cosin}", "preference.schedule: input should be 'linear', 'cosine'"),
        ("methods: {dmpo: {schedule: x}}", "methods.dmpo.schedule: input should be 'linear', 'cosine'"),
        (
            "preference: {batch_size: 8, micro_batch_size: 3}",
            "preference: batch_size 8 is no multiple of micro_batch_size 3; change either",
        ),
        ("methods: {reference: {}}", "methods.reference: cannot be the name of a method's folder"),
        ("methods: {../../a: {}}", "methods.../../a: cannot be the name of a method's folder"),
        ("sft: {overlong: shorten}", "sft.overlong: input should be 'error', 'drop' or 'cut'"),
    ],
)
def test_a_bad_setting_is_named(tmp_path: Path, addition: str, complaint: str) -> None:
    path = written(tmp_path, MINIMAL + addition)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: {complaint}")


def test_every_bad_setting_is_named_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL + "sed: 1\nsft: {epochs: 0}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must be a mapping of settings"),
        ("- a\n", "must be a mapping of settings"),
        ("name: [\n", ":2: is not YAML"),
        ("environment: {name: household}\n", "name: is required"),
        ("name: 2024-99-99\n", "run.yaml: is not YAML (month must be in 1..12)"),
        ("name: " + "[" * 5000, "run.yaml: is not YAML"),
        ("name: a/b\nenvironment: {name: household}\n", "name: string should match pattern"),
        ("name: !!python/object/apply:os.system [true]\n", ":1: is not YAML"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml") as caught:
        load_config(written(tmp_path, text))
    assert complaint in str(caught.value)


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(MINIMAL.encode() + b"# na\xefve\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: is not UTF-8 text .* save it as UTF-8"):
        load_config(path)


def test_a_bad_override_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL + "sft: {epochs: 0}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["sft.epoch=2", "sft.lora.ran=3"])
    assert sorted(str(caught.value).splitlines()) == [
        "--set: sft.epoch: unknown key; did you mean 'epochs'?",
        "--set: sft.lora.ran: unknown key; did you mean 'rank'?",
        f"{path}: sft.epochs: input should be greater than 0 (got 0)",
    ]


def test_micro_batches_larger_than_the_batch_are_the_batch(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, MINIMAL), ["sft.batch_size=4", "sft.micro_batch_size=16"])
    assert config.sft.rows_at_once == 4
    assert config.preference.rows_at_once == 32


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read .* check the path"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize("text", ["seed", "=1", "sft..epochs=1", "sft.epochs=[1", ".=1", "name=2024-99-99"])
def test_an_override_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_override(text)


def test_an_override_into_a_plain_value(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'name' is not a section"):
        load_config(written(tmp_path, MINIMAL), ["name.first=1"])


def test_every_key_is_documented() -> None:
    sections = [Config, *(c for c in PreferenceSettings.__mro__ if c.__module__ == Config.__module__)]
    for section in sections:
        documented = (section.__doc__ or "") + "".join(base.__doc__ or "" for base in section.__mro__[1:-1])
        for key in getattr(section, "model_fields", {}):
            assert f"        {key}: " in documented, f"{section.__name__}.{key} has no docstring entry"


def test_a_protocol_that_there_is_not_is_told_with_its_key(tmp_path: Path) -> None:
    text = "name: x\nenvironment: {name: 'mine:Env'}\nprompt: {instructions: protocol}\n"
    with pytest.raises(
        ConfigError, match=r"prompt\.instructions: the paper has no protocol for .*'mine:Env'"
    ):
        load_config(written(tmp_path, text))
