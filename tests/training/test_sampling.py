"""The order of rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_samples import pair, policy

from multiturn.tokens import Renderer, forest_size
from multiturn.training import DMPOConfig, RenderedRows, render_pairs
from multiturn.training.sampling import balanced, by_length, by_task, eval_sampler, train_sampler

LENGTHS = [(i * 37) % 101 for i in range(50)]


def _rows(*tasks: int) -> RenderedRows[Any]:
    """One pair for each entry, of the task with that number; their lengths differ."""
    rows = [
        pair(task, chosen=1 + i % 3, rejected=1 + i % 4) | {"id": f"{task}-{i}"}
        for i, task in enumerate(tasks)
    ]
    return render_pairs(rows, Renderer(policy().tokenizer))


def _sampler(rows: RenderedRows[Any], tmp_path: Any, *, processes: int = 1, **options: Any) -> Any:
    share = options.pop("share", True)
    args = DMPOConfig(output_dir=str(tmp_path), per_device_train_batch_size=2, **options)
    return train_sampler(rows, args, rows_per_step=4 * processes, processes=processes, share=share)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@settings(deadline=None)
@given(tasks=st.lists(st.integers(0, 5), max_size=40), seed=st.integers(0, 100))
def test_tasks_stay_together_and_every_row_comes_once(tasks: list[int], seed: int) -> None:
    groups = [[row for row, task in enumerate(tasks) if task == t] for t in sorted(set(tasks))]
    order = by_task(groups)(torch.Generator().manual_seed(seed))
    assert sorted(order) == list(range(len(tasks)))
    runs = [tasks[row] for i, row in enumerate(order) if i == 0 or tasks[row] != tasks[order[i - 1]]]
    assert len(runs) == len(set(tasks))


def test_rows_of_one_task_come_in_any_order() -> None:
    draw = by_task([list(range(6))])
    orders = {tuple(draw(torch.Generator().manual_seed(seed))) for seed in range(10)}
    assert len(orders) > 5


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 1000), max_size=60), rows_per_step=st.integers(1, 20))
def test_every_row_once_by_length(lengths: list[int], rows_per_step: int) -> None:
    assert sorted(by_length(lengths, rows_per_step=rows_per_step)(_generator())) == list(range(len(lengths)))


def test_grouping_by_length_pads_less() -> None:
    def padding(order: list[int]) -> int:
        steps = [[LENGTHS[row] for row in order[i : i + 5]] for i in range(0, 50, 5)]
        return sum(max(step) * len(step) - sum(step) for step in steps)

    grouped = by_length(LENGTHS, rows_per_step=5)(_generator())
    assert padding(grouped) < padding(by_task([[i] for i in range(50)])(_generator())) / 2


def test_a_row_of_a_step_stands_beside_its_kin(tmp_path: Any) -> None:
    """Eight rows of four tasks make two steps; the two rows of a task are neighbours in one of them."""
    rows = _rows(0, 1, 2, 3, 0, 1, 2, 3)
    order = list(_sampler(rows, tmp_path))
    assert sorted(order) == list(range(8))
    assert all(order[i] % 4 == order[i + 1] % 4 for i in range(0, 8, 2))


def test_padded_rows_of_a_step_are_sorted_by_length(tmp_path: Any) -> None:
    rows = _rows(*range(8))
    order = list(_sampler(rows, tmp_path, share=False))
    for start in (0, 4):
        lengths = [rows.lengths[row] for row in order[start : start + 4]]
        assert lengths == sorted(lengths, reverse=True)


def test_strategies(tmp_path: Any) -> None:
    rows = _rows(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3)
    assert list(_sampler(rows, tmp_path, train_sampling_strategy="sequential")) == list(range(12))
    apart = [list(_sampler(rows, tmp_path, keep_tasks_together=False, seed=seed)) for seed in range(4)]
    assert any(sum(a[i] % 4 != a[i + 1] % 4 for i in range(0, 12, 2)) > 2 for a in apart)


def test_epochs_and_seeds_differ(tmp_path: Any) -> None:
    rows = _rows(*range(12))
    sampler = _sampler(rows, tmp_path)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(_sampler(rows, tmp_path, seed=1)) != first


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=12),
    processes=st.integers(1, 4),
    seed=st.integers(0, 100),
)
def test_dealing_out_keeps_room_and_every_row(sizes: list[int], processes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = iter(range(sum(sizes)))
    groups = [[next(rows) for _ in range(size)] for size in sizes]
    costs = torch.rand(len(groups), generator=generator).tolist()
    room = -(-sum(sizes) // processes)
    dealt = balanced(groups, costs, processes=processes, room=room)
    assert sorted(row for part in dealt for row in part) == list(range(sum(sizes)))
    assert all(len(part) <= room for part in dealt)


def test_dealing_out_by_hand() -> None:
    """Costs 9, 5, 4, 2: the first process gets 9 and then 2, the second 5 and 4."""
    assert balanced([[0], [1], [2], [3]], [9, 5, 4, 2], processes=2, room=2) == [[0, 3], [1, 2]]
    assert balanced([[0, 1, 2]], [3], processes=2, room=2) == [[0, 1], [2]]


def test_processes_get_their_fair_part(tmp_path: Any) -> None:
    """Loaders take turns by batches of two; a task's rows stay in one process, and the tokens are even."""
    rows = _rows(0, 0, 1, 1, 2, 2, 3, 3)
    order = list(_sampler(rows, tmp_path, processes=2))
    parts = [[row for i in range(p, 4, 2) for row in order[i * 2 : i * 2 + 2]] for p in range(2)]
    tasks = [{row // 2 for row in part} for part in parts]
    assert tasks[0].isdisjoint(tasks[1])
    tokens = [forest_size([s for row in part for s in rows.rows[row].sequences]) for part in parts]
    assert max(tokens) < 1.3 * min(tokens)


def test_fillers_make_processes_equal_and_count_for_nothing(tmp_path: Any) -> None:
    rows = _rows(*range(11))
    for sampler in (
        _sampler(rows, tmp_path, processes=2),
        eval_sampler(rows, batch_size=2, processes=2, share=True),
    ):
        order = list(sampler)
        assert len(order) == len(sampler) == 12
        assert Counter(row for row in order if row < 11) == Counter(range(11))
        weights = [rows[index][0] for index in order]
        assert sum(weights) == 11
        assert sorted(weights)[:2] == [0, 1]
