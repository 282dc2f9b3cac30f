"""docs/custom-environment.md: its class keeps the protocol, is found and played, and trains an agent."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest
from doc_pages import block, command_lines, parse, read_page, run

import multiturn
from multiturn.envs import available, make, options_of
from multiturn.envs.slots import ProcessSlot, make_slots
from multiturn.pipeline.load import load_config
from multiturn.rollouts.store import read_rollouts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = read_page("custom-environment.md")
COMMANDS = command_lines(PAGE)
TINY = ("--set", "model={scratch: {vocab_size: 400, hidden_size: 32, layers: 1, heads: 2}}")


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path with the page's module in it."""
    monkeypatch.setenv("MULTITURN_PROGRESS", "off")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "guess.yaml").write_text(block(PAGE, "yaml", "guess_number"), encoding="utf-8")
    (tmp_path / "guess_number.py").write_text(block(PAGE, "python", "class GuessNumber"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    monkeypatch.delitem(sys.modules, "guess_number", raising=False)


def test_the_example_keeps_the_protocol(example: Path) -> None:
    settings = load_config(example / "guess.yaml").environment
    report = multiturn.check_env(make(settings.name, **settings.options), episodes=10)
    assert report.findings == (), report.describe()
    assert report.expert_returns == (1.0,) * 10
    assert report.describe().splitlines()[0] in block(PAGE, "console", "env check guess_number")


def test_the_example_as_an_entry_point(example: Path) -> None:
    points = tomllib.loads(block(PAGE, "toml", "multiturn.environments"))["project"]["entry-points"]
    info = example / "guess_number-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: guess-number\nVersion: 1.0\n", encoding="utf-8"
    )
    lines = [
        line
        for group, names in points.items()
        for line in (f"[{group}]", *(f"{n} = {t}" for n, t in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    assert "guess-number" in available()
    assert [option.name for option in options_of("guess-number")] == ["seed", "highest"]
    assert options_of("guess-number")[1].summary == "The numbers are 1 to this."
    (slot,) = make_slots("guess-number", {"highest": 10}, 1, isolate=True)
    try:
        assert isinstance(slot, ProcessSlot)
        assert slot.facts.fingerprint == "guess-number/1/0/10"
        assert len(slot.tasks("test")) == 50
    finally:
        slot.close()


def test_the_checker_is_used_as_shown(example: Path) -> None:
    names = {"multiturn": multiturn, "GuessNumber": importlib.import_module("guess_number").GuessNumber}
    exec(compile(block(PAGE, "python", "check_env"), "page", "exec"), names)  # noqa: S102 - our own page


def test_the_command_finds_a_module_in_its_folder(example: Path) -> None:
    line = block(PAGE, "console", "env check guess_number").splitlines()[0].removeprefix("$ multiturn ")
    # -P: Python itself does not look in the working folder, as for the installed script.
    started = [sys.executable, "-P", "-m", "multiturn", *shlex.split(line)]
    done = subprocess.run(  # noqa: S603 - our own page
        started, cwd=example, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("guess-number: keeps the protocol")


def test_the_commands_are_what_the_command_line_takes(example: Path) -> None:
    assert [words[1] for words in COMMANDS] == ["rollout", "run", "report"]
    for words in COMMANDS:
        parse(words[1:])
    assert load_config(example / "guess.yaml").sft.tasks == 20


def test_the_expert_plays(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(COMMANDS[0][1:], capsys)
    played = read_rollouts(example / "expert.jsonl")
    assert [episode.reward for episode in played] == [1.0] * 20
    assert "from 1 to 50" in played[0].messages[1].content


@pytest.mark.slow
def test_an_agent_is_trained(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, whole, report = COMMANDS
    run([*whole[1:], *TINY, "--set", "precision=fp32"], capsys)
    assert run(report[1:], capsys).strip()
    assert (example / report[2] / "report.html").is_file()
