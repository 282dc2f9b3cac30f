"""The turns of pairs under the reference and the trained policies: right, killed anywhere, done once."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from multiturn.errors import DataError
from multiturn.jsonl import read_pairs, write_jsonl
from multiturn.models import load_policy, reference_turn_logps, save_policy, scratch_policy
from multiturn.pipeline import pair_scores
from multiturn.pipeline.load import load_config
from multiturn.pipeline.pair_scores import read_pair_scores, score_pairs, spread
from multiturn.pipeline.results import rebuild_report
from multiturn.pipeline.run import open_run, plan, run_pipeline
from multiturn.tokens import Renderer
from multiturn.training.data import render_pairs
from multiturn.trajectory import Message, PreferencePair

if TYPE_CHECKING:
    from pathlib import Path

    from multiturn.pipeline.config import Config
    from multiturn.pipeline.run_directory import RunDirectory

CONFIG = """\
name: tiny
model: {scratch: {vocab_size: 400, hidden_size: 32, layers: 1, heads: 2}}
precision: fp32
environment: {name: household, options: {size: tiny, train: 12, test: 4}, max_turns: 14}
prompt: {chat_template: compact, format: action, instructions: none}
preference: {max_length: 400, overlong: cut}
"""


def pair(number: int, turns: int = 2) -> PreferencePair:
    def side(word: str) -> tuple[Message, ...]:
        return (
            Message(role="assistant", content=f"{word} {number}"),
            Message(role="user", content="Nothing happens."),
        ) * turns

    return PreferencePair(
        id=f"t{number}",
        prompt=(Message(role="user", content="Open the door."),),
        chosen=side("open"),
        rejected=side("close"),
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three random models: the reference and two policies."""
    folder = tmp_path_factory.mktemp("models")
    found = {}
    for seed, name in enumerate(("sft", "dmpo", "dpo")):
        policy = scratch_policy(vocab_size=400, hidden_size=32, layers=1, heads=2, seed=seed)
        found[name] = save_policy(policy, folder / name)
    return found


@pytest.fixture
def run(tmp_path: Path, models: dict[str, Path]) -> tuple[Config, RunDirectory]:
    """A run that has its pairs and its models."""
    path = tmp_path / "tiny.yaml"
    path.write_text(f"{CONFIG}output: {tmp_path / 'run'}\n", encoding="utf-8")
    config = load_config(path)
    directory = open_run(config).directory
    for name, source in models.items():
        shutil.copytree(source, directory.model(name))
    write_jsonl(directory.pairs, [pair(number) for number in range(6)])
    return config, directory


def test_the_numbers_are_those_of_the_models(
    run: tuple[Config, RunDirectory], models: dict[str, Path]
) -> None:
    config, directory = run
    assert score_pairs(config, directory) == {
        "says": "turns of 6 pairs under 2 policies",
        "pairs": 6,
        "missing": [],
    }
    pairs = read_pairs(directory.pairs)
    found = read_pair_scores(directory.pair_scores, pairs)
    assert list(found) == list(range(6))
    for name, which in (("sft", "reference"), ("dmpo", "policy")):
        policy = load_policy(str(models[name]))
        rows = render_pairs(pairs, Renderer(policy.tokenizer, chat_template="compact")).rows
        for index, row in enumerate(rows):
            for side, sequence in zip(("chosen", "rejected"), row.sequences, strict=True):
                (expected,) = reference_turn_logps(policy.model, [sequence])
                assert found[index]["dmpo"][side][which] == pytest.approx(expected.tolist(), abs=2e-4)
    chosen = found[0]["dmpo"]["chosen"]
    assert chosen["weights"] == pytest.approx([1.0, (0.7 - 0.49) / 0.51], abs=1e-5)  # M5 for two turns
    for turn, reward in enumerate(chosen["rewards"]):
        ratio = chosen["policy"][turn] - chosen["reference"][turn]
        assert reward == pytest.approx(0.1 * chosen["weights"][turn] * ratio, abs=1e-4)
    assert found[0]["dpo"]["chosen"]["weights"] == [1.0, 1.0]
    assert found[0]["dmpo"]["chosen"]["reference"] == found[0]["dpo"]["chosen"]["reference"]
    assert found[0]["dmpo"]["chosen"]["policy"] != found[0]["dpo"]["chosen"]["policy"]


