"""Log-probabilities of given tokens without all logits equal those of a log-softmax of all logits."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from multiturn.models.token_logps import CHUNK_ELEMENTS, HeadShape, chunk_rows, token_logps

SHAPES = {
    "plain": HeadShape(),
    "scaled": HeadShape(scale=0.3),
    "capped": HeadShape(softcap=1.5),
    "both": HeadShape(scale=2.0, softcap=0.7),
}
heads = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


class Head(NamedTuple):
    """Hidden states, an output head, and what is to be scored."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor

    @property
    def trained(self) -> list[Tensor]:
        return [t for t in (self.hidden, self.weight, self.bias) if t is not None]

    def to(self, dtype: torch.dtype) -> Head:
        """New leaves of another dtype."""
        hidden, weight, bias = (
            None if t is None else t.detach().to(dtype).requires_grad_()
            for t in (self.hidden, self.weight, self.bias)
        )
        assert hidden is not None
        assert weight is not None
        return Head(hidden, weight, bias, self.targets)


def make(*, count: int = 7, vocabulary: int = 11, size: int = 5, bias: bool = True, seed: int = 0) -> Head:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((count, size), (vocabulary, size), (vocabulary,))
    tensors = [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]
    targets = torch.randint(0, vocabulary, (count,), generator=generator)
    return Head(tensors[0], tensors[1], tensors[2] if bias else None, targets)


def plainly(head: Head, shape: HeadShape) -> Tensor:
    """By all logits at once, each step as models write it."""
    logits = head.hidden @ head.weight.T
    if head.bias is not None:
        logits = logits + head.bias
    logits = logits * shape.scale
    if shape.softcap is not None:
        logits = shape.softcap * torch.tanh(logits / shape.softcap)
    return torch.log_softmax(logits, -1).gather(1, head.targets[:, None]).squeeze(1)


def check(head: Head, shape: HeadShape, rows: int, upstream: Tensor) -> None:
    expected, got = plainly(head, shape), token_logps(*head, shape=shape, rows=rows)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad(got, head.trained, upstream)
    theirs = torch.autograd.grad(expected, head.trained, upstream)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@heads
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_equal_to_a_log_softmax_of_all_logits_with_gradients(
    shape: HeadShape, *, bias: bool, rows: int
) -> None:
    check(make(bias=bias), shape, rows, torch.linspace(-1, 2, 7, dtype=torch.float64))


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_equal_for_any_sizes_and_any_upstream_gradient(data: st.DataObject) -> None:
    sizes = {name: data.draw(st.integers(1, 9), name) for name in ("count", "vocabulary", "size")}
    head = make(**sizes, bias=data.draw(st.booleans()), seed=data.draw(st.integers(0, 1000)))
    slopes = st.floats(-1e3, 1e3, allow_subnormal=False)
    upstream = data.draw(st.lists(slopes, min_size=len(head.targets), max_size=len(head.targets)))
    shape = HeadShape(
        scale=data.draw(st.floats(0.1, 3)),
        softcap=data.draw(st.none() | st.floats(0.5, 30, exclude_min=True)),
    )
    # Divided, so that tolerances mean the same for every example.
    slope = torch.tensor(upstream, dtype=torch.float64) / max(1.0, *map(abs, upstream))
    check(head, shape, data.draw(st.integers(1, 10)), slope)


@pytest.mark.parametrize("rows", [3, 4], ids=["computed again", "kept"])
@heads
def test_gradients_are_those_of_finite_differences(shape: HeadShape, rows: int) -> None:
    head = make(count=4)

    def score(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return token_logps(hidden, weight, bias, head.targets, shape=shape, rows=rows)

    assert torch.autograd.gradcheck(score, head.trained)


@heads
def test_logits_that_are_kept_serve_several_backward_passes(shape: HeadShape) -> None:
    head = make(count=4)
    again, kept = (token_logps(*head, shape=shape, rows=4, kept=kept) for kept in (3, 4))
    expected = torch.autograd.grad(again.sum(), head.trained)
    for _ in range(3):
        got = torch.autograd.grad(kept.sum(), head.trained, retain_graph=True)
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("kept", "logits"), [(None, 1), (7, 1), (6, 0), (0, 0)])
def test_what_may_be_kept(kept: int | None, logits: int) -> None:
    """7 predictions in chunks of 8: their logits are kept where 7 may be."""
    head = make(count=7)
    shapes = []

    def note(saved: Tensor) -> Tensor:
        shapes.append(tuple(saved.shape))
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        token_logps(*head, shape=HeadShape(), rows=8, kept=kept)
    assert shapes.count((7, len(head.weight))) == logits


def test_without_weights_every_token_is_as_likely() -> None:
    """A head of zeros: -ln 11 for each token. The bias of the target gains 10/11, the others lose 1/11."""
    head = make()
    with torch.no_grad():
        for tensor in head.trained[1:]:
            tensor.zero_()
    logps = token_logps(*head, shape=HeadShape(), rows=2)
    torch.testing.assert_close(logps.tolist(), [-2.3978952727983707] * 7)
    (gradient,) = torch.autograd.grad(logps[0], head.trained[2:])
    by_hand = [10 / 11 if token == head.targets[0] else -1 / 11 for token in range(11)]
    torch.testing.assert_close(gradient.tolist(), by_hand)


