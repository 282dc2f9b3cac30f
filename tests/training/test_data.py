"""Reading rows: the formats, what is scored, what does not fit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from training_samples import conversation, pair, pairs, policy, trajectories

from multiturn.errors import DataError
from multiturn.tokens import Rendered, Renderer
from multiturn.training import render_pairs, render_trajectories
from multiturn.trajectory import PreferencePair, Trajectory

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(policy().tokenizer)


def _scored_text(rendered: Rendered) -> list[str]:
    """The text of each turn."""
    tokenizer = policy().tokenizer
    pieces = [
        [i for i, t in zip(rendered.token_ids, rendered.turns, strict=True) if t == turn]
        for turn in range(rendered.num_turns)
    ]
    return [str(tokenizer.decode(piece)) for piece in pieces]


def test_pairs_in_every_shape_are_the_same(renderer: Renderer) -> None:
    row = pair(0, chosen=2, rejected=3)
    implicit = {
        "id": "pair-0",
        "chosen": row["prompt"] + row["chosen"],
        "rejected": row["prompt"] + row["rejected"],
    }
    expected = render_pairs([row], renderer).rows
    assert render_pairs([implicit], renderer).rows == expected
    assert render_pairs([PreferencePair.from_json(row)], renderer).rows == expected
    chosen, rejected = expected[0].sequences
    assert _scored_text(chosen) == ["take 0<|im_end|>", "take 1<|im_end|>"]
    assert _scored_text(rejected) == ["drop 0<|im_end|>", "drop 1<|im_end|>", "drop 2<|im_end|>"]


def test_a_datasets_dataset(renderer: Renderer) -> None:
    """Arrow fills absent fields with None; they mean the same as no field."""
    datasets = pytest.importorskip("datasets")
    rows = pairs(3)
    rows[0]["chosen"][0]["name"] = "someone"
    dataset = datasets.Dataset.from_list([json.loads(json.dumps(row)) for row in rows])
    assert render_pairs(dataset, renderer).fingerprint() == render_pairs(rows, renderer).fingerprint()


def test_the_shared_prompt_ends_before_the_first_assistant_message(renderer: Renderer) -> None:
    """Both sides begin with the same action; it is scored on both."""
    start = [{"role": "system", "content": "act"}, {"role": "user", "content": "go"}]
    row = {
        "chosen": start + conversation(["look", "take"]),
        "rejected": start + conversation(["look", "drop"]),
    }
    rendered = render_pairs([row], renderer)
    assert rendered.rows[0].id == "row-0"
    assert [_scored_text(s)[0] for s in rendered.rows[0].sequences] == ["look<|im_end|>"] * 2


def test_assistant_messages_of_the_prompt_are_context(renderer: Renderer) -> None:
    row = pair(0, chosen=1, rejected=1)
    row["prompt"] = [
        {"role": "user", "content": "an example"},
        {"role": "assistant", "content": "OK"},
        {"role": "user", "content": "task 0"},
    ]
    assert _scored_text(render_pairs([row], renderer).rows[0].chosen) == ["take 0<|im_end|>"]
    completion = {"prompt": row["prompt"], "completion": row["chosen"]}
    assert _scored_text(render_trajectories([completion], renderer).rows[0].rendered) == ["take 0<|im_end|>"]


def test_trajectories_in_every_shape_are_the_same(renderer: Renderer) -> None:
    row = trajectories(4)[3]
    expected = render_trajectories([row], renderer).rows
    record = Trajectory.from_json({**row, "task_id": "t"})
    assert render_trajectories([record], renderer).rows == expected
    assert expected[0].rendered.num_turns == 4


def test_the_last_observation_is_not_run(renderer: Renderer) -> None:
    rendered = render_trajectories(trajectories(1), renderer).rows[0].rendered
    assert rendered.turns[-1] == 0


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda row: row.pop("chosen"), r"pairs row 1 \(id pair-1\): has no 'chosen' column"),
        (lambda row: row.update(chosen="take it"), r"row 1 .*'chosen' is a string"),
        (
            lambda row: row.update(rejected=[{"role": "user", "content": "x"}]),
            "rejected has no assistant turn",
        ),
        (lambda row: row["chosen"].insert(0, {"role": "robot", "content": "x"}), r"chosen\[0\].*'robot'"),
        (lambda row: row["chosen"][0].update(content=3), r"chosen\[0\].*content is int"),
        (lambda row: row.update(tools="hammer"), "'tools' must be a list"),
        (lambda row: row.update(prompt=[]), "share no message"),
    ],
)
def test_a_bad_pair_is_named(spoil: Callable[[Any], object], says: str, renderer: Renderer) -> None:
    rows = pairs(3)
    spoil(rows[1])
    with pytest.raises(DataError, match=says):
        render_pairs(rows, renderer)


def test_other_bad_rows_are_named(renderer: Renderer) -> None:
    text: Any = ["x"]
    stream: Any = iter(pairs(2))
    with pytest.raises(DataError, match="pairs row 0: is a str"):
        render_pairs(text, renderer)
    with pytest.raises(DataError, match="trajectories row 0: has no 'messages' column"):
        render_trajectories([{"text": "x"}], renderer)
    with pytest.raises(DataError, match="trajectories row 0: has no assistant turn"):
        render_trajectories([{"messages": [{"role": "user", "content": "x"}]}], renderer)
    with pytest.raises(DataError, match="known length"):
        render_pairs(stream, renderer)


def test_overlong_error_names_row_and_length(renderer: Renderer) -> None:
    with pytest.raises(
        DataError, match=r"pairs row 1 \(id pair-1\), chosen has \d+ tokens, and max_length is 35"
    ):
        render_pairs([pair(0, chosen=1, rejected=1), pair(1, chosen=3)], renderer, max_length=35)


def test_overlong_drop_counts_and_names(renderer: Renderer) -> None:
    """Two of the three have a side of three turns, which is over the limit."""
    rows = [pair(0, chosen=1, rejected=1), pair(1, chosen=3, rejected=1), pair(2, chosen=1, rejected=3)]
    limit = max(len(s.token_ids) for s in render_pairs(rows[:1], renderer).rows[0].sequences)
    rendered = render_pairs(rows, renderer, max_length=limit, overlong="drop")
    assert [row.id for row in rendered.rows] == ["pair-0"]
    report = rendered.report
    assert report.dropped == {"longer than max_length": 2}
    assert report.dropped_ids == {"longer than max_length": ["pair-1", "pair-2"]}
    assert (report.rows, report.used, report.turns, report.longest) == (3, 1, 2, limit)
    assert "1 of 3 rows used; 2 dropped: longer than max_length (pair-1, pair-2)" in report.describe()


def test_overlong_cut_ends_with_a_whole_turn(renderer: Renderer) -> None:
    whole = render_pairs([pair(0, chosen=3, rejected=1)], renderer).rows[0]
    limit = len(whole.chosen.token_ids) - 1
    cut = render_pairs([pair(0, chosen=3, rejected=1)], renderer, max_length=limit, overlong="cut")
    assert cut.rows[0].chosen.num_turns == 2
    assert cut.rows[0].rejected == whole.rejected
    assert cut.rows[0].chosen.turns[-1] == 1
    assert (cut.report.cut, cut.report.cut_ids) == (1, ["pair-0"])
    nothing = render_pairs([pair(0)], renderer, max_length=5, overlong="cut")
    assert not nothing.rows
    assert nothing.report.dropped == {"no scored turn fits into max_length": 1}
