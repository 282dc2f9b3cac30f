"""WebShop's options, data files and fingerprints."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING, Any

import pytest
from webshop_samples import SIZES, WISH, keys, lamp_data, prepare_nouns, record, words, write_data

import multiturn
from multiturn.envs.webshop import WebShop
from multiturn.errors import ConfigError, DataError, MissingExtraError

if TYPE_CHECKING:
    from pathlib import Path


def made(name: str = "webshop-generated", **options: Any) -> WebShop:
    env = multiturn.make(name, **options)
    assert isinstance(env, WebShop)
    return env


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MULTITURN_CACHE", str(tmp_path / "cache"))
    return lamp_data(tmp_path / "data")


def with_nouns(folder: Path) -> Path:
    prepare_nouns(folder, {"Oak Lamp": words("Oak Lamp")})
    return folder


def numbers(env: WebShop, split: str) -> list[int]:
    return [int(task.id) for task in env.tasks(split)]


def test_fingerprints(data: Path, tmp_path: Path) -> None:
    """They change with what changes answers, and with nothing else."""
    lists = [tmp_path / "a.json", tmp_path / "b.json"]
    for number, file in enumerate(lists):
        file.write_text(json.dumps({"test": [number]}), encoding="utf-8")
    more = write_data(tmp_path / "more", [record(a, **SIZES) for a in keys(51)], {"B000000001": WISH})
    variants: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"observation": "text_rich"},
        {"human_goals": True},
        {"show_attributes": True},
        {"exclude_overlap": True},
        *({"split_file": str(file)} for file in lists),
        {"path": str(with_nouns(more))},
    ]
    whole = [made("webshop", **{"path": str(data), **options}).fingerprint for options in variants]
    whole += [made(products=200, **options).fingerprint for options in variants[:3]]
    whole += [made(products=201).fingerprint]
    assert len(set(whole)) == len(whole)
    same = made("webshop", path=str(data), max_turns=3, limit=2, admissible=True)
    assert same.fingerprint == whole[0]


def test_the_seed_draws_other_limits(data: Path) -> None:
    first, second = (made("webshop", path=str(data), seed=seed).reset("0").observation for seed in (0, 1))
    assert first != second
    assert first == made("webshop", path=str(data)).reset("0").observation


def test_human_goals(data: Path) -> None:
    env = made("webshop", path=str(data), human_goals=True)
    assert len(env.tasks("test")) == 2
    assert "a red lamp, and price lower than" in env.reset("0").observation


def test_the_turn_limit(data: Path) -> None:
    assert made("webshop", path=str(data)).max_turns == 10
    assert made("webshop", path=str(data), max_turns=3).max_turns == 3


@pytest.mark.parametrize("name", ["webshop", "webshop-generated"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"observation": "html"}, "observation is 'html'; use text or text_rich"),
        ({"max_turns": 0}, "max_turns is 0; it has to be a whole number, 1 or more"),
        ({"max_turns": 2.0}, "max_turns is 2.0"),
        ({"max_turns": True}, "max_turns is True"),
        ({"seed": -1}, "seed is -1; it has to be a whole number, 0 or more"),
        ({"seed": "0"}, "seed is '0'"),
        ({"limit": 0}, "limit is 0"),
        ({"limit": "3"}, "limit is '3'"),
        ({"limit": [3]}, r"limit is \[3\]"),
        ({"limit": {"train": 0}}, "limit is 0"),
        ({"limit": {"valid": 3}}, r"limit names \['valid'\]; the splits are test, dev, train"),
    ],
)
def test_options_that_cannot_be_used(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: {message}"):
        multiturn.make(name, **options)


@pytest.mark.parametrize("products", [199, 0, "300", 300.0, True])
def test_a_shop_has_to_be_large_enough(products: Any) -> None:
    with pytest.raises(ConfigError, match=r"products is .*; it has to be a whole number, 200 or more"):
        multiturn.make("webshop-generated", products=products)


@pytest.mark.parametrize(
    ("content", "splits"),
    [
        ([5, 3], {"test": [5, 3], "train": list(range(1500, 2000))}),
        ({"train": ["7", 8], "mine": [1999]}, {"train": [7, 8], "mine": [1999], "test": list(range(500))}),
    ],
)
def test_splits_from_a_file(data: Path, tmp_path: Path, content: Any, splits: dict[str, list[int]]) -> None:
    file = tmp_path / "splits.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    env = made("webshop", path=str(data), split_file=str(file))
    assert {split: numbers(env, split) for split in splits} == splits


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("7", "'test' is no list of goal numbers; write"),
        ('{"test": 7}', "'test' is no list of goal numbers"),
        ('{"test": ["x"]}', "'test' is no list of goal numbers"),
        ("[-1]", "'test' is no list of goal numbers"),
        ("[1.0]", "'test' is no list of goal numbers"),
        ("[true]", "'test' is no list of goal numbers"),
        ("[1, 2, 1]", "'test' names a goal twice"),
        ('[1, "1"]', "'test' names a goal twice"),
        ("[1999, 2000]", "the split 'test' names the goal 2000, but there are 2000 goals"),
    ],
)
def test_split_files_that_cannot_be_used(data: Path, tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "splits.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        multiturn.make("webshop", path=str(data), split_file=str(file))


def test_a_split_file_that_is_not_there(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: cannot be read"):
        multiturn.make("webshop", path=str(data), split_file=str(tmp_path / "none.json"))


def test_where_the_data_files_are(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULTITURN_WEBSHOP_DATA", raising=False)
    with pytest.raises(ConfigError, match="option `path`, or set MULTITURN_WEBSHOP_DATA"):
        multiturn.make("webshop")
    monkeypatch.setenv("MULTITURN_WEBSHOP_DATA", str(data))
    assert made("webshop").fingerprint == made("webshop", path=str(data)).fingerprint


@pytest.mark.parametrize(
    ("gone", "options", "message"),
    [
        ("items_shuffle.json", {}, r"has no items_shuffle\*\.json"),
        ("items_ins_v2.json", {}, r"has no items_ins_v2\*\.json"),
        ("items_human_ins.json", {"human_goals": True}, "human_goals needs items_human_ins.json in"),
    ],
)
def test_missing_files(data: Path, gone: str, options: dict[str, Any], message: str) -> None:
    (data / gone).unlink()
    with pytest.raises(ConfigError, match=message):
        multiturn.make("webshop", path=str(data), **options)


def test_several_files_of_a_kind(data: Path) -> None:
    (data / "items_shuffle_1000.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"\(items_shuffle\.json, items_shuffle_1000\.json\); leave one"):
        multiturn.make("webshop", path=str(data))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("items_shuffle.json", "[{", r"items_shuffle\.json: cannot be read"),
        ("items_shuffle.json", "{}", r"items_shuffle\.json: cannot be read"),
        ("items_shuffle.json", "\udcff", r"items_shuffle\.json: cannot be read"),
        ("items_shuffle.json", '[{"asin": "B1"}]', "product 1 is not as WebShop's files have it"),
        ("items_shuffle.json", "[]", "no synthetic goals"),
        ("items_shuffle.json", "[" * 100_000, r"items_shuffle\.json: cannot be read"),
        ("items_ins_v2.json", "[" * 100_000, r"items_ins_v2\.json: cannot be read"),
        ("items_ins_v2.json", "{", r"items_ins_v2\.json: cannot be read"),
        ("items_ins_v2.json", "{}", "no synthetic goals; take the files that belong together"),
        ("items_human_ins.json", "nonsense", r"items_human_ins\.json: cannot be read"),
    ],
)
def test_files_that_cannot_be_used(data: Path, file: str, content: str, message: str) -> None:
    (data / file).write_bytes(content.encode("utf-8", "surrogateescape"))
    with_nouns(data)
    with pytest.raises(DataError, match=message):
        multiturn.make("webshop", path=str(data))


def test_without_nouns_and_without_spacy(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "spacy" else find_spec(name)
    )
    monkeypatch.setenv("MULTITURN_CACHE", str(tmp_path / "empty"))
    with pytest.raises(MissingExtraError, match=r"'spacy'.*multiturn\[webshop\]"):
        multiturn.make("webshop", path=str(data))
