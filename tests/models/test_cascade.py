"""Attention over a forest, piece by piece, equals attention with the forest's mask."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from forest_samples import everybody, families
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from multiturn.models.cascade import FusedKernel, Kernel, PlainKernel, cascade_attention, kernel_for
from multiturn.tokens import PackedForest, Rendered, plant

KERNELS: list[Kernel] = [FusedKernel(), FusedKernel(small=0), PlainKernel(), PlainKernel(most_keys=2)]
kernels = pytest.mark.parametrize(
    "kernel", KERNELS, ids=["fused, small parts plain", "fused", "plain", "plain, few keys"]
)
SCALE = 0.7


def ancestry(forest: PackedForest) -> Tensor:
    """Who may attend to whom, ``[N, N]``: found by going from each token to the one before it."""
    parents = torch.arange(-1, len(forest.input_ids) - 1)
    for segment in forest.segments:
        above = -1 if segment.parent is None else forest.segments[segment.parent].end - 1
        parents[segment.start] = above
    seen = torch.eye(len(parents), dtype=torch.bool)
    for place, before in enumerate(parents.tolist()):
        if before >= 0:
            seen[place] |= seen[before]
    return seen


def dense(query: Tensor, key: Tensor, value: Tensor, forest: PackedForest) -> Tensor:
    scores = (query @ key.transpose(-1, -2)) * SCALE
    return scores.masked_fill(~ancestry(forest), -torch.inf).softmax(-1) @ value


class Inputs(NamedTuple):
    """What attention is made of, each ``[1, heads, N, size]``."""

    query: Tensor
    key: Tensor
    value: Tensor

    def to(self, dtype: torch.dtype) -> Inputs:
        """New leaves of another dtype."""
        return Inputs(*(tensor.detach().to(dtype).requires_grad_() for tensor in self))


def inputs(forest: PackedForest, *, size: int = 8, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(3, 1, 2, len(forest.input_ids), size, dtype=torch.float64, generator=generator)
    return Inputs(*numbers).to(torch.float64)


def slopes(output: Tensor, tensors: Inputs) -> tuple[Tensor, ...]:
    """The gradients of a loss that weighs every number of the output differently."""
    weights = torch.linspace(-1, 1.5, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad(output, tensors, weights, retain_graph=True)


def check(got: Tensor, expected: Tensor, tensors: Inputs) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    for ours, theirs in zip(slopes(got, tensors), slopes(expected, tensors), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


def row(*ids: int) -> Rendered:
    return Rendered(ids, (-1,) + (0,) * (len(ids) - 1), 1)


@kernels
def test_an_example_worked_by_hand(kernel: Kernel) -> None:
    """Token a, then b and c beside each other. Keys 0, ln 3 and 0, and all queries 1.

    b gives a the weight 1/4 and itself 3/4: 4 / 4 + 8 * 3 / 4 = 7. c gives 1/2 to each: (4 + 16) / 2 = 10.
    The slope of b's output of its score of a key is that key's weight times (value - 7): -3/4 and 3/4.
    """
    forest = plant([row(0, 1), row(0, 2)])
    query = torch.ones(1, 1, 3, 1, dtype=torch.float64, requires_grad=True)
    key = torch.tensor([0, math.log(3), 0], dtype=torch.float64).view(1, 1, 3, 1).requires_grad_()
    value = torch.tensor([4.0, 8, 16], dtype=torch.float64).view(1, 1, 3, 1).requires_grad_()
    output = cascade_attention(query, key, value, forest, scale=1.0, kernel=kernel)
    torch.testing.assert_close(output.flatten().tolist(), [4.0, 7.0, 10.0])
    gradients = torch.autograd.grad(output[0, 0, 1, 0], (query, key, value))
    expected = [[0, 0.75 * math.log(3), 0], [-0.75, 0.75, 0], [0.25, 0.75, 0]]
    for gradient, by_hand in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient.flatten(), torch.tensor(by_hand, dtype=torch.float64))


@kernels
@settings(deadline=None, max_examples=40)
@given(rows=families(), share=st.booleans(), size=st.integers(1, 9), seed=st.integers(0, 100))
def test_equal_to_masked_attention_with_gradients(
    kernel: Kernel, rows: list[Rendered], *, share: bool, size: int, seed: int
) -> None:
    forest = plant(rows, share=share)
    tensors = inputs(forest, size=size, seed=seed)
    got = cascade_attention(*tensors, forest, scale=SCALE, kernel=kernel)
    check(got, dense(*tensors, forest), tensors)


@kernels
def test_memory_may_be_laid_out_in_any_way(kernel: Kernel) -> None:
    """As models hand heads over, and with the numbers of a head apart, which torch's kernel misreads."""
    forest = plant(everybody())
    tensors = inputs(forest)
    expected = dense(*tensors, forest)
    for dims in ((1, 2), (2, 3), (1, 3)):
        strange = Inputs(*(t.transpose(*dims).contiguous().transpose(*dims) for t in tensors))
        got = cascade_attention(*strange, forest, scale=SCALE, kernel=kernel)
        check(got, expected, tensors)
        check(got.transpose(*dims).contiguous().transpose(*dims), expected, tensors)
    (summed,) = torch.autograd.grad(got.sum(), tensors.value)
    (plainly,) = torch.autograd.grad(expected.sum(), tensors.value)
    torch.testing.assert_close(summed, plainly, rtol=1e-10, atol=1e-11)