def test_a_second_attempt_computes_nothing_again(
    run: tuple[Config, RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill between the sums, which are kept, and the file."""
    config, directory = run
    score_pairs(config, directory)
    first = directory.pair_scores.read_bytes()
    directory.pair_scores.unlink()

    def no_model_runs(*_: object, **__: object) -> None:
        raise AssertionError("a model was run")

    monkeypatch.setattr("multiturn.models.reference.turn_logps", no_model_runs)
    score_pairs(config, directory)
    assert directory.pair_scores.read_bytes() == first


def test_killed_between_two_policies(
    run: tuple[Config, RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done stays, and the file is there whole or not at all."""
    config, directory = run
    loaded: list[str] = []

    def dies(name: str) -> Any:
        loaded.append(name)
        if name.endswith("dpo/model"):
            raise KeyboardInterrupt
        return load_policy(name)

    with monkeypatch.context() as patch:
        patch.setattr(pair_scores, "load_policy", dies)
        with pytest.raises(KeyboardInterrupt):
            score_pairs(config, directory)
    assert not directory.pair_scores.exists()
    assert len(loaded) == 3
    assert len(list(directory.reference.rglob("*.safetensors"))) == 2
    assert score_pairs(config, directory)["pairs"] == 6


def test_pairs_are_spread_and_long_ones_cost_others_their_place(
    run: tuple[Config, RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, directory = run
    assert spread(3, 5) == [0, 1, 2]
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(0, 4) == []
    score_pairs(config, directory, limit=3)
    pairs = read_pairs(directory.pairs)
    assert list(read_pair_scores(directory.pair_scores, pairs)) == [0, 2, 4]
    monkeypatch.setattr(pair_scores, "TOKENS_SCORED", 1)
    assert score_pairs(config, directory)["pairs"] == 1
    assert score_pairs(config, directory, limit=0)["pairs"] == 0
    assert read_pair_scores(directory.pair_scores, pairs) == {}


def test_cut_and_dropped_pairs_as_their_training_saw_them(
    run: tuple[Config, RunDirectory], models: dict[str, Path]
) -> None:
    """With a token too little room, three of four turns are left of one method; the other drops the pair."""
    config, directory = run
    pairs = [pair(0, turns=4), pair(1, turns=1)]
    write_jsonl(directory.pairs, pairs)
    renderer = Renderer(load_policy(str(models["sft"])).tokenizer, chat_template="compact")
    (row,) = render_pairs(pairs[:1], renderer).rows
    room = min(len(sequence.token_ids) for sequence in row.sequences) - 1
    methods = {
        "dmpo": {"max_length": room, "overlong": "cut"},
        "dpo": {"objective": "dpo", "max_length": room, "overlong": "drop"},
    }
    score_pairs(config.model_copy(update={"methods": methods}), directory)
    found = read_pair_scores(directory.pair_scores, pairs)
    assert list(found[0]) == ["dmpo"]
    assert [len(found[0]["dmpo"][side]["policy"]) for side in ("chosen", "rejected")] == [3, 3]
    assert list(found[1]) == ["dmpo", "dpo"]


def test_rewards_are_those_of_the_objective_trained(run: tuple[Config, RunDirectory]) -> None:
    """Without a reference: beta times log-probability over the tokens of the side. The control: nothing."""
    config, directory = run
    methods = {
        "dmpo": {"objective": "simpo", "beta": 2.0},
        "dpo": {"objective": "sft"},
    }
    score_pairs(config.model_copy(update={"methods": methods}), directory, limit=1)
    scores = read_pair_scores(directory.pair_scores, read_pairs(directory.pairs))[0]
    chosen = scores["dmpo"]["chosen"]
    share = chosen["rewards"][0] / (2.0 * chosen["policy"][0])
    assert 0 < share < 1
    assert 1 / share == pytest.approx(round(1 / share), abs=1e-3)  # a number of tokens
    assert chosen["rewards"][1] / chosen["policy"][1] == pytest.approx(2.0 * share, rel=1e-4)
    assert (scores["dpo"]["chosen"]["weights"], scores["dpo"]["chosen"]["rewards"]) == (None, None)


def test_methods_without_a_model_are_named_and_left_out(run: tuple[Config, RunDirectory]) -> None:
    config, directory = run
    shutil.rmtree(directory.model("dpo"))
    result = score_pairs(config, directory)
    assert result["missing"] == ["dpo"]
    assert result["says"] == "turns of 6 pairs under 1 policies (no model of dpo)"
    shutil.rmtree(directory.model("sft"))
    assert score_pairs(config, directory)["pairs"] == 0


def test_scores_of_other_pairs_and_files_that_are_none(run: tuple[Config, RunDirectory]) -> None:
    config, directory = run
    pairs = [pair(number) for number in range(6)]
    assert read_pair_scores(directory.pair_scores, pairs) == {}
    score_pairs(config, directory)
    assert list(read_pair_scores(directory.pair_scores, [pair(0), pair(7)])) == [0]
    for wrong in ("", "[]", "{}", '{"schema": 9}', '{"schema": 1, "pairs": 3}'):
        directory.pair_scores.write_text(wrong, encoding="utf-8")
        with pytest.raises(DataError, match="delete it"):
            read_pair_scores(directory.pair_scores, pairs)


def test_what_is_no_number_is_null(run: tuple[Config, RunDirectory]) -> None:
    import torch

    assert pair_scores._numbers(torch.tensor([-1.5, math.inf, math.nan])) == [-1.5, None, None]
    del run


def test_a_run_scores_and_reports_and_an_older_one_does_so_later(tmp_path: Path) -> None:
    """A run from before there was this stage gets it, and its report again."""
    path = tmp_path / "tiny.yaml"
    small = (
        "expert: {tasks: 6}\nsft: {tasks: 4, epochs: 1, batch_size: 2}\n"
        "explore: {slots: 3, max_new_tokens: 8}\nmethods: {dmpo: {epochs: 1, batch_size: 2}}\n"
        "evaluate: {slots: 2, max_new_tokens: 8}\n"
    )
    path.write_text(f"{CONFIG}{small}output: {tmp_path / 'run'}\n", encoding="utf-8")
    config = load_config(path)
    run_pipeline(config)
    state = open_run(config)
    directory, stages = state.directory, state.manifest.stages
    assert [name for name, _, _ in plan(state)][-2:] == ["turns", "report"]
    assert stages["turns"]["result"]["pairs"] > 0
    data = page_data(directory)
    assert data["views"][0]["label"] == "DMPO"

    del stages["turns"]
    state.manifest.save()
    directory.pair_scores.unlink()
    rebuild_report(directory.root)
    assert page_data(directory)["views"] == []
    run_pipeline(config)
    assert page_data(directory) == data

    directory.pair_scores.unlink()
    rebuild_report(directory.root, score=1)
    assert sum("values" in each["chosen"] for each in page_data(directory)["pairs"]) == 1


def page_data(directory: RunDirectory) -> dict[str, Any]:
    """What a run's report hands to its pair viewer."""
    page = directory.report.read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(page.split('id="pairs-data">')[1].split("</script>")[0])
    return data
