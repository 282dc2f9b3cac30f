"""Odd files given to the verbs: a message that says what is wrong, and nothing lost in silence."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from multiturn.cli.app import log_handler, run_app
from multiturn.jsonl import read_pairs, read_trajectories
from multiturn.rollouts.store import RolloutStore, StoreHeader
from multiturn.trajectory import Message, Trajectory

ASKED = {"role": "user", "content": "Open\u2028the door."}
DONE = {"role": "assistant", "content": "open door"}
LOG = {"messages": [ASKED, DONE]}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MULTITURN_PROGRESS", "off")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


def write(content: bytes) -> str:
    Path("in.jsonl").write_bytes(content)
    return "in.jsonl"


def converted(content: bytes) -> list[Trajectory]:
    assert run_app(["convert", write(content), "out.jsonl", "--to", "multiturn"]) == 0
    return read_trajectories("out.jsonl")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run_app(arguments)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return code, said


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_marks(end: bytes, mark: bytes) -> None:
    """A line separator within a text ends no line."""
    line = json.dumps(LOG, ensure_ascii=False).encode()
    first, second = converted(mark + line + end + end + line)
    assert first.messages == second.messages
    assert first.messages[0].content == "Open\u2028the door."


@pytest.mark.parametrize("reward", ["NaN", "-Infinity", "1e999", "1" + 400 * "0"])
@pytest.mark.parametrize("own", [{}, {"schema": 1, "id": "a", "task_id": "t"}])
def test_rewards_that_no_float_holds(
    capsys: pytest.CaptureFixture[str], reward: str, own: dict[str, Any]
) -> None:
    record = json.dumps({**own, **LOG, "reward": 0.5}).replace("0.5", reward)
    code, said = refused(capsys, "convert", write(record.encode()), "out.jsonl", "--to", "multiturn")
    assert code == 3
    assert "must be a finite number or null" in said
    assert len(said) < 300


def test_an_error_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """The line number 100 in colons is no emoji, and what a file says does not act in the terminal."""
    good = json.dumps(LOG).encode() + b"\n"
    code, said = refused(capsys, "convert", write(99 * good + b"{\n"), "out.jsonl", "--to", "openai")
    assert code == 3
    assert "in.jsonl:100: is not JSON" in said
    code, said = refused(capsys, "convert", write(b'{"\\u001b[31m:key:": 1}'), "out.jsonl", "--to", "openai")
    assert code == 3
    assert "(their columns: ⟨U+001B⟩[31m:key:)" in said


@pytest.mark.parametrize("name", [".", "folder", "folder/.."])
@pytest.mark.parametrize("verb", ["convert", "pairs"])
def test_a_folder_is_no_file_to_write(capsys: pytest.CaptureFixture[str], verb: str, name: str) -> None:
    Path("folder").mkdir()
    better, worse = ({**LOG, "task_id": "t", "reward": reward} for reward in (1.0, 0.0))
    worse["messages"] = [ASKED, {"role": "assistant", "content": "sleep"}]
    source = write(json.dumps(better).encode() + b"\n" + json.dumps(worse).encode())
    given = [name, "--to", "multiturn"] if verb == "convert" else ["--output", name]
    code, said = refused(capsys, verb, source, *given)
    assert code == 1
    assert "is a folder and not the name of a file" in said
    assert sorted(path.name for path in Path().iterdir()) == ["folder", "in.jsonl"]


def test_damaged_rollouts_can_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with RolloutStore("in.jsonl", StoreHeader(environment="e", agent="a")) as store:
        for number, action in enumerate(("open door", "sleep")):
            messages = (Message(role="user", content="Go."), Message(role="assistant", content=action))
            store.append(Trajectory(id=f"t#{number}", task_id="t", messages=messages, reward=1.0 - number))
    lines = Path("in.jsonl").read_bytes().splitlines(keepends=True)
    write(b"".join([*lines[:2], b"garbage\n", *lines[2:]]))
    code, said = refused(capsys, "pairs", "in.jsonl", "--output", "p.jsonl")
    assert (code, "in.jsonl:3: is not JSON" in said) == (3, True)
    assert run_app(["pairs", "in.jsonl", "--output", "p.jsonl", "--skip-bad"]) == 0
    assert [pair.id for pair in read_pairs("p.jsonl")] == ["t#0 > t#1"]


@pytest.mark.parametrize("reward", ["nan", "inf"])
def test_an_expert_is_worth_a_number(capsys: pytest.CaptureFixture[str], reward: str) -> None:
    source = write(json.dumps(LOG).encode())
    given = ("--experts", source, "--rollouts", source, "--output", "p.jsonl")
    code, said = refused(capsys, "pairs", *given, "--expert-reward", reward)
    assert code == 2
    assert f"--expert-reward is {reward}; give a finite number" in said


def test_a_warning_that_quotes_data_gives_the_terminal_no_orders() -> None:
    """Ids are quoted when rows are dropped, and ESC c empties a terminal."""
    record = logging.LogRecord("multiturn", logging.WARNING, __file__, 1, "dropped: %s", ("\x1bc",), None)
    assert log_handler().format(record) == "dropped: ⟨U+001B⟩c"
