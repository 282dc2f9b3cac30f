"""The threads of a pass: what has been fastest lately."""

from __future__ import annotations

import itertools
import time

import pytest
import torch

from multiturn.agents.threads import FastestCount, PassThreads, thread_counts


@pytest.mark.parametrize(
    ("available", "counts"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (16, (1, 2, 4, 8, 16))]
)
def test_numbers_worth_a_try(available: int, counts: tuple[int, ...]) -> None:
    assert thread_counts(available) == counts


def passes(choice: FastestCount, seconds: dict[int, float], count: int) -> list[int]:
    """So many passes, on a machine where a pass takes `seconds` by its threads."""
    chosen = []
    for _ in range(count):
        chosen.append(choice.choose())
        choice.took(chosen[-1], seconds[chosen[-1]])
    return chosen


def test_the_largest_is_tried_first_and_the_fastest_stays() -> None:
    """One pass with one thread, which takes twice as long, is enough."""
    choice = FastestCount((1, 2))
    assert passes(choice, {1: 2.0, 2: 1.0}, 6) == [2, 2, 2, 1, 2, 2]
    chosen = passes(choice, {1: 2.0, 2: 1.0}, 1000)
    assert [at for at, count in enumerate(chosen) if count == 1] == list(range(97, 1000, 100))


def test_one_that_is_hardly_slower_gets_as_many_passes() -> None:
    assert passes(FastestCount((1, 2)), {1: 1.2, 2: 1.0}, 7) == [2, 2, 2, 1, 1, 1, 2]


def test_it_goes_down_as_long_as_that_helps() -> None:
    """From 8 to 4 to 2, but not to 1; the neighbours of 2 are tried again in turn."""
    seconds = {1: 3.0, 2: 1.0, 4: 1.3, 8: 2.0}
    choice = FastestCount((1, 2, 4, 8))
    assert passes(choice, seconds, 12) == [8, 8, 8, 4, 4, 4, 4, 2, 2, 2, 2, 1]
    assert [count for count in passes(choice, seconds, 400) if count != 2] == [4, 1, 4, 1]


def test_few_threads_are_not_tried_where_many_are_faster() -> None:
    """64 cores and a model that needs them: 16 and fewer never get a pass."""
    choice = FastestCount(thread_counts(64))
    chosen = passes(choice, {count: 64.0 / count for count in thread_counts(64)}, 500)
    assert set(chosen) == {32, 64}
    assert chosen.count(32) == 5


def test_another_program_is_noticed_when_it_comes_and_when_it_goes() -> None:
    alone, beside = {1: 2.0, 2: 1.0}, {1: 2.0, 2: 8.0}
    choice = FastestCount((1, 2))
    passes(choice, alone, 50)
    # Two slow passes of three are enough.
    assert passes(choice, beside, 6) == [2, 2, 1, 1, 1, 1]
    # Two fast ones of three are, when it has gone.
    passes(choice, alone, 200)
    assert set(passes(choice, alone, 30)) == {2}


def test_a_single_slow_pass_changes_nothing() -> None:
    choice = FastestCount((1, 2))
    passes(choice, {1: 2.0, 2: 1.0}, 20)
    choice.took(2, 50.0)
    assert set(passes(choice, {1: 2.0, 2: 1.0}, 20)) == {2}


class TestPassThreads:
    @pytest.fixture
    def wanted(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """What torch was told, one after the other, on a machine of four cores."""
        told: list[int] = []
        monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
        monkeypatch.setattr(torch, "set_num_threads", told.append)
        return told

    def test_a_tiny_pass_takes_one_thread(self, wanted: list[int]) -> None:
        with PassThreads(1e6).running(99):
            assert wanted == [1]
        assert wanted == [1, 4]

    def test_larger_ones_try_and_then_take_the_fastest(
        self, wanted: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pass_threads = PassThreads(1e9)
        clock = itertools.count()
        monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))  # every pass takes a second
        for _ in range(9):
            with pass_threads.running(10):
                pass
        # All four threads, which need no telling, take as long as two, and these as one: each gets three
        # passes, and 4 to 2 to 1 is gone down. Afterwards torch has its threads back.
        assert wanted == [2, 4] * 4 + [1, 4] * 2
        wanted.clear()
        with pass_threads.running(63):
            assert wanted == [1]  # as fast as the others: the fewest
        wanted.clear()
        for _ in range(4):  # another kind of pass, which begins anew
            with pass_threads.running(64):
                pass
        assert wanted == [2, 4]

    def test_an_error_gives_the_threads_back(self, wanted: list[int]) -> None:
        with pytest.raises(ZeroDivisionError), PassThreads(1e6).running(1):
            raise ZeroDivisionError
        assert wanted == [1, 4]

    def test_one_thread_is_left_alone(self, monkeypatch: pytest.MonkeyPatch, wanted: list[int]) -> None:
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        with PassThreads(1e12).running(99):
            assert wanted == []
