"""The pair viewer's data: harmless, small enough, and what the pairs say."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import one_split

import multiturn.reports.viewer as viewer_module
from multiturn.reports.html import render_report
from multiturn.reports.viewer import Viewer, build_viewer, script_json
from multiturn.trajectory import Message, PreferencePair

TRAININGS: dict[str, Any] = {
    "dmpo": {"objective": "dmpo", "beta": 0.1, "gamma": 0.5},
    "control": {"objective": "sft", "beta": None, "gamma": None},
}
SERIES = {"dmpo": 1, "control": 2}
PROMPT = (Message(role="user", content="Go."),)


def said(*texts: str) -> tuple[Message, ...]:
    """Alternating actions and observations."""
    return tuple(
        Message(role="user" if number % 2 else "assistant", content=text) for number, text in enumerate(texts)
    )


def pair(number: int = 0, **changes: Any) -> PreferencePair:
    fields: dict[str, Any] = {
        "id": f"task/{number}#0",
        "task_id": f"task/{number}",
        "prompt": PROMPT,
        "chosen": said("look", "a door", "open door", "open"),
        "rejected": said("look", "a door", "sleep", "zzz", "sleep"),
        "info": {"task_type": "doors", "chosen_reward": 1.0, "rejected_reward": 0.25},
    }
    return PreferencePair(**(fields | changes))


def scores(turns: tuple[int, int] = (2, 3), *, weighted: bool = True) -> dict[str, Any]:
    """Log-ratios 0.5 and -1, weights 1, 1/2, 1/3 and so on, beta 0.1."""
    sides: dict[str, Any] = {}
    for side, ratio, count in zip(("chosen", "rejected"), (0.5, -1.0), turns, strict=True):
        weights = [1 / (turn + 1) for turn in range(count)]
        sides[side] = {
            "reference": [-1.0] * count,
            "policy": [-1.0 + ratio] * count,
            "weights": weights if weighted else None,
            "rewards": [0.1 * weight * ratio for weight in weights] if weighted else None,
        }
    return sides


def built(pairs: list[PreferencePair], found: dict[int, dict[str, Any]]) -> tuple[Viewer, dict[str, Any]]:
    viewer = build_viewer(pairs, found, TRAININGS, SERIES)
    return viewer, json.loads(viewer.data) if viewer.data else {}


def test_a_pair_by_hand() -> None:
    """Weights 1 and 1/2, log-ratio 0.5, beta 0.1: values 0.05 and 0.025."""
    viewer, data = built([pair()], {0: {"dmpo": scores(), "control": scores(weighted=False)}})
    (shown,) = data["pairs"]
    assert (viewer.shown, viewer.scored, viewer.total) == (1, 1, 1)
    assert shown["common"] == 2
    assert [data["texts"][i] for _, i in shown["chosen"]["messages"]] == [
        "look",
        "a door",
        "open door",
        "open",
    ]
    assert shown["chosen"]["reward"] == 1.0
    assert data["texts"][shown["type"]] == "doors"
    assert shown["chosen"]["reference"] == [-1.0, -1.0]
    assert shown["chosen"]["values"]["dmpo"] == [[-0.5, 1.0, 0.05], [-0.5, 0.5, 0.025]]
    assert shown["chosen"]["values"]["control"] == [[-0.5, None, 0.5], [-0.5, None, 0.5]]
    assert [view["label"] for view in data["views"]] == ["DMPO", "control"]
    assert [view["weighted"] for view in data["views"]] == [True, False]
    assert [view["product"] for view in data["views"]] == [True, False]
    assert data["views"][1]["scale"] == 1.0
    assert data["reference"] == 1.0
    assert list(viewer.turns) == ["dmpo", "control"]


def test_rewards_that_are_no_product_with_a_log_ratio_are_not_said_to_be() -> None:
    """As those of an objective without a reference."""
    other = scores()
    other["chosen"]["rewards"] = [0.7, 0.1]
    _, data = built([pair()], {0: {"dmpo": other}})
    assert [view["product"] for view in data["views"]] == [False]


def test_texts_stand_once() -> None:
    _, data = built([pair(number) for number in range(30)], {})
    assert data["texts"].count("Go.") == 1
    assert len(data["texts"]) == len(set(data["texts"]))
    assert data["views"] == []


def test_pairs_without_scores_come_after_those_with() -> None:
    viewer, data = built([pair(number) for number in range(5)], {3: {"dmpo": scores()}})
    assert [shown["n"] for shown in data["pairs"]] == [4, 1, 2, 3, 5]
    assert (viewer.shown, viewer.scored) == (5, 1)


def test_of_many_pairs_some_are_shown() -> None:
    viewer, data = built([pair(number) for number in range(1000)], {999: {"dmpo": scores()}})
    assert len(data["pairs"]) == viewer.shown == 200
    numbers = [shown["n"] for shown in data["pairs"]]
    assert numbers[0] == 1000
    assert len(set(numbers)) == 200
    assert max(b - a for a, b in itertools.pairwise(numbers[1:])) <= 6  # spread evenly


def test_a_prefix_is_what_both_said_and_saw() -> None:
    ends_early = pair(chosen=said("look", "a door"), rejected=said("look", "a door", "sleep"))
    other_room = pair(rejected=said("look", "a wall", "sleep"))
    nothing = pair(rejected=said("sleep"))
    _, data = built([ends_early, other_room, nothing, pair()], {})
    assert [shown["common"] for shown in data["pairs"]] == [2, 1, 0, 2]


def test_episodes_that_were_cut_have_fewer_values_than_turns() -> None:
    _, data = built([pair()], {0: {"dmpo": scores((1, 2)), "control": scores((2, 2))}})
    (shown,) = data["pairs"]
    assert len(shown["chosen"]["reference"]) == 2
    assert len(shown["chosen"]["values"]["dmpo"]) == 1


def test_what_cannot_be_shown_is_left_out() -> None:
    broken = scores()
    broken["chosen"]["policy"] = [None, -1.0]
    viewer, data = built([pair()], {0: {"dmpo": broken, "other": scores()}, 7: {"dmpo": scores()}})
    assert (viewer.scored, data["views"], viewer.turns) == (0, [], {})
    assert build_viewer([], {}, TRAININGS, SERIES).data == ""


def test_numbers_that_are_none_do_not_reach_the_page() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json({"a": math.nan})
    info = {"chosen_reward": math.nan, "rejected_reward": 10**400}
    _, data = built([pair(info=info)], {})
    assert [data["pairs"][0][side]["reward"] for side in ("chosen", "rejected")] == [None, None]


@given(st.text())
def test_no_text_ends_the_script(text: str) -> None:
    hostile = f"{text}</script><!--<script>&\u2028\u2029"
    data = build_viewer([pair(chosen=said(hostile))], {}, {}, {}).data
    assert not set("<>&\u2028\u2029") & set(data)
    data.encode("utf-8")
    end = "</script><!--<script>&⟨U+2028⟩⟨U+2029⟩"
    assert any(shown.endswith(end) for shown in json.loads(data)["texts"])


def test_long_texts_are_cut_and_say_so() -> None:
    _, data = built([pair(chosen=said("look", "x" * 1_000_000))], {})
    place = next(i for i, text in enumerate(data["texts"]) if text.startswith("xxx"))
    assert len(data["texts"][place]) == 4000
    assert data["more"][str(place)] == 996_000


def test_tool_calls_are_shown() -> None:
    call = {"function": {"name": "open", "arguments": "door"}}
    acting = (Message(role="assistant", content="", tool_calls=(call,)),)
    _, data = built([pair(chosen=acting)], {})
    assert json.dumps(call) in data["texts"]


def long_pairs(count: int, *, turns: int, page: int) -> list[PreferencePair]:
    """Pairs whose every message is a text of its own."""

    def side(number: int, name: str) -> tuple[Message, ...]:
        filling = f"{name} {number}: you see a drawer 1, a fridge 1 & a shelf 2. "
        filling *= page // len(filling)
        return said(*(f"{message} {filling}" for message in range(2 * turns)))

    return [pair(n, chosen=side(n, "yes"), rejected=side(n, "no")) for n in range(count)]


@pytest.mark.parametrize(("turns", "page", "shown"), [(15, 400, 200), (40, 1600, 40)])
def test_two_hundred_long_pairs_fit_into_a_mail(turns: int, page: int, shown: int) -> None:
    """Below 5 MB with everything else, though their texts are 4.7 and 51 MB."""
    run = one_split()
    pairs = long_pairs(200, turns=turns, page=page)
    found = {number: {"dmpo": scores((turns, turns))} for number in range(0, 200, 5)}
    report = render_report(run.summary, episodes=run.episodes, pairs=pairs, pair_scores=found)
    assert len(report.encode()) < 5_000_000
    data = report.split('id="pairs-data">')[1].split("</script>")[0]
    assert 'src="' not in data
    record = json.loads(data)
    assert len(record["pairs"]) >= shown
    assert sum("values" in each["chosen"] for each in record["pairs"]) == 40


def test_where_cutting_texts_is_not_enough_there_are_fewer_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_module, "MOST_BYTES", 60_000)
    viewer, data = built(long_pairs(16, turns=20, page=200), {3: {"dmpo": scores((40, 40))}})
    assert len(viewer.data.encode()) <= 60_000
    assert viewer.shown == len(data["pairs"]) < 16
    assert viewer.scored == 1  # those stay


def test_the_script_writes_text_and_nothing_else() -> None:
    """No way from a string to markup or to code; nothing that ends its element or asks the network."""
    templates = Path(viewer_module.__file__).parent / "templates"
    script = "".join(path.read_text(encoding="utf-8") for path in sorted(templates.glob("*.js")))
    assert "keydown" in script
    for word in (
        *("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "srcdoc"),
        *("eval(", "Function(", "import(", "fetch(", "XMLHttpRequest", "WebSocket", "http", "src ="),
        *("</script", "<!--", "localStorage", 'setAttribute("on'),
    ):
        assert word not in script
