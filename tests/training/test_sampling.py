"""The order of rows."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.training.sampling import LengthAwareSampler

LENGTHS = [(i * 37) % 101 for i in range(50)]


def _order(epoch: int = 0, seed: int = 0, rows_per_step: int = 8, grouping: Any = "within-step") -> list[int]:
    sampler = LengthAwareSampler(LENGTHS, rows_per_step=rows_per_step, seed=seed, grouping=grouping)
    sampler.set_epoch(epoch)
    return list(sampler)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 1000), max_size=60),
    rows_per_step=st.integers(1, 20),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 100),
    across=st.booleans(),
)
def test_every_row_once(
    lengths: list[int], rows_per_step: int, seed: int, epoch: int, *, across: bool
) -> None:
    sampler = LengthAwareSampler(
        lengths,
        rows_per_step=rows_per_step,
        seed=seed,
        grouping="across-steps" if across else "within-step",
    )
    sampler.set_epoch(epoch)
    assert sorted(sampler) == list(range(len(lengths)))
    assert list(sampler) == list(sampler)


def test_epochs_and_seeds_differ() -> None:
    assert _order() != _order(epoch=1)
    assert _order() != _order(seed=1)


def test_rows_of_a_step_are_sorted_by_length() -> None:
    order = _order()
    for start in range(0, 50, 8):
        lengths = [LENGTHS[row] for row in order[start : start + 8]]
        assert lengths == sorted(lengths, reverse=True)


def test_grouping_across_steps_pads_less() -> None:
    def padding(order: list[int]) -> int:
        steps = [[LENGTHS[row] for row in order[i : i + 5]] for i in range(0, 50, 5)]
        return sum(max(step) * len(step) - sum(step) for step in steps)

    grouped = _order(rows_per_step=5, grouping="across-steps")
    assert padding(grouped) < padding(_order(rows_per_step=5)) / 2