@kernels
@pytest.mark.parametrize("size", [3, 11])
def test_heads_of_values_may_have_a_size_of_their_own(kernel: Kernel, size: int) -> None:
    forest = plant(everybody())
    query, key, _ = inputs(forest)
    *_, value = inputs(forest, size=size)
    got = cascade_attention(query, key, value, forest, scale=SCALE, kernel=kernel)
    check(got, dense(query, key, value, forest), Inputs(query, key, value))


@kernels
def test_bfloat16_is_close_to_float64(kernel: Kernel) -> None:
    """Within 2 ** -6 for the output, whose numbers are up to 3, and 2 ** -4 for gradients, up to 8."""
    forest = plant(everybody())
    rounded = inputs(forest).to(torch.bfloat16)
    exact = rounded.to(torch.float64)
    expected = dense(*exact, forest)
    got = cascade_attention(*rounded, forest, scale=SCALE, kernel=kernel)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=2**-6)
    for ours, theirs in zip(slopes(got, rounded), slopes(expected, exact), strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=2**-4)


@kernels
def test_sums_over_many_segments_do_not_stall_in_bfloat16(kernel: Kernel) -> None:
    """600 zeros one below the other, from each of which a one branches off: nearly all segments are single.

    All scores are 0, so the weights are 1 / 601. Values and keys are 1 and -1 in turn, so the last one's
    output is 1 / 601 and its query's gradient nearly 1: each segment above adds 0.0017, less than half of the
    distance between bfloat16 numbers from 1/2 on.
    """
    depth = 600
    forest = plant([row(*[0] * length, 1) for length in range(1, depth + 1)])
    assert [s.end - s.start for s in forest.segments].count(1) == 2 * (depth - 1)
    last = int((forest.positions == depth).nonzero()[0])
    signs = (1.0 - 2.0 * (forest.positions % 2)).to(torch.bfloat16).view(1, 1, -1, 1)
    query = torch.zeros_like(signs, requires_grad=True)
    output = cascade_attention(query, signs, signs.clone(), forest, scale=1.0, kernel=kernel)
    torch.testing.assert_close(float(output[0, 0, last, 0].detach()), 1 / 601, rtol=0, atol=1e-4)
    (gradient,) = torch.autograd.grad(output[0, 0, last, 0], query)
    torch.testing.assert_close(float(gradient[0, 0, last, 0]), 1.0, rtol=0, atol=0.01)


@kernels
def test_autocast_is_what_casting_by_hand_is(kernel: Kernel) -> None:
    forest = plant(everybody())
    single = inputs(forest).to(torch.float32)
    cast = Inputs(*(t.bfloat16() for t in single))
    by_hand = cascade_attention(*cast, forest, scale=SCALE, kernel=kernel)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = cascade_attention(*single, forest, scale=SCALE, kernel=kernel)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, by_hand, rtol=0, atol=0)
    for ours, theirs in zip(slopes(got, single), slopes(by_hand, single), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@kernels
def test_a_backward_pass_under_autocast_keeps_its_precision(kernel: Kernel) -> None:
    forest = plant(everybody())
    single = inputs(forest).to(torch.float32)
    output = cascade_attention(*single, forest, scale=SCALE, kernel=kernel)
    weights = torch.linspace(-1, 1.5, output.numel()).view_as(output)
    expected = torch.autograd.grad(output, single, weights, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = torch.autograd.grad(output, single, weights)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_the_fused_kernel_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(kernel_for(torch.zeros(1)), FusedKernel)
    assert isinstance(kernel_for(torch.zeros(1, device="meta")), PlainKernel)
    monkeypatch.setattr("multiturn.models.cascade._FUSED", "_not_in_this_version")
    assert isinstance(kernel_for(torch.zeros(1)), PlainKernel)


def test_gradients_of_gradients_are_refused() -> None:
    forest = plant([row(0, 1), row(0, 2)])
    tensors = inputs(forest)
    output = cascade_attention(*tensors, forest, scale=SCALE)
    (gradient,) = torch.autograd.grad(output.square().sum(), tensors.query, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(gradient.sum())


def test_plain_attention_over_a_long_conversation_holds_no_square_of_scores() -> None:
    widest = 0

    class Watched(PlainKernel):
        def forward(
            self, query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float
        ) -> tuple[Tensor, Tensor]:
            nonlocal widest
            widest = max(widest, key.shape[2])
            return super().forward(query, key, value, causal=causal, scale=scale)

    forest = plant([row(*range(1500)), row(*range(1200), 7)])
    cascade_attention(*inputs(forest, size=2), forest, scale=SCALE, kernel=Watched())
    assert widest == 512
