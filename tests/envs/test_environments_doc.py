"""docs/environments.md: its worked example runs, and its tables are those of the code."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

import multiturn
from multiturn.envs import available, make, options_of
from multiturn.envs.slots import ProcessSlot, make_slots
from multiturn.pipeline.config import EnvironmentSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(multiturn.__file__).parents[2] / "docs" / "environments.md"


@pytest.fixture(scope="module")
def page() -> str:
    if not PAGE.is_file():
        pytest.skip(f"{PAGE} is not there: the package is installed without its documentation")
    return PAGE.read_text(encoding="utf-8")


def block(page: str, language: str, containing: str) -> str:
    """The first fenced block of a language that contains a text."""
    for found in re.finditer(rf"^```{language}\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL):
        if containing in found[1]:
            return found[1]
    raise AssertionError(f"the page has no {language} block with {containing!r}")


@pytest.fixture
def example(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path with the page's module in it."""
    (tmp_path / "guess_number.py").write_text(block(page, "python", "class GuessNumber"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    monkeypatch.delitem(sys.modules, "guess_number", raising=False)


def test_the_example_keeps_the_protocol(page: str, example: Path) -> None:
    settings = EnvironmentSettings(**yaml.safe_load(block(page, "yaml", "guess_number"))["environment"])
    report = multiturn.check_env(make(settings.name, **settings.options), episodes=10)
    assert report.findings == (), report.describe()
    assert report.expert_returns == (1.0,) * 10
    assert report.describe().splitlines()[0] in block(page, "console", "env check guess_number")


def test_the_example_as_an_entry_point(page: str, example: Path) -> None:
    points = tomllib.loads(block(page, "toml", "multiturn.environments"))["project"]["entry-points"]
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


def test_the_first_example_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block(page, "python", 'make("household"'), str(PAGE), "exec"), {})  # noqa: S102 - our own page
    assert "Your task is to" in capsys.readouterr().out


def test_the_checker_is_used_as_shown(page: str, example: Path) -> None:
    names = {"multiturn": multiturn, "GuessNumber": importlib.import_module("guess_number").GuessNumber}
    exec(compile(block(page, "python", "check_env"), str(PAGE), "exec"), names)  # noqa: S102 - our own page


@pytest.mark.parametrize("name", ["household", "alfworld", "scienceworld"])
def test_the_tables_of_options_are_complete(page: str, name: str) -> None:
    table = page.partition(f"<!-- options: {name} -->\n")[2].partition("\n\n")[0]
    shown: dict[str, str] = {}
    for row in table.splitlines()[2:]:
        cells = [cell.strip() for cell in row.split("|")]
        names = re.findall(r"`(\w+)`", cells[1])
        defaults = [part.strip().strip("`") for part in cells[2].split(",")]
        shown |= dict(zip(names, defaults, strict=True))
    real = {option.name: option.default for option in options_of(name)}
    assert list(shown) == list(real)
    for option, default in shown.items():
        assert default.startswith("all ") or default == real[option], option
