"""The report in a real browser. Needs Chromium; skips where there is none."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hostile import evil_run
from made_up import MadeUpRun, one_split

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
    "--virtual-time-budget=5000",
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


PRESS = """
const seen = [];
const press = (key) => (document.activeElement || document.body)
  .dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
const text = (selector) => document.querySelector(selector)?.textContent;
const type = (words) => {
  const box = document.querySelector("#search");
  box.value = words;
  box.dispatchEvent(new Event("input"));
};
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const tell = () => {
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify(seen);
  document.body.append(result);
};
"""


def write_page(run: MadeUpRun, page: Path, *, act: str = "") -> Path:
    """A report; with a script of the test's own where there is something to do in it."""
    write_report(run.summary, page, episodes=run.episodes, pairs=run.pairs, pair_scores=run.pair_scores)
    if act:
        script = f"{PRESS}(async () => {{ try {{ {act} }} finally {{ tell(); }} }})();"
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        text = page.read_text(encoding="utf-8")
        text = text.replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
        text = text.replace("</body>", f"<script>{script}</script></body>")
        page.write_text(text, encoding="utf-8")
    return page


def do(run: MadeUpRun, folder: Path, act: str, *flags: str) -> list[Any]:
    """What a script saw that acted in a run's report; the console must have stayed empty."""
    dom, console = browse(
        write_page(run, folder / "report.html", act=act), folder / "profile", "--dump-dom", *flags
    )
    assert console == []
    found = re.search(r'<pre id="result">(.*?)</pre>', dom)
    assert found
    seen: list[Any] = json.loads(html.unescape(found[1]))
    return seen


@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
@pytest.mark.parametrize("width", [500, 1280])
def test_the_report_opens_without_a_complaint(tmp_path: Path, scheme: int, width: int) -> None:
    run = one_split()
    shot = tmp_path / "shot.png"
    page = write_page(run, tmp_path / "report.html")
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
    page = write_page(evil_run(), tmp_path / "report.html")
    dom, console = browse(page, tmp_path / "profile", "--dump-dom")
    assert console == []
    assert re.findall(r"<script[^>]*>", dom) == [
        '<script type="application/json" id="pairs-data">',
        *("<script>", "<script>"),
    ]
    assert "<title>owned</title>" not in dom
    assert "&lt;script&gt;document.title='owned'&lt;/script&gt;" in dom


def test_a_page_of_hostile_text_stays_usable(tmp_path: Path) -> None:
    seen = do(
        evil_run(),
        tmp_path,
        """
        press("p"); press("f");
        seen.push(document.querySelectorAll("#viewer img, #viewer a, #viewer script").length);
        seen.push(text("#pair .prompt pre"), text("#pair .more"), text("#count"));
        press("v"); press("j"); press("d");
        seen.push(document.documentElement.dataset.theme, document.title.includes("owned</title>"));
        type("<script>document.title"); await wait(300);
        seen.push(document.querySelectorAll("#pair mark").length > 0, text("#count"));
        seen.push(document.querySelector("#pair .hidden-character").textContent);
        seen.push(document.documentElement.scrollWidth <= innerWidth);
        """,
    )
    assert seen[0] == 0
    assert (
        "</noscript></script><script>document.title='owned'</script><img src=x onerror=alert(1)>" in seen[1]
    )
    assert '<a href="javascript:alert(1)">link</a>' in seen[1]
    assert "⟨U+202E⟩evil⟨U+202C⟩" in seen[1]
    assert seen[2] == "996,000 more characters"
    assert seen[3] == "1 of 1"
    assert seen[4] in {"light", "dark"}
    assert seen[5:] == [False, True, "1 of 1 found", "⟨U+202E⟩", True]


def test_the_keyboard_goes_through_the_pairs(tmp_path: Path) -> None:
    run = one_split()
    total = len(run.pairs)
    seen = do(
        run,
        tmp_path,
        """
        const where = () => text("#count");
        seen.push(where()); press("j"); seen.push(where()); press("k"); press("k"); seen.push(where());
        press("j"); press("ArrowRight"); seen.push(where());
        seen.push(document.querySelectorAll("#pair .sides").length);
        press("f"); seen.push(document.querySelectorAll("#pair .sides").length);
        press("/"); seen.push(document.activeElement.id);
        press("j"); seen.push(where());
        press("Escape"); seen.push(document.activeElement.id || "page");
        document.activeElement.dispatchEvent(
          new KeyboardEvent("keydown", {key: "j", ctrlKey: true, bubbles: true}));
        seen.push(where());
        """,
    )
    first = run.pairs[0]
    common = first.chosen[0].content == first.rejected[0].content
    assert seen == [
        *(f"1 of {total}", f"2 of {total}", f"{total} of {total}", f"1 of {total}"),
        *(2, 3 if common else 2),  # heads and what follows the fork; what is common between them
        *("search", f"1 of {total}", "page", f"1 of {total}"),
    ]


