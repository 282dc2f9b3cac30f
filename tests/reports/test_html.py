"""The report: complete in itself, the same for the same run, and deaf to whatever text it shows."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import html.parser
import json
import re
from pathlib import Path

import pytest
from hostile import EVIL, evil_run
from made_up import MadeUpRun, one_split, two_splits

import multiturn.reports.html as html_module
from multiturn.evaluation.evaluate import summarize
from multiturn.reports.examples import choose_examples, choose_pairs
from multiturn.reports.html import render_report, write_report
from multiturn.reports.summary import build_summary, describe_pairs
from multiturn.trajectory import Message, Trajectory

TEMPLATES = Path(html_module.__file__).parent / "templates"
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Outline(html.parser.HTMLParser):
    """Every start tag with its attributes; complains of tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def close(self) -> None:
        super().close()
        assert self._open == []


def outline(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Outline()
    parser.feed(page)
    parser.close()
    return parser.tags


@functools.cache
def ordinary_page() -> str:
    """The page of the made-up run."""
    return rendered(one_split())


def rendered(run: MadeUpRun) -> str:
    return render_report(run.summary, episodes=run.episodes, pairs=run.pairs, pair_scores=run.pair_scores)


def scripts(page: str) -> list[str]:
    """What stands in the page's script elements."""
    return re.findall(r"<script[^>]*>(.*?)</script>", page, flags=re.DOTALL)


def policy(page: str) -> str:
    """The page's Content-Security-Policy."""
    found = [a["content"] for tag, a in outline(page) if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(found) == 1
    return str(found[0])


def assert_harmless(page: str) -> None:
    """No script but ours, no handler, nothing that is loaded, no link but within the page."""
    elements = [attributes for tag, attributes in outline(page) if tag == "script"]
    assert elements in ([{"type": "application/json", "id": "pairs-data"}, {}, {}], [{}])
    data, ours = scripts(page)[: len(elements) // 2], scripts(page)[len(elements) // 2 :]
    sources = []
    for script, name in zip(ours, ("page.js", "viewer.js"), strict=False):
        assert script == (TEMPLATES / name).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        sources.append(f"'sha256-{digest}'")
    assert f"script-src {' '.join(sources)};" in policy(page)
    for record in data:
        assert not set("<>&\u2028\u2029") & set(record)
        json.loads(record)
    for tag, attributes in outline(page):
        assert tag not in {
            "img",
            "iframe",
            "link",
            "object",
            "embed",
            "form",
            "base",
            "audio",
            "video",
        }
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"href", "xlink:href"}:
                assert value is not None
                assert value.startswith("#")
            assert name not in {"src", "srcset", "action", "formaction", "data"}
    assert "http://" not in page.replace(EVIL, "")
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_the_report_is_one_small_harmless_file(tmp_path: Path) -> None:
    run = one_split()
    path = tmp_path / "folder" / "report.html"
    write_report(run.summary, path, episodes=run.episodes, pairs=run.pairs, pair_scores=run.pair_scores)
    page = path.read_text(encoding="utf-8")
    assert_harmless(page)
    assert path.stat().st_size < 1_000_000
    assert list(path.parent.iterdir()) == [path]
    assert policy(page).startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    assert "require-trusted-types-for 'script'" in policy(page)
    assert "unsafe" not in policy(page).replace("style-src 'unsafe-inline'", "")


def test_it_says_what_was_found() -> None:
    run = one_split()
    page = ordinary_page()
    assert f"<h1>{run.summary['headline']}</h1>" in page
    reward = run.summary["splits"]["test"]["methods"]["dmpo"]["reward"]
    assert f"<b>{reward['mean']:.3f}</b>" in page
    assert f"[{reward['low']:.3f}, {reward['high']:.3f}]" in page
    for words in (
        "difference from SFT",
        "DMPO against DPO",
        "By task type",
        "How episodes ended",
        "Log-ratio to the reference",
        "Log-probability",
        "Weight of each turn",
        "Implicit reward of each turn",
        "Length of the trajectories",
        "What each training worked on, and what it took",
        "forward 1 min 00 s, backward 2 min 10 s",
        "31,415",
        "3.0 GiB",
        "turns of 20 are scored",
        "dropped: the same reward as the other side",
        "DMPO does better",
        "peak memory",
        "learning_rate: 2.0e-05",
        "transformers",
        "0123456789abcdef",
        "31 January 2026, 12:00 UTC",
    ):
        assert words in page


def test_it_is_accessible_as_far_as_markup_goes() -> None:
    tags = outline(ordinary_page())
    assert tags[0] == ("html", {"lang": "en"}) or ("html", {"lang": "en"}) in tags
    for tag, attributes in tags:
        if tag == "svg":
            assert attributes.get("role") == "img"
            assert attributes.get("aria-label")
        if tag == "th" and "scope" not in attributes:
            pytest.fail(f"a header cell without a scope: {attributes}")
        if tag == "section":
            assert attributes.get("aria-labelledby")
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {str(a["href"])[1:] for tag, a in tags if tag == "a"}
    assert targets <= set(ids)


def luminance(colour: str) -> float:
    """WCAG's relative luminance of #rrggbb."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def mixed(colour: str, ground: str, share: float) -> str:
    """What color-mix makes of two colours in sRGB."""
    channels = [(int(colour[i : i + 2], 16), int(ground[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(share * ours + (1 - share) * theirs):02x}" for ours, theirs in channels)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_are_told_apart_from_their_ground(scheme: str) -> None:
    """WCAG AA: 4.5 for text, also on the soft ground; 3 for what is drawn."""
    page = ordinary_page()
    dark = re.findall(r":root(?:\[data-theme=\"dark\"\]|:not\(.*?\)) \{(.*?)\}", page, flags=re.DOTALL)
    assert dark[0].split() == dark[1].split()  # by choice and by the system's
    light = re.findall(r":root \{(.*?)\}", page, flags=re.DOTALL)[0]
    block = light if scheme == "light" else dark[0]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    depth = float(re.findall(r"--depth: ([\d.]+)", block)[0])
    for tint in ("above", "below", "plain"):  # a turn at its deepest
        colours[f"{tint}-deep"] = mixed(colours[tint], colours["paper"], depth)

    def contrast(one: str, other: str) -> float:
        light, dark = sorted((luminance(colours[one]), luminance(colours[other])), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    for text in ("ink", "muted", "good", "bad"):
        for ground in ("paper", "soft"):
            assert contrast(text, ground) >= 4.5, f"{text} on {ground}"
    for ground in ("warn", "mark", "above-deep", "below-deep", "plain-deep"):
        assert contrast("ink", ground) >= 4.5, f"ink on {ground}"
    for tint in ("above-deep", "below-deep"):
        assert contrast(tint, "paper") >= 1.5, f"{tint} can be told from nothing"
    for slot in range(8):
        assert contrast(f"series-{slot}", "paper") >= 3.0
    assert contrast("rest", "paper") >= 2.4  # bars that stand beside their number


def test_the_same_run_gives_the_same_page_also_from_its_json() -> None:
    run = one_split()
    again = dataclasses.replace(run, summary=json.loads(json.dumps(run.summary)))
    assert ordinary_page() == rendered(again)


def test_several_splits_have_their_own_results() -> None:
    page = rendered(two_splits())
    assert '<h3 class="split">seen</h3>' in page
    assert '<h3 class="split">unseen</h3>' in page
    assert_harmless(page)


def test_a_bare_summary_is_enough() -> None:
    episodes = one_split().episodes["test"]["sft"][:1]
    page = render_report(build_summary(run={}, evaluations={"test": {"mine": summarize(episodes)}}))
    assert "<h1>Results</h1>" in page
    assert_harmless(page)
    assert_harmless(render_report(build_summary(run={}, evaluations={})))


@functools.cache
def hostile_page() -> str:
    return rendered(evil_run())


def test_hostile_text_is_text() -> None:
    page = hostile_page()
    assert_harmless(page)
    page.encode("utf-8")
    assert not set("\u202e\u202c\u2028\x00\x07\x1b") & set(page)
    assert "owned" in page
    assert "{{ 7 * 7 }}" in page
    assert "⟨U+202E⟩" in page


def test_a_line_of_a_megabyte_is_cut() -> None:
    page = hostile_page()
    assert len(page) < 1_000_000
    assert "998,000 more characters" in page
    assert 996_000 in json.loads(scripts(page)[0])["more"].values()


def test_hostile_text_is_text_in_the_data_too() -> None:
    texts = json.loads(scripts(hostile_page())[0])["texts"]
    assert any("</noscript></script><script>document.title='owned'</script>" in text for text in texts)
    assert any("⟨U+202E⟩evil⟨U+202C⟩ ⟨U+2028⟩ ⟨U+0000⟩⟨U+0007⟩⟨U+001B⟩[31m ⟨U+D800⟩" in t for t in texts)


def test_examples_show_gains_losses_and_draws() -> None:
    run = one_split()
    examples = choose_examples(run.summary, run.episodes)
    assert len(examples) == 6
    reasons = [example.why for example in examples]
    assert reasons.count("DMPO does better") >= 3
    assert "the same reward, and no success" in reasons
    for example in examples:
        assert [episode.method for episode in example.episodes] == ["sft", "dpo", "dmpo"]
    assert len({example.title.partition("(")[2] for example in examples}) >= 4  # task types vary
    assert len(choose_examples(two_splits().summary, two_splits().episodes)) == 6


def test_long_episodes_are_cut_at_a_turn() -> None:
    turn = (Message(role="assistant", content="look"), Message(role="user", content="nothing"))
    messages = (Message(role="user", content="Go."), *turn * 100)
    trajectory = Trajectory(id="a", task_id="a", messages=messages, reward=0.0, success=False)
    summary = build_summary(run={}, evaluations={"test": {"sft": summarize([trajectory])}})
    (example,) = choose_examples(summary, {"test": {"sft": [trajectory]}})
    assert len(example.episodes[0].turns) == 80
    assert example.episodes[0].more_turns == 60


def test_a_swapped_pair_is_shown_first() -> None:
    pairs = one_split().pairs
    swapped = dataclasses.replace(pairs[-1], info={**pairs[-1].info, "swapped": True})
    chosen = choose_pairs([*pairs[:-1], swapped])
    assert [pair.why for pair in chosen] == [
        "the rollout beat the expert",
        "the expert beat the rollout",
        "the expert beat the rollout",
    ]
    assert choose_pairs([]) == []


def test_pairs_of_a_tasks_own_trajectories_name_no_expert() -> None:
    """Either side may be anybody's; and there may be more pairs than trajectories."""
    run = one_split()
    pairs = [
        dataclasses.replace(pair, info={**pair.info, "strategy": "all-above-margin", "swapped": False})
        for pair in run.pairs
    ]
    assert {example.why for example in choose_pairs(pairs)} == {"the one with the higher reward is chosen"}
    said = describe_pairs(pairs, counts={"rollouts": 8, "pairs": 27}, dropped={"alone": 2})
    page = rendered(dataclasses.replace(run, pairs=pairs, summary={**run.summary, "pairs": said}))
    assert "27 pairs from 8 trajectories" in page
    assert "dropped: no other trajectory of the task" in page
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", page)]
    assert max(widths) == 100.0
