"""What `multiturn inspect` shows, against conversations whose tokens and weights are known by hand."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from multiturn.errors import DataError
from multiturn.formats import ReadOptions, RecordReader
from multiturn.inspection import Inspector, LeftOutError, survey, token_texts
from multiturn.inspection.terminal import plain_row, show_row, survey_lines
from multiturn.models import load_tokenizer
from multiturn.models.load import ModelSpec
from multiturn.objective import WEIGHTINGS
from multiturn.tokens import Renderer
from multiturn.trajectory import Message, PreferencePair

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TOKENIZER = load_tokenizer(ModelSpec(scratch={"seed": 0}))


def inspector(**options: object) -> Inspector:
    return Inspector(TOKENIZER, Renderer(TOKENIZER, chat_template="compact"), **options)  # type: ignore[arg-type]


def messages(*turns: str) -> tuple[Message, ...]:
    """Alternately what the assistant says and what it sees, the assistant first."""
    return tuple(
        Message(role="user" if i % 2 else "assistant", content=content) for i, content in enumerate(turns)
    )


def pair(**fields: object) -> PreferencePair:
    known = {
        "id": "one",
        "task_id": "task",
        "prompt": (Message(role="user", content="go"),),
        "chosen": messages("ab", "see", "x"),
        "rejected": messages("ac"),
    }
    return PreferencePair(**(known | fields))  # type: ignore[arg-type]


def test_every_token_of_a_pair_has_its_turn_and_weight() -> None:
    """gamma 0.5: phi(0, 2) = 1, phi(1, 2) = (0.5 - 0.25) / (1 - 0.25) = 1/3, phi(0, 1) = 1."""
    row = inspector(weighting=WEIGHTINGS["phi"], gamma=0.5).inspect(pair())
    chosen, rejected = row.sides
    assert (row.id, chosen.name, rejected.name) == ("one", "chosen", "rejected")
    assert chosen.weights == pytest.approx((1.0, 1 / 3))
    assert rejected.weights == (1.0,)
    closer = TOKENIZER.eos_token_id
    by_turn = {
        turn: "".join(t.text for t in chosen.tokens if t.turn == turn and t.id != closer) for turn in (0, 1)
    }
    assert by_turn == {0: "ab", 1: "x"}
    assert [t.weight for t in chosen.tokens if t.turn == 1] == pytest.approx([1 / 3] * 2)  # x and the closer
    unscored = "".join(t.text for t in chosen.tokens if t.turn is None and not t.special)
    assert unscored == "gosee"
    assert all(t.weight is None for t in chosen.tokens if t.turn is None)
    # The sides part after "a"; what is before is the same.
    assert chosen.shared == rejected.shared
    assert "".join(t.text for t in chosen.tokens[: chosen.shared]).endswith("a")
    assert chosen.tokens[chosen.shared].text == "b"


def test_turns_of_the_prompt_are_not_scored() -> None:
    prompt = (Message(role="user", content="go"), *messages("said before", "seen"))
    (chosen, _) = inspector().inspect(pair(prompt=prompt)).sides
    assert "said before" in "".join(t.text for t in chosen.tokens if t.turn is None)
    assert len(chosen.weights) == 2


def test_a_row_that_does_not_fit_is_refused_left_out_or_cut() -> None:
    long = pair(chosen=messages("ab", "see", "x" * 40))
    with pytest.raises(DataError, match=r"^one, chosen has \d+ tokens, and max_length is 20"):
        inspector(max_length=20).inspect(long)
    with pytest.raises(LeftOutError, match="longer than max_length"):
        inspector(max_length=20, overlong="drop").inspect(long)
    chosen, rejected = inspector(max_length=20, overlong="cut").inspect(long).sides
    assert (chosen.cut, len(chosen.weights), rejected.cut) == (True, 1, False)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_texts_of_tokens_make_up_the_text(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    whole = TOKENIZER.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert "".join(token_texts(TOKENIZER, ids)) == whole


def test_a_character_of_several_tokens_stands_at_the_last_of_them() -> None:
    ids = TOKENIZER.encode("a🙂b", add_special_tokens=False)
    assert token_texts(TOKENIZER, ids) == ["a", "", "", "", "🙂", "b"]


def test_what_a_model_wrote_does_nothing_to_the_terminal() -> None:
    row = inspector().inspect(pair(chosen=messages("a\x1b[31m[bold]\u202eb\r"), id="\x1b]0;title\x07"))
    out = io.StringIO()
    show_row(Console(file=out, force_terminal=True, color_system="truecolor", width=100), row)
    shown = out.getvalue()
    assert "\x1b[31m[bold]" not in shown
    assert "\x1b]0;" not in shown
    assert "\u202e" not in shown
    assert "⟨U+001B⟩" in shown
    assert "[bold]" in Console(file=io.StringIO()).render_str(shown, markup=False).plain
    lines = list(plain_row(row))
    assert not any("\x1b" in line or "\u202e" in line for line in lines)


def test_lines_have_a_place_for_everything() -> None:
    row = inspector(weighting=WEIGHTINGS["last"]).inspect(pair())
    lines = list(plain_row(row))
    said = [line for line in lines if line.startswith("#")]
    assert said[0] == '# "one"'
    assert said[2:4] == [
        "# turn 1: 3 tokens, weight 0, its end is scored",
        "# turn 2: 2 tokens, weight 1, its end is scored",
    ]
    assert said.count(f"# fork: the {row.sides[0].shared} tokens before are the same on both sides") == 2
    header, *rest = (line.split("\t") for line in lines if not line.startswith("#"))
    assert header == ["side", "token", "id", "turn", "scored", "weight", "text"]
    assert {cells[0] for cells in rest} == {"chosen", "rejected"}
    assert all((cells[4] == "no") == (cells[3] == "-") for cells in rest)
    scored = [(cells[3], cells[5], json.loads(cells[6])) for cells in rest if cells[4] == "yes"]
    assert ("1", "0", "a") in scored
    assert ("2", "1", "x") in scored


def test_a_reply_that_was_cut_off_has_no_end_that_is_scored() -> None:
    """The model wrote two tokens and no end; the template ends the turn, and that is not learned."""
    written = tuple(TOKENIZER.encode("ab", add_special_tokens=False))
    cut_off = Message(role="assistant", content="ab", token_ids=written)
    seen = Message(role="user", content="see")
    row = inspector().inspect(pair(chosen=(cut_off, seen, *messages("x"))))
    chosen, rejected = row.sides
    assert (chosen.closed, rejected.closed) == ((False, True), (True,))
    after = chosen.tokens[[token.turn for token in chosen.tokens].index(0) + len(written)]
    assert (after.id, after.special, after.turn) == (TOKENIZER.eos_token_id, True, None)
    out = io.StringIO()
    show_row(Console(file=out, width=100), row)
    assert "not scored" in out.getvalue().split("1 ", 1)[1].split("\n")[0]
    assert any(line.endswith("its end is not scored: the reply was cut off") for line in plain_row(row))


def write(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def record(chosen: str = "ab", rejected: str = "ac") -> dict[str, object]:
    return {
        "prompt": [{"role": "user", "content": "go"}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def test_a_survey_counts_what_is_wrong_and_goes_on(tmp_path: Path) -> None:
    no_turn = record() | {"chosen": [{"role": "user", "content": "hm"}]}
    rows = [record(), record(), no_turn, "not json", record("c" * 60), record("d" * 70)]
    path = write(tmp_path / "pairs.jsonl", rows)
    found = survey(RecordReader(path, ReadOptions(skip_bad=True)), inspector(max_length=30))
    assert (found.rows, found.usable, found.kind, found.refused) == (6, 2, "pairs", 4)
    assert found.duplicates == 1
    examples = {problem.example.split(": ")[0]: problem.count for problem in found.problems.values()}
    # Two rows that are too long are one problem, though their lengths differ.
    assert examples == {f"{path}:3": 1, f"{path}:4": 1, f"{path}:5": 2}
    assert [problem.rows for problem in found.problems.values()] == [[5, 6], [3], [4]]
    assert found.tokens is not None
    assert found.scored_share is not None
    length = found.tokens.mean
    assert found.tokens.percentiles[0] == found.tokens.percentiles[100] == length
    assert found.scored_share == pytest.approx(3 / length)  # a, b and the closer
    # Four sequences of the same length: two unlike from their last but one token on.
    assert found.shared_share == pytest.approx(1 - (length + 2) / (4 * length))
    text = "\n".join(survey_lines(found))
    assert text.startswith("2 of 6 rows can be trained on (pairs)")
    assert f"2 refused: {path}:5: " in text
    assert "    rows 5, 6" in text
    assert "1 rows are repetitions" in text
    assert "turns: chosen 1.0, rejected 1.0 on average (standardized difference +0.00)" in text


def test_pairs_that_contradict_each_other_are_counted(tmp_path: Path) -> None:
    rows = [record("ab", "ac"), record("ac", "ab"), record("ab", "ab"), record("ab", "longer")]
    found = survey(RecordReader(write(tmp_path / "pairs.jsonl", rows)), inspector())
    assert (found.usable, found.duplicates, found.same_sides, found.swapped) == (4, 0, 1, 1)
    assert [(side.quantity, side.chosen, side.rejected) for side in found.lengths] == [
        ("turns", 1.0, 1.0),
        ("characters", 2.0, 3.0),
    ]
    assert len([warning for warning in found.warnings if "1 pairs" in warning]) == 2
    # Every chosen side has one turn, every rejected one two: the difference has no number.
    two = [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    uneven = record() | {"rejected": [*two, two[0]]}
    found = survey(RecordReader(write(tmp_path / "uneven.jsonl", [uneven, uneven])), inspector())
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["lengths"][0]["difference"] is None


def test_sft_learns_from_the_chosen_side_alone(tmp_path: Path) -> None:
    row = inspector(sides="chosen").inspect(pair())
    both = inspector().inspect(pair())
    assert [side.name for side in row.sides] == ["chosen"]
    assert row.sides[0].tokens == both.sides[0].tokens
    # A rejected side that does not fit is nothing to SFT.
    path = write(tmp_path / "pairs.jsonl", [record("ab", "c" * 60)])
    assert survey(RecordReader(path), inspector(max_length=30)).refused == 1
    found = survey(RecordReader(path), inspector(max_length=30, sides="chosen"))
    assert (found.usable, found.refused, found.kind) == (1, 0, "pairs")


def test_rows_with_one_fate_are_counted_together(tmp_path: Path) -> None:
    """Whatever they are called: an id says nothing about the reason."""
    rows = [record("c" * 60) | {"id": name} for name in ("find-apple", "a: b", "plum, chosen")]
    path = write(tmp_path / "pairs.jsonl", rows)
    found = survey(RecordReader(path), inspector(max_length=30))
    assert [problem.count for problem in found.problems.values()] == [3]


def test_rows_that_are_left_out_are_not_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", [record(), record("c" * 60)])
    found = survey(RecordReader(path), inspector(max_length=30, overlong="drop"))
    assert (found.usable, found.refused, found.left_out) == (1, 0, {"longer than max_length": 1})
    assert "1 left out: longer than max_length" in "\n".join(survey_lines(found))
    assert json.loads(json.dumps(found.to_json()))["left_out"] == {"longer than max_length": 1}


def test_an_empty_file_is_surveyed(tmp_path: Path) -> None:
    found = survey(RecordReader(write(tmp_path / "none.jsonl", [])), inspector())
    assert (found.rows, found.tokens, list(survey_lines(found))) == (
        0,
        None,
        ["0 of 0 rows can be trained on"],
    )


def test_rows_are_plain_data() -> None:
    assert json.loads(json.dumps(dataclasses.asdict(inspector().inspect(pair()))))["id"] == "one"
