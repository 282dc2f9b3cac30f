"""`multiturn env prepare`: every environment that needs something can say what is missing."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from multiturn.cli.app import app
from multiturn.envs import prepare as preparing
from multiturn.envs.prepare import Finding, prepare
from multiturn.envs.protocols import BENCHMARKS
from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

HERE = "test_prepare"


class NeedsFile:
    """An environment's factory that looks for one file."""

    @staticmethod
    def prepare(path: Path | None) -> list[Finding]:
        there = path is not None and (path / "words.txt").exists()
        return [
            Finding(what="the package is there", ok=True),
            Finding(
                what=f"[bold]words.txt\x1b :key: {'is there' if there else 'is missing'}",
                ok=there,
                remedy="" if there else "write it",
            ),
        ]


class NeedsNothing:
    pass


def test_the_benchmarks_can_be_prepared() -> None:
    assert set(preparing._BUILT_IN) == set(BENCHMARKS)


def test_an_environment_of_ones_own(tmp_path: Path) -> None:
    assert [finding.ok for finding in prepare(f"{HERE}:NeedsFile", tmp_path)] == [True, False]
    (tmp_path / "words.txt").touch()
    assert all(finding.ok for finding in prepare(f"{HERE}:NeedsFile", tmp_path))
    assert prepare(f"{HERE}:NeedsNothing") == prepare("household") == []
    with pytest.raises(ConfigError, match="did you mean 'household'"):
        prepare("houshold")


def test_the_command_says_what_to_do(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["env", "prepare", f"{HERE}:NeedsFile", "--path", str(tmp_path)])
    assert isinstance(answer.exception, ConfigError)
    assert "is not ready: 1 of 2 findings are wrong" in str(answer.exception)
    lines = [line.rstrip() for line in answer.stdout.splitlines()]
    assert lines == [
        "ok    the package is there",
        "wrong [bold]words.txt⟨U+001B⟩ :key: is missing",
        "      write it",
    ]
    (tmp_path / "words.txt").touch()
    answer = CliRunner().invoke(app, ["env", "prepare", f"{HERE}:NeedsFile", "--path", str(tmp_path)])
    assert answer.exit_code == 0
    answer = CliRunner().invoke(app, ["env", "prepare", "household"])
    assert "household needs nothing" in answer.stdout


@pytest.mark.parametrize("name", ["alfworld", "webshop"])
def test_missing_files_are_a_finding(name: str, tmp_path: Path) -> None:
    findings = prepare(name, tmp_path)
    assert not all(finding.ok for finding in findings)
    assert all(finding.remedy for finding in findings if not finding.ok)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("scienceworld") is None, reason="scienceworld is not installed")
def test_scienceworld_plays_its_own_solution() -> None:
    findings = prepare("scienceworld")
    assert all(finding.ok for finding in findings)
    assert [finding.what for finding in findings][-1] == "its solution of find-non-living-thing/0 scores 1"
