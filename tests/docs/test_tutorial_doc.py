"""docs/tutorial.md: the command line takes its commands, and in order they lead to a model and a report."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from doc_pages import block, command_lines, parse, read_page, run

from multiturn.pipeline.load import load_config

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = read_page("tutorial.md")
COMMANDS = command_lines(PAGE)
VERBS = [words[1] for words in COMMANDS if words[0] == "multiturn"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The tutorial's folder, with the files that it shows."""
    monkeypatch.setenv("MULTITURN_PROGRESS", "off")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, language, containing in (
        ("chores.py", "python", "def chores"),
        ("write_logs.py", "python", "logs.jsonl"),
        ("tools.jsonl", "json tools", "tool_calls"),
        ("chores.yaml", "yaml", "name: chores"),
    ):
        (tmp_path / name).write_text(block(PAGE, language, containing), encoding="utf-8")
    yield tmp_path
    monkeypatch.delitem(sys.modules, "chores", raising=False)


def test_the_command_line_takes_every_command(folder: Path) -> None:
    for words in COMMANDS:
        if words[0] == "multiturn":
            parse(words[1:])
        else:
            assert words == ["python", "write_logs.py"]
    assert {"rollout", "convert", "sft", "pairs", "train", "evaluate", "run", "report", "compare"} <= {*VERBS}
    assert list(load_config(folder / "chores.yaml").methods) == ["dmpo", "dpo"]


def test_an_unknown_option_would_be_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["sft", "logs.jsonl", "--output", "sft", "--epoch-count", "3"])


def test_logs_are_written_and_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The steps that take no model; the beginner's episodes are left out."""
    expert = COMMANDS[0]
    run(expert[1:], capsys)
    (folder / "beginner.jsonl").write_bytes((folder / "expert.jsonl").read_bytes())
    runpy.run_path("write_logs.py")
    lines = [json.loads(line) for line in (folder / "logs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 80
    shown = json.loads(block(PAGE, "json", "go to coffeetable"))
    line = next(one for one in lines if one["task_id"] == shown["task_id"])
    assert line["score"] == shown["score"]
    assert line["messages"][1:4] == shown["messages"][1:]
    for words in COMMANDS:
        if words[1] == "convert":
            run(words[1:], capsys)
    assert len((folder / "tool-trajectories.jsonl").read_text(encoding="utf-8").splitlines()) >= 1


@pytest.mark.slow
def test_the_commands_in_order_lead_to_a_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a model of a few thousand parameters that fails at everything, and fewer tasks."""
    from multiturn.models import save_policy, scratch_policy

    save_policy(scratch_policy(vocab_size=400, hidden_size=32, layers=1, heads=2), Path("tiny"))
    for words in COMMANDS:
        if words[0] == "python":
            runpy.run_path(words[1])
            continue
        if words[:2] == ["multiturn", "pairs"] and not (folder / "pairs.jsonl").exists():
            let_some_succeed(folder / "attempts.jsonl")
        output = run(smaller(words[1:]), capsys)
        assert output.strip(), words
    assert (folder / "dmpo/model/model.safetensors").is_file()
    assert (folder / "dpo/model/model.safetensors").is_file()
    assert (folder / "runs/chores-seed0/report.html").is_file()


def let_some_succeed(path: Path) -> None:
    """Score the first attempt at each task as solved: the tiny model itself solves none."""
    head, *episodes = path.read_text(encoding="utf-8").splitlines()
    changed = [json.loads(episode) for episode in episodes]
    for episode in changed:
        if episode["id"].endswith("#0"):
            episode |= {"reward": 1.0, "success": True, "outcome": "completed"}
    path.write_text("\n".join([head, *map(json.dumps, changed)]) + "\n", encoding="utf-8")


def smaller(words: list[str]) -> list[str]:
    """A command with fewer tasks and the tiny model in SmolLM2's place."""
    words = ["tiny" if word == "smollm2-135m-instruct" else word for word in words]
    if "--tasks" in words:
        words[words.index("--tasks") + 1] = "4"
    if words[0] == "sft":
        words += ["--model", "tiny"]
    if words[0] in ("sft", "train"):
        words += ["--precision", "fp32"]
    if words[0] == "run":
        for setting in ("model=tiny", "precision=fp32", "expert.tasks=4", "sft.tasks=4", "evaluate.tasks=2"):
            words += ["--set", setting]
    return words
