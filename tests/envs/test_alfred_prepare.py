"""What `prepare_alfworld` says of folders that are complete, incomplete or broken."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from test_alfred_alfworld import write_game_file
from test_alfred_engine import KITCHEN
from test_alfred_environments import HEAT, write_compact

from multiturn.envs.alfred import prepare
from multiturn.envs.alfred.prepare import Overlap, overlaps, prepare_alfworld
from multiturn.envs.prepare import Finding

if TYPE_CHECKING:
    from pathlib import Path

MUG = "pick_and_place_simple-Mug-None-Shelf-2/trial_2"
CD = "look_at_obj_in_light-CD-None-DeskLamp-3/trial_3"
EGG = "pick_and_place_simple-Egg-None-Fridge-4/trial_4"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTITURN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MULTITURN_ALFWORLD_DATA", raising=False)


def about(findings: list[Finding], text: str) -> Finding:
    (found,) = [finding for finding in findings if text in finding.what]
    return found


def test_without_games_it_says_how_to_get_them(tmp_path: Path) -> None:
    for path in (None, str(tmp_path)):
        (finding,) = prepare_alfworld(path)
        assert not finding.ok
        assert "alfworld-download" in finding.remedy
        assert "MULTITURN_ALFWORLD_DATA" in finding.remedy


def test_the_layout_of_alfworlds_own_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six files: one is fine, two are broken, one is unsolvable, one does not say, one is not supported."""
    write_game_file(tmp_path, HEAT)
    write_game_file(tmp_path, MUG).write_text("{", encoding="utf-8")
    broken = write_game_file(tmp_path, EGG)
    game = json.loads(broken.read_text(encoding="utf-8"))
    broken.write_text(json.dumps(game | {"pddl_problem": "(define (problem x))"}), encoding="utf-8")
    write_game_file(tmp_path, CD, solvable=False)
    unmarked = write_game_file(tmp_path, HEAT.replace("trial_1", "trial_5"))
    game = json.loads(unmarked.read_text(encoding="utf-8"))
    del game["solvable"]
    unmarked.write_text(json.dumps(game), encoding="utf-8")
    write_game_file(tmp_path, "pick_and_place_with_movable_recep-Mug-Cup-Shelf-2/trial_3")
    findings = prepare_alfworld(tmp_path)
    assert about(findings, "train: ") == Finding(
        what="train: there are no games", ok=False, remedy=about(findings, "train: ").remedy
    )
    assert "alfworld-download" in about(findings, "train: ").remedy
    count = about(findings, "valid_unseen: 4 games instead of 134")
    assert not count.ok
    unusable = about(findings, "unusable: 2 ")
    assert not unusable.ok
    assert MUG in unusable.what
    assert EGG in unusable.what
    assert about(findings, "not solvable").ok
    assert f"1 ({CD})" in about(findings, "not solvable").what
    # The file that is broken throughout does not say it either.
    without = about(findings, "without `solvable`")
    assert not without.ok
    assert "2 (" in without.what
    assert about(findings, "wording: 2 put").ok
    monkeypatch.setitem(prepare.GAME_COUNTS, "valid_unseen", (3, 4))
    assert about(prepare_alfworld(tmp_path), "valid_unseen: 4 games").ok


def test_mixed_wordings_are_named(tmp_path: Path) -> None:
    write_game_file(tmp_path, HEAT)
    write_game_file(tmp_path, MUG, put="move {o} to {r}")
    mixed = about(prepare_alfworld(tmp_path), "wording")
    assert not mixed.ok
    assert "1 like move and 1 put" in mixed.what
    assert "`grammar`" in mixed.remedy


def test_what_splits_share(tmp_path: Path) -> None:
    """Of two seen games one has a task that train has in the same room, and is even the same game."""
    other = KITCHEN.replace("(pickupable Egg_bar_1)", "")
    row = {"id": HEAT, "task": "heat some apple and put it in fridge.", "pddl": KITCHEN}
    folder = write_compact(tmp_path / "data", [row])
    again = row | {"id": HEAT.replace("trial_1", "trial_7"), "pddl": KITCHEN.replace("by_hand", "by_foot")}
    elsewhere = again | {"id": HEAT.replace("Fridge-1/trial_1", "Fridge-2/trial_8"), "pddl": other}
    write_compact(folder, [again, elsewhere], split="valid_seen")
    expected = Overlap(first="train", second="valid_seen", same_task=1, same_game=2)
    assert overlaps(folder) == [Overlap(first="train", second="valid_seen", same_task=1, same_game=1)]
    elsewhere["pddl"] = KITCHEN
    write_compact(folder, [again, elsewhere], split="valid_seen")
    assert overlaps(folder) == [expected]
    finding = about(prepare_alfworld(folder), "same game")
    assert not finding.ok
    assert "do not train on train" in finding.remedy


def test_a_damaged_file_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl.xz").write_bytes(b"not xz")
    finding = about(prepare_alfworld(tmp_path), "train: ")
    assert not finding.ok
    assert "is not a row of an ALFWorld game" in finding.what


@pytest.mark.slow
def test_the_real_games_are_all_there(shared_data: Path) -> None:
    if not (shared_data / "alfworld").is_dir():
        pytest.skip("the ALFWorld games are not among the benchmark data")
    findings = prepare_alfworld(shared_data / "alfworld")
    assert about(findings, "train: 3,554 games").ok
    assert about(findings, "valid_seen: 140 games").ok
    assert not any("unusable" in finding.what for finding in findings)
    assert about(findings, "same game").ok
