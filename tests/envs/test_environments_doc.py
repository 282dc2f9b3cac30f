"""docs/environments.md: its first example runs, and its tables are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import multiturn
from multiturn.envs import options_of

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


def test_the_first_example_runs(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block(page, "python", 'make("household"'), str(PAGE), "exec"), {})  # noqa: S102 - our own page
    assert "Your task is to" in capsys.readouterr().out


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
