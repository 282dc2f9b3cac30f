"""Files of every kind: what is read, what is counted, and where an error says it is."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from multiturn.errors import ConfigError, DataError, MissingExtraError
from multiturn.formats import (
    ReadOptions,
    RecordReader,
    convert,
    has_rollout_header,
    load_pairs,
    load_trajectories,
)
from multiturn.jsonl import read_trajectories
from multiturn.rollouts.store import RolloutStore, StoreHeader
from multiturn.trajectory import Message, Trajectory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

USER = {"role": "user", "content": "Find the cup."}
YES = {"role": "assistant", "content": "take cup"}
NO = {"role": "assistant", "content": "sleep"}
GOOD = {"messages": [USER, YES]}
PAIR = {"prompt": [USER], "chosen": [YES], "rejected": [NO]}
BAD = {"messages": [{"role": "bot", "content": "x"}]}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTITURN_PROGRESS", "off")


def lines(path: Path, *records: object) -> Path:
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in records))
    return path


def test_a_json_array_knows_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([GOOD, GOOD, BAD], indent=2))
    line = [i for i, text in enumerate(path.read_text().splitlines(), 1) if text == "  {"][2]
    with pytest.raises(DataError, match=rf"a\.json:{line}: item 3: a message's role is 'bot'") as caught:
        load_trajectories(path)
    assert caught.value.line == line
    assert [t.id for t in load_trajectories(path, ReadOptions(skip_bad=True))] == ["item-1", "item-2"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", None),
        (" \n[\n]\n", None),
        ('\ufeff[{"messages": []}\n, {"messages": 3}]', "a.json:1: item 1: has no assistant turn"),
        ('[\n{"messages": []},\n{"messages": 3},\n{"mess', "a.json:4: item 3: is not JSON"),
        ('[\n{"messages": []}\n', "a.json: the array has no end; the file is cut off"),
        ('[\n{"messages": []} {}]', "a.json:2: a comma is missing after item 1"),
        ('[\n{"messages": []}\n]\n\n[{"messages": []}]', "a.json:5: something follows the end of the array"),
        ("[3]", "a.json:1: a record must be a JSON object, not list"),
    ],
)
def test_arrays_of_all_sorts(tmp_path: Path, text: str, says: str | None) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    if says is None:
        assert load_trajectories(path) == []
        return
    with pytest.raises(DataError) as caught:
        load_trajectories(path)
    assert str(caught.value).startswith(f"{tmp_path}/{says}")


@pytest.mark.parametrize("start", ["", "\ufeff", "\n  "])
def test_objects_of_several_lines(tmp_path: Path, start: str) -> None:
    """As an editor or ``jq`` writes them: one, or one after the other."""
    path = tmp_path / "a.json"
    shown = json.dumps(GOOD, indent=2)
    path.write_text(f"{start}{shown}", encoding="utf-8")
    (alone,) = load_trajectories(path)
    path.write_text(f"{start}{shown}\n{shown}{shown}\n\n", encoding="utf-8")
    assert [item.id for item in load_trajectories(path)] == ["item-1", "item-2", "item-3"]
    assert load_trajectories(path)[2].messages == alone.messages
    lines = shown.count("\n") + 1
    path.write_text(f"{shown}\n{{\n}}\n{{\n  oops\n}}", encoding="utf-8")
    with pytest.raises(DataError, match=rf"a\.json:{lines + 4}: item 3: is not JSON"):
        load_trajectories(path)


def test_all_bad_rows_are_counted_before_the_first_is_an_error(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", GOOD, BAD, "{broken\n", GOOD, BAD, {"messages": 3}, [1])
    with pytest.raises(DataError) as caught:
        load_trajectories(path)
    assert str(caught.value) == (
        f"{path}:2: a message's role is 'bot'; use one of system, user, assistant, tool (messages[0]) "
        "(unusable rows: 5 of 7: 2 bad_role, 1 not_json, 1 no_messages, 1 no_object; --skip-bad leaves them "
        "out)"
    )
    assert (caught.value.path, caught.value.line) == (path, 2)
    reader = RecordReader(path, ReadOptions(skip_bad=True))
    assert [item.id for item in reader] == ["line-1", "line-4"]
    assert reader.bad == {"bad_role": 2, "not_json": 1, "no_messages": 1, "no_object": 1}
    assert (reader.rows, reader.total) == (7, 7)


def test_options_of_reading(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {**GOOD, "info": {"score": 0.5}, "reward": 1})
    (item,) = load_trajectories(path, ReadOptions(reward_field="info.score", id_prefix="x/"))
    assert (item.id, item.reward) == ("x/line-1", 0.5)
    with pytest.raises(DataError, match="'chosen' is missing"):
        load_trajectories(path, ReadOptions(source="trl"))
    with pytest.raises(ConfigError, match="no format 'csv'"):
        ReadOptions(source="csv")
    with pytest.raises(ConfigError, match="--dataset-split is for saved datasets"):
        load_trajectories(path, ReadOptions(split="train"))


def test_pairs_and_trajectories_are_not_mistaken(tmp_path: Path) -> None:
    good, pair = lines(tmp_path / "a.jsonl", GOOD), lines(tmp_path / "b.jsonl", PAIR)
    assert load_pairs(pair)[0].chosen == (Message(role="assistant", content="take cup"),)
    with pytest.raises(DataError, match="holds trajectories, not pairs; make pairs"):
        load_pairs(good)
    with pytest.raises(DataError, match="holds pairs, not trajectories"):
        load_trajectories(pair)
    with pytest.raises(DataError, match="holds no pairs"):
        load_pairs(lines(tmp_path / "c.jsonl"))
    with pytest.raises(DataError, match=r"d\.jsonl: cannot be read"):
        load_pairs(tmp_path / "d.jsonl")


def test_rollouts_are_read_past_their_header_and_what_a_crash_left(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    episode = Trajectory(
        id="a",
        task_id="t",
        messages=(Message(role="user", content="x"), Message(role="assistant", content="y", token_ids=(3,))),
    )
    with RolloutStore(path, StoreHeader(environment="e", agent="a")) as store:
        store.append(episode)
    assert has_rollout_header(path)
    assert load_trajectories(path) == [episode]
    with path.open("a") as file:
        file.write('{"schema": 1, "id": "b", "mess')
    assert load_trajectories(path) == [episode]
    with path.open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match=r"r\.jsonl:3: is not JSON"):
        load_trajectories(path)
    assert not has_rollout_header(lines(tmp_path / "a.jsonl", GOOD))


def test_a_conversion_counts_what_it_loses(tmp_path: Path) -> None:
    own = Trajectory(
        id="a",
        task_id="t",
        messages=(Message(role="user", content="x"), Message(role="assistant", content="y", token_ids=(3,))),
        reward=0.5,
    ).to_json()
    source = lines(tmp_path / "a.jsonl", own, {**own, "id": "b", "reward": None}, "oops\n")
    report = convert(source, tmp_path / "out.jsonl", to="sharegpt", options=ReadOptions(skip_bad=True))
    assert (report.source, report.target, report.rows, report.written) == ("multiturn", "sharegpt", 3, 2)
    assert report.bad == {"not_json": 1}
    assert report.lost == {"token_ids": 2, "task_id": 2, "reward": 1}
    assert report.describe() == (
        "2 of 3 rows, from multiturn to sharegpt\nleft out: not_json (1)\n"
        "not held by sharegpt: token_ids (2), task_id (2), reward (1)"
    )
    assert [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        "a",
        "b",
    ]


def test_an_id_that_nobody_gave_is_not_lost(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", "\n", GOOD, GOOD)
    assert convert(source, tmp_path / "b.jsonl", to="openai").lost == {}
    named = lines(tmp_path / "c.jsonl", {**GOOD, "id": "x"})
    assert convert(named, tmp_path / "b.jsonl", to="openai").lost == {"id": 1}


@pytest.mark.parametrize(
    ("records", "to", "kind", "says"),
    [
        ([GOOD, BAD], "multiturn", DataError, "a.jsonl:2: a message's role is 'bot'"),
        ([PAIR], "openai", ConfigError, "holds pairs, which openai does not; use one of multiturn, sharegpt"),
        ([GOOD], "trl", ConfigError, "use one of multiturn, .*; `multiturn pairs` makes pairs"),
        ([], "trl", DataError, "holds no rows"),
        (
            [GOOD, {**GOOD, "tools": [{"name": "x"}]}],
            "agentgym",
            DataError,
            r"a\.jsonl:2: agentgym has no place for tools; use --to openai \(1 of 2 rows cannot be written; ",
        ),
        ([GOOD], "csv", ConfigError, "--to: there is no format 'csv'"),
    ],
)
def test_a_conversion_that_fails_leaves_the_old_file(
    tmp_path: Path, records: Sequence[Any], to: str, kind: type[Exception], says: str
) -> None:
    source, target = lines(tmp_path / "a.jsonl", *records), tmp_path / "out.jsonl"
    target.write_text("old")
    with pytest.raises(kind, match=says):
        convert(source, target, to=to)
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "out.jsonl"]


def test_a_file_may_be_converted_onto_itself(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", GOOD, GOOD)
    assert convert(path, path, to="multiturn").written == 2
    assert [t.id for t in read_trajectories(path)] == ["line-1", "line-2"]


def test_arrays_are_written_by_name(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", GOOD, GOOD)
    convert(source, tmp_path / "b.json", to="openai")
    assert json.loads((tmp_path / "b.json").read_text()) == [GOOD, GOOD]
    convert(tmp_path / "b.json", tmp_path / "c.jsonl", to="openai")
    assert (tmp_path / "c.jsonl").read_text() == source.read_text()


def test_half_a_surrogate_pair_survives(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", {"messages": [USER, {"role": "assistant", "content": "so \ud83d"}]})
    convert(source, tmp_path / "b.jsonl", to="sharegpt")
    assert load_trajectories(tmp_path / "b.jsonl")[0].messages[1].content == "so \ud83d"


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """4 MB of JSONL go through in far less than they are: rows are not gathered."""
    import tracemalloc

    long = {"messages": [USER, {"role": "assistant", "content": "word " * 2000}]}
    source = lines(tmp_path / "a.jsonl", *[long] * 400)
    convert(source, tmp_path / "b.jsonl", to="sharegpt")
    tracemalloc.start()
    try:
        convert(source, tmp_path / "b.jsonl", to="sharegpt")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert source.stat().st_size > 4_000_000
    assert peak < 2_500_000


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"at": {"enum": [1, "a"]}}}}
CALLING = {
    "messages": [
        USER,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"at": null}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": "A cup."},
    ],
    "tools": [TOOL],
}


def test_parquet_there_and_back(tmp_path: Path) -> None:
    """Tools go in as text, so that no row gets the keys of another; arguments are text already."""
    pytest.importorskip("datasets")
    source = lines(tmp_path / "a.jsonl", GOOD, CALLING, {**CALLING, "tools": [{"name": "other"}]})
    convert(source, tmp_path / "b.parquet", to="openai")
    reader = RecordReader(tmp_path / "b.parquet")
    back = list(reader)
    assert (reader.total, [item.id for item in back]) == (3, ["row-1", "row-2", "row-3"])
    for item, original in zip(back, load_trajectories(source), strict=True):
        assert isinstance(item, Trajectory)
        assert (item.messages, item.tools) == (original.messages, original.tools)
    with pytest.raises(DataError, match="cannot be written as a table: the arguments of its tool calls"):
        convert(source, tmp_path / "c.parquet", to="multiturn")
    assert not (tmp_path / "c.parquet").exists()
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match=r"b\.parquet: is not a Parquet file that can be read"):
        load_trajectories(tmp_path / "b.parquet")


def test_tables_that_are_damaged_inside(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_list([GOOD]).to_parquet(path)
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xaa" * 56
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet: is not a Parquet file that can be read"):
        load_trajectories(path)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{")
    with pytest.raises(DataError, match="saved: is no dataset that can be read"):
        load_trajectories(tmp_path / "saved")


def test_a_row_of_a_table_is_named(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([GOOD, BAD]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: row 2: a message's role is 'bot'"):
        load_trajectories(tmp_path / "a.parquet")


def test_a_saved_dataset(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list([{**PAIR, "tools": None}, {**PAIR, "tools": json.dumps([TOOL])}])
    table.save_to_disk(tmp_path / "one")
    first, second = load_pairs(tmp_path / "one")
    assert (first.prompt[0].content, first.tools, second.tools) == ("Find the cup.", (), (TOOL,))
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(tmp_path / "two")
    assert len(load_pairs(tmp_path / "two", ReadOptions(split="test"))) == 1
    with pytest.raises(ConfigError, match="has the splits train, test; choose one with --dataset-split"):
        load_pairs(tmp_path / "two")
    with pytest.raises(ConfigError, match="has no split 'dev'; use one of train, test"):
        load_pairs(tmp_path / "two", ReadOptions(split="dev"))
    with pytest.raises(ConfigError, match="has no splits; leave it out"):
        load_pairs(tmp_path / "one", ReadOptions(split="dev"))
    with pytest.raises(DataError, match="is a folder and no dataset"):
        load_pairs(tmp_path)


def test_tables_name_the_extra_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    source = lines(tmp_path / "a.jsonl", GOOD)
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for path in (tmp_path / "a.parquet", tmp_path):
        with pytest.raises(MissingExtraError, match=r"pip install 'multiturn\[data\]'"):
            load_trajectories(path)
    with pytest.raises(MissingExtraError, match=r"writing a Parquet file .* 'multiturn\[data\]'"):
        convert(source, tmp_path / "b.parquet", to="openai")
