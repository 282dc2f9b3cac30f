"""The documentation's pages as tests read them: their code blocks, and the commands in these."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from multiturn.cli.app import app, run_app

ROOT = Path(__file__).resolve().parents[2]


def read_page(name: str) -> str:
    """A page of docs/; the test is skipped where the package is installed without its documentation."""
    path = ROOT / "docs" / name
    if not path.is_file():
        pytest.skip(
            f"{path} is not there: the package is installed without its documentation",
            allow_module_level=True,
        )
    return path.read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def block(text: str, language: str, containing: str) -> str:
    """The one fenced block of a language that contains a text."""
    found = [one for one in blocks(text, language) if containing in one]
    assert len(found) == 1, f"{len(found)} {language} blocks have {containing!r}"
    return found[0]


def command_lines(text: str) -> list[list[str]]:
    """The words of each command in a shell's blocks; a backslash at a line's end joins it to the next."""
    lines = "".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def parse(arguments: list[str]) -> None:
    """Let the command line read a command without doing anything: unknown options and values raise."""
    command: Any = typer.main.get_command(app)
    names = list(arguments)
    while hasattr(command, "commands"):
        command = command.commands[names.pop(0)]
    command.make_context(arguments[0], names)


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints."""
    capsys.readouterr()
    code = run_app(arguments)
    shown = capsys.readouterr()
    assert code == 0, f"{shlex.join(arguments)}: {shown.out}{shown.err}"
    return shown.out + shown.err