def test_a_capped_token_worked_by_hand() -> None:
    """The state 2 and the weights 0 and 1 make logits 0 and 2, scaled 0 and 1, capped at 1: 0 and tanh 1.

    With t = tanh 1 the second token's log-probability is t - ln(1 + e^t); its slope of the state is what the
    first token's probability, 1 / (1 + e^t), makes of the slope of t: (1 - t^2) / 2.
    """
    hidden = torch.tensor([[2.0]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    shape = HeadShape(scale=0.5, softcap=1.0)
    logps = token_logps(hidden, weight, None, torch.tensor([1]), shape=shape, rows=1)
    t = math.tanh(1)
    assert float(logps.detach()) == pytest.approx(t - math.log(1 + math.exp(t)), rel=1e-14)
    (gradient,) = torch.autograd.grad(logps.sum(), hidden)
    assert float(gradient) == pytest.approx((1 - t * t) / 2 / (1 + math.exp(t)), rel=1e-14)


class Sizes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The shapes of all tensors that are computed, and how many products with a bias there were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: set[tuple[int, ...]] = set()
        self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.products += func is torch.ops.aten.addmm.default
        self.shapes |= {
            tuple(t.shape) for t in torch.utils._pytree.tree_leaves(result) if hasattr(t, "shape")
        }
        return result


@heads
def test_nothing_larger_than_a_chunk_of_logits_is_ever_held(shape: HeadShape) -> None:
    head = make(count=40, vocabulary=101, size=3)
    with Sizes() as sizes:
        torch.autograd.backward(token_logps(*head, shape=shape, rows=4).sum())
    assert (4, 101) in sizes.shapes
    assert max(math.prod(shape) for shape in sizes.shapes) == 4 * 101
    with Sizes() as sizes:
        plainly(head, shape)
    assert max(math.prod(shape) for shape in sizes.shapes) == 40 * 101


@heads
@pytest.mark.parametrize(("rows", "products"), [(6, 1), (5, 4)])
def test_a_single_chunk_is_computed_once(shape: HeadShape, rows: int, products: int) -> None:
    """Six rows: at once they are made once; five and one are made for either pass."""
    head = make(count=6, vocabulary=101, size=3)
    with Sizes() as sizes:
        torch.autograd.backward(token_logps(*head, shape=shape, rows=rows).sum())
    assert sizes.products == products


def test_chunks_have_a_fixed_memory() -> None:
    assert chunk_rows(2**15) * 2**15 == CHUNK_ELEMENTS
    assert chunk_rows(10**9) == 32


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_what_is_frozen_costs_nothing(frozen: str) -> None:
    head = make(count=13, vocabulary=23, size=3)
    expected = dict(
        zip(head._fields, torch.autograd.grad(plainly(head, HeadShape()).sum(), head.trained), strict=False)
    )
    getattr(head, frozen).requires_grad = False
    logps = token_logps(*head, shape=HeadShape(), rows=4)
    with Sizes() as sizes:
        torch.autograd.backward(logps.sum())
    for name, gradient in expected.items():
        tensor = getattr(head, name)
        if name == frozen:
            assert tensor.grad is None
            assert tuple(tensor.shape) not in sizes.shapes
        else:
            torch.testing.assert_close(tensor.grad, gradient)


def test_nothing_is_kept_where_no_gradient_is_wanted() -> None:
    with torch.no_grad():
        logps = token_logps(*make(), shape=HeadShape(), rows=2)
    assert logps.grad_fn is None


@heads
def test_bfloat16_autocast_is_close_to_float64(shape: HeadShape) -> None:
    """A logit of 20 is rounded by up to 2 ** -4, and so are its factors; gradients are within 1/16."""
    exact = make(count=50, vocabulary=200, size=16)
    single = exact.to(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logps = token_logps(*single, shape=shape, rows=8)
    assert logps.dtype == torch.float32
    expected = plainly(exact, shape)
    torch.testing.assert_close(logps.double(), expected, rtol=0, atol=2**-3)
    upstream = torch.linspace(-1, 2, 50, dtype=torch.float64)
    ours = torch.autograd.grad(logps, single.trained, upstream.float())
    for one, other in zip(ours, torch.autograd.grad(expected, exact.trained, upstream), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, rtol=0, atol=float(other.abs().max()) * 2**-4)


def test_gradients_of_weights_are_summed_in_float32() -> None:
    """600 chunks, each of which adds 1/2 to the weight of the target: bfloat16 would stall at 128."""
    hidden = torch.ones(600, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.ones(600, dtype=torch.int64)
    logps = token_logps(hidden, weight, None, targets, shape=HeadShape(), rows=1)
    torch.autograd.backward(logps.sum())
    assert weight.grad is not None
    assert weight.grad.dtype == torch.bfloat16
    assert weight.grad.tolist() == [[-300.0], [300.0]]


def test_a_backward_pass_under_autocast_keeps_its_precision() -> None:
    head = make().to(torch.float32)
    logps = token_logps(*head, shape=HeadShape(), rows=3)
    expected = torch.autograd.grad(logps.sum(), head.trained, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = torch.autograd.grad(logps.sum(), head.trained)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
