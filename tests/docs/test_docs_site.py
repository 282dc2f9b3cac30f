"""The documentation's site: it builds without a warning, and loads nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from doc_pages import ROOT

if TYPE_CHECKING:
    from pathlib import Path

CONFIGURATION = ROOT / "scripts" / "docs_site"
# What a browser fetches by itself; links that a reader may follow are none.
LOADED = re.compile(
    r"<(?:script|img|iframe|source|embed|object|video|audio)\b[^>]*\b(?:src|srcset|data)=[\"']?(?:https?:)?//[^>]*>"
    r"|<link\b(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?(?:https?:)?//[^>]*>"
    r"|(?:@import\s+|url\(\s*)[\"']?(?:https?:)?//[^)\s]+",
    re.IGNORECASE,
)


def test_what_is_loaded_from_elsewhere_is_recognized() -> None:
    for text in (
        '<script src="https://cdn.example/x.js"></script>',
        "<img alt='' src=//cdn.example/x.png>",
        '<link rel="stylesheet" href="https://fonts.example/css">',
        "@import url(https://fonts.example/css);",
    ):
        assert LOADED.search(text), text
    assert not LOADED.search('<a href="https://arxiv.org">paper</a><script src="_static/x.js"></script>')


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_without_the_network(tmp_path: Path) -> None:
    for package in ("sphinx", "myst_parser", "furo"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'multiturn[docs]'")
    if not (CONFIGURATION / "conf.py").is_file():
        pytest.skip(f"{CONFIGURATION} is not there: the package is installed without its documentation")
    site = tmp_path / "site"
    folders = [str(CONFIGURATION), "-d", str(tmp_path / "doctrees"), str(ROOT), str(site)]
    options = ["-W", "--keep-going", "-q", "-b", "html", "-c"]
    build = subprocess.run(  # noqa: S603 - our own configuration
        [sys.executable, "-m", "sphinx", *options, *folders], capture_output=True, text=True, check=False
    )
    assert build.returncode == 0, build.stderr
    assert (site / "index.html").is_file()
    for page in ("index", "method", "tutorial", "api/multiturn.objective", "api/commands"):
        assert (site / "docs" / f"{page}.html").is_file()
    assert "<math" in (site / "docs" / "method.html").read_text(encoding="utf-8")
    objective = (site / "docs" / "api" / "multiturn.objective.html").read_text(encoding="utf-8")
    assert 'id="multiturn.objective.weights.turn_weights"' in objective
    for path in site.rglob("*"):
        if path.suffix in (".html", ".css"):
            found = LOADED.search(path.read_text(encoding="utf-8"))
            assert found is None, f"{path}: {found}"