def test_search_finds_words_in_task_and_text(tmp_path: Path) -> None:
    run = one_split()
    words = ("apple", "drawer 2")

    def says(number: int) -> bool:
        pair = run.pairs[number]
        texts = [pair.id, pair.task_id, *(m.content for m in (*pair.prompt, *pair.chosen, *pair.rejected))]
        return all(word in "\n".join(texts).lower() for word in " ".join(words).split())

    expected = sum(says(number) for number in range(len(run.pairs)))
    assert 0 < expected < len(run.pairs)
    seen = do(
        run,
        tmp_path,
        """
        type("APPLE drawer 2"); await wait(300);
        seen.push(text("#count"), document.querySelectorAll(".cell:not(.elsewhere)").length);
        seen.push(document.querySelectorAll("#pair mark").length > 1);
        type("no such words"); await wait(300);
        seen.push(text("#count"), document.querySelector("#nothing").hidden);
        press("j"); type(""); await wait(300);
        seen.push(text("#count").endsWith("of " + document.querySelectorAll(".cell").length));
        """,
    )
    assert seen[0].endswith(f"of {expected} found")
    assert seen[1:] == [expected, True, "\N{EN DASH} of 0 found", False, True]


def test_turns_say_what_they_are_worth(tmp_path: Path) -> None:
    """As text beside the colour, the whole sum on hover and focus; before training the reference alone."""
    run = one_split()
    seen = do(
        run,
        tmp_path,
        """
        const turn = () => document.querySelector("#pair .turn");
        seen.push(text("#views [aria-pressed=true]"), turn().querySelector(".value").textContent);
        turn().focus();
        const says = turn().querySelector(".says");
        seen.push(getComputedStyle(says).opacity, says.textContent);
        seen.push(turn().style.getPropertyValue("--share") !== "");
        press("v"); press("v");
        seen.push(text("#views [aria-pressed=true]"));
        seen.push(turn().querySelector(".says").textContent, text(".margin"));
        """,
    )
    assert seen[0] in {"DPO", "DMPO"}
    value = seen[1].replace("\N{MINUS SIGN}", "-")
    assert re.fullmatch(r"\+?-?\d\.\d+", value)
    assert seen[2] == "1"
    assert f"= {seen[1]}" in seen[3]
    assert "log-ratio" in seen[3]
    assert seen[4] is True
    assert seen[5] == "before training"
    assert "log-ratio 0 by definition" in seen[6]
    assert "All log-ratios are 0." in seen[7]


@pytest.mark.parametrize(("scheme", "first"), [(0, "light"), (1, "dark")])
def test_the_theme_turns_and_turns_back(tmp_path: Path, scheme: int, first: str) -> None:
    seen = do(
        one_split(),
        tmp_path,
        """
        const paper = () => getComputedStyle(document.body).backgroundColor;
        const before = paper(); press("d");
        seen.push(document.documentElement.dataset.theme, paper() !== before);
        document.querySelector("#theme").click(); seen.push(paper() === before);
        """,
        f"--blink-settings=preferredColorScheme={scheme}",
    )
    assert seen == [first, True, True]


def test_markup_from_strings_is_refused_by_the_browser(tmp_path: Path) -> None:
    """The control of what the page promises: even a script that may run cannot make markup of a string."""
    act = "try { document.body.innerHTML = '<b>x</b>'; } catch (error) { seen.push(error.name); }"
    page = write_page(one_split(), tmp_path / "report.html", act=act)
    dom, console = browse(page, tmp_path / "profile", "--dump-dom")
    assert "TypeError" in dom
    assert console


def test_without_pairs_there_is_a_page_and_a_theme(tmp_path: Path) -> None:
    run = one_split()
    bare = MadeUpRun(run.summary, {}, [])
    seen = do(bare, tmp_path, "seen.push(document.querySelector('#theme').hidden, !!text('#viewer'));")
    assert seen == [False, False]


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
