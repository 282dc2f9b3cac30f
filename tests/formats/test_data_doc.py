"""docs/data.md: its examples are what it says, and its commands lead to a model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from multiturn.cli.app import run_app
from multiturn.formats import FORMATS, Context, detect
from multiturn.jsonl import read_pairs
from multiturn.trajectory import PreferencePair, Trajectory

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = [
    (name, json.loads(text)) for name, text in re.findall(r"```json (\S+)\n(.*?)```", TEXT, re.DOTALL)
]
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^multiturn .*$", TEXT, re.MULTILINE)]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MULTITURN_PROGRESS", "off")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "record"), EXAMPLES)
def test_an_example_is_in_the_format_that_it_shows(name: str, record: dict[str, Any]) -> None:
    assert detect([record]).name == name
    item = detect([record]).read(record, Context(default_id="line-1"))
    if isinstance(item, PreferencePair):
        assert [m.content for m in (*item.chosen, *item.rejected)] == ["go to kitchen", "sleep"]
        assert item.prompt[-1].content == "Put a cup on the table."
    else:
        assert item.num_turns == (2 if name == "openai" else 1)


def test_every_format_is_in_the_table_and_has_an_example() -> None:
    for known in FORMATS:
        assert re.search(rf"^\| `{known.name}`", TEXT, re.MULTILINE)
    assert {*(name for name, _ in EXAMPLES), "multiturn"} == {known.name for known in FORMATS}


def logs() -> None:
    """Three tasks, three attempts at each: as in the document's example, with other scores."""
    records = []
    for task in "abc":
        for score in (0.9, 0.5, 0.1):
            record: dict[str, Any] = json.loads(json.dumps(EXAMPLES[0][1]))
            record["messages"][1]["content"] += task
            record["messages"][-1]["content"] = f"take cup {score}"
            records.append(json.dumps(record | {"score": score}))
    Path("logs.jsonl").write_text("\n".join(records))


def test_three_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reaches the trainer, which is not run here."""
    arrived: list[Any] = []
    for name in ("train_on_demonstrations", "train_on_pairs"):
        monkeypatch.setattr(
            f"multiturn.pipeline.trainings.{name}", lambda _, data, **__: arrived.append(data)
        )
    logs()
    assert [command[0] for command in COMMANDS] == ["sft", "pairs", "train"]
    for command in COMMANDS:
        assert run_app(command) == 0
    good, pairs = arrived
    assert [t.reward for t in good] == [0.9] * 3
    assert all(isinstance(t, Trajectory) for t in good)
    assert [pair.chosen[-1].content for pair in pairs] == ["take cup 0.9"] * 3
    assert [pair.rejected[-1].content for pair in pairs] == ["take cup 0.1"] * 3


def test_three_commands_lead_to_a_model() -> None:
    from multiturn.models import save_policy, scratch_policy

    save_policy(scratch_policy(vocab_size=400, hidden_size=32, layers=1, heads=2), Path("tiny"))
    logs()
    small = ["--precision", "fp32", "--chat-template", "compact", "--set", "batch_size=2", "--epochs", "1"]
    sft, pairs, train = COMMANDS
    assert run_app([*sft, "--model", "tiny", *small]) == 0
    assert run_app(pairs) == 0
    assert len(read_pairs("pairs.jsonl")) == 3
    assert run_app([*train, *small]) == 0
    assert Path("dmpo/model/model.safetensors").is_file()
