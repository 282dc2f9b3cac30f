"""Lists of games in text files."""

from __future__ import annotations

import json
import lzma
from typing import TYPE_CHECKING

import pytest
from test_alfred_environments import HEAT

from multiturn.envs.alfred import TASK_TYPES
from multiturn.envs.alfred.game_list import read_ids

if TYPE_CHECKING:
    from pathlib import Path


def test_a_list_of_games_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_bytes(f"\ufeff{HEAT}\r\n\r\n".encode())
    assert list(read_ids(tmp_path / "ids.txt")) == [(1, HEAT)]


def test_the_ids_of_the_papers_test_are_134(shared_data: Path) -> None:
    """They are ids as `split_file` takes them; none is a game for training."""
    path = shared_data / "eto_indices" / "alfworld" / "gamefile_id.txt"
    if not path.is_file():
        pytest.skip("the paper's list is not among the benchmark data")
    ids = [game_id for _, game_id in read_ids(path)]
    assert len(ids) == 134
    assert {game_id.partition("-")[0] for game_id in ids} == set(TASK_TYPES)
    with lzma.open(shared_data / "alfworld" / "train.jsonl.xz") as file:
        assert {json.loads(line)["id"] for line in file}.isdisjoint(ids)
