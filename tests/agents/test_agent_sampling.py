"""Sampling: hand-worked nuclei, the right frequencies, and rows that do not disturb each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.agents.sampling import sample
from multiturn.errors import DataError


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(
    probabilities: list[float], count: int, *, temperature: float = 1.0, top_p: float = 1.0
) -> list[int]:
    logits = torch.tensor(probabilities, dtype=torch.float64).log().expand(count, -1)
    return sample(logits, temperature=temperature, top_p=top_p, generators=generators(*range(count)))


def test_greedy_takes_the_likeliest_and_the_first_of_equals() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 3.0, 0.0]])
    assert sample(logits, temperature=0.0, top_p=1.0, generators=generators(0, 0)) == [1, 0]


def test_greedy_compares_in_float32() -> None:
    """A bfloat16 row is compared as it is: its values are exact in float32."""
    logits = torch.tensor([[1.0, 1.0078125]], dtype=torch.bfloat16)
    assert sample(logits, temperature=0.0, top_p=1.0, generators=generators(0)) == [1]


def test_frequencies() -> None:
    """4,000 draws of p = 0.5: the standard error is 0.0079; 4 of them are 0.032."""
    tokens = draw([0.5, 0.2, 0.3, 0.0], 4000)
    shares = [tokens.count(token) / 4000 for token in range(4)]
    assert shares[:3] == pytest.approx([0.5, 0.2, 0.3], abs=0.032)
    assert shares[3] == 0.0


def test_temperature_sharpens() -> None:
    """At temperature 0.5 the odds 2:1 become 4:1, that is 0.8."""
    tokens = draw([2 / 3, 1 / 3], 4000, temperature=0.5)
    assert tokens.count(0) / 4000 == pytest.approx(0.8, abs=0.026)


@pytest.mark.parametrize(
    ("top_p", "possible"),
    [
        (0.4, {1}),  # 0.5 alone reaches 0.4
        (0.5, {1}),  # and 0.5
        (0.7, {1, 3}),  # 0.5 + 0.3 = 0.8
        (0.85, {0, 1, 3}),  # 0.5 + 0.3 + 0.15 = 0.95
        (0.96, {0, 1, 2, 3}),
    ],
)
def test_nucleus(top_p: float, possible: set[int]) -> None:
    """Of 0.15, 0.5, 0.05, 0.3 the smallest likeliest set that adds up to top_p is drawn from."""
    assert set(draw([0.15, 0.5, 0.05, 0.3], 400, top_p=top_p)) == possible


def test_nucleus_larger_than_the_shortcut() -> None:
    """1,000 equal tokens: 0.9 of the mass is 900 of them, more than are looked at first."""
    tokens = draw([0.001] * 1000, 3000, top_p=0.9)
    assert 850 < len(set(tokens)) <= 901


@given(seed=st.integers(0, 2**32), neighbours=st.integers(0, 4), top_p=st.sampled_from([1.0, 0.8]))
@settings(deadline=None, max_examples=30)
def test_neighbours_do_not_matter(seed: int, neighbours: int, top_p: float) -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(seed))
    others = torch.randn(neighbours, 50)
    alone = sample(logits, temperature=1.0, top_p=top_p, generators=generators(seed))
    among = sample(
        torch.cat([others, logits]),
        temperature=1.0,
        top_p=top_p,
        generators=generators(*range(neighbours), seed),
    )
    assert among[-1] == alone[0]


def test_a_wide_neighbour_does_not_change_a_tie() -> None:
    """Of 40 equal tokens half are the nucleus; which ones is the same beside a row that needs sorting."""
    tied = torch.full((1, 2000), -30.0)
    tied[0, 100:140] = 0.0
    flat = torch.zeros(1, 2000)

    def drawn(*rows: torch.Tensor) -> list[int]:
        return [
            sample(
                torch.cat(rows),
                temperature=1.0,
                top_p=0.5,
                generators=generators(seed, *[0] * (len(rows) - 1)),
            )[0]
            for seed in range(200)
        ]

    assert 15 < len(set(drawn(tied))) <= 21
    assert drawn(tied) == drawn(tied, flat)


def test_tiny_temperature_is_greedy() -> None:
    logits = torch.tensor([[1.0, 5.0, 4.0]])
    assert sample(logits, temperature=1e-30, top_p=1.0, generators=generators(3)) == [1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_logits(bad: float, temperature: float) -> None:
    logits = torch.tensor([[0.0, 1.0], [0.0, bad]])
    with pytest.raises(DataError, match="not finite"):
        sample(logits, temperature=temperature, top_p=1.0, generators=generators(0, 1))


def test_impossible_tokens_are_allowed() -> None:
    logits = torch.tensor([[0.0, -torch.inf]])
    for temperature in (0.0, 1.0):
        assert sample(logits, temperature=temperature, top_p=1.0, generators=generators(0)) == [0]
