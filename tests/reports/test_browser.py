"""The report in a real browser. Needs Chromium; skips where there is none."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from made_up import one_split
from test_html import evil_run

from multiturn.reports.html import write_report

if TYPE_CHECKING:
    from pathlib import Path

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason=f"{CHROMIUM} is not installed"),
]


def browse(page: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """What the browser prints, and the lines that the page's console got."""
    result = subprocess.run(  # noqa: S603 - a fixed program on a file of this test
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
@pytest.mark.parametrize("width", [500, 1280])
def test_the_report_opens_without_a_complaint(tmp_path: Path, scheme: int, width: int) -> None:
    run = one_split()
    page, shot = tmp_path / "report.html", tmp_path / "shot.png"
    write_report(run.summary, page, episodes=run.episodes, pairs=run.pairs)
    _, console = browse(
        page,
        tmp_path / "profile",
        f"--blink-settings=preferredColorScheme={scheme}",
        f"--window-size={width},3000",
        f"--screenshot={shot}",
    )
    assert console == []
    from matplotlib.image import imread

    pixels = imread(shot)
    corner, spread = pixels[2, 2, :3].mean(), pixels[..., :3].std()
    assert corner < 0.2 if scheme == 0 else corner > 0.9
    assert spread > 0.03  # not a blank page


def test_hostile_text_does_nothing(tmp_path: Path) -> None:
    run = evil_run()
    page = tmp_path / "report.html"
    write_report(run.summary, page, episodes=run.episodes, pairs=run.pairs)
    dom, console = browse(page, tmp_path / "profile", "--dump-dom")
    assert console == []
    assert "<script" not in dom
    assert "<title>owned</title>" not in dom
    assert "&lt;script&gt;document.title='owned'&lt;/script&gt;" in dom


def test_the_policy_would_stop_a_script_and_the_console_would_say_so(tmp_path: Path) -> None:
    """The control: with a script smuggled in, the page's policy refuses it, and this test would see it."""
    run = one_split()
    page = tmp_path / "report.html"
    write_report(run.summary, page)
    text = page.read_text(encoding="utf-8")
    page.write_text(
        text.replace("</main>", "<script>document.title='owned'</script></main>"), encoding="utf-8"
    )
    dom, console = browse(page, tmp_path / "profile", "--dump-dom")
    assert "<title>owned</title>" not in dom
    assert any("Content Security Policy" in line for line in console)
