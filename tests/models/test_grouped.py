"""Attention over a forest level by level; what only a GPU can run is shape-checked on pretended ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from forest_samples import families
from hypothesis import given, settings
from torch._subclasses.fake_tensor import FakeTensorMode

from multiturn.models import grouped
from multiturn.models.cascade import PlainKernel, cascade_attention
from multiturn.models.grouped import FlashKernel, Group, grouped_attention, groups_of, takes_groups
from multiturn.tokens import Rendered, plant

if TYPE_CHECKING:
    from torch import Tensor


class OneByOne:
    """A group kernel that computes part after part."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, group: Group, scale: float
    ) -> tuple[Tensor, Tensor]:
        outputs, lses = [], []
        for queries, keys in self._parts(group):
            output, lse = PlainKernel().forward(
                _heads(query[queries]),
                _heads(key[keys], query.shape[1]),
                _heads(value[keys], query.shape[1]),
                causal=group.causal,
                scale=scale,
            )
            outputs.append(output[0].transpose(0, 1))
            lses.append(lse[0])
        return torch.cat(outputs), torch.cat(lses, dim=-1)

    def backward(
        self, grad: Tensor, tensors: tuple[Tensor, ...], lse: Tensor, group: Group, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, output = tensors
        heads, shared = query.shape[1], query.shape[1] // key.shape[1]
        sums = [torch.zeros_like(tensor) for tensor in (query, key, value)]
        for queries, keys in self._parts(group):
            shares = PlainKernel().backward(
                _heads(grad[queries]),
                _heads(query[queries]),
                _heads(key[keys], heads),
                _heads(value[keys], heads),
                _heads(output[queries]),
                lse[None, :, queries],
                causal=group.causal,
                scale=scale,
            )
            for total, places, share in zip(sums, (queries, keys, keys), shares, strict=True):
                rows = share[0].transpose(0, 1)
                if total is not sums[0]:
                    rows = rows.view(len(rows), -1, shared, rows.shape[-1]).sum(2)
                total[places] += rows
        return sums[0], sums[1], sums[2]

    @staticmethod
    def _parts(group: Group) -> list[tuple[slice, slice]]:
        query_ends, key_ends = group.query_ends.tolist(), group.key_ends.tolist()
        return [
            (slice(query_ends[i], query_ends[i + 1]), slice(key_ends[i], key_ends[i + 1]))
            for i in range(len(query_ends) - 1)
        ]


def _heads(rows: Tensor, heads: int = 0) -> Tensor:
    """``[tokens, G, D]`` as ``[1, heads, tokens, D]``."""
    shared = max(1, heads // rows.shape[1])
    return rows.transpose(0, 1).repeat_interleave(shared, dim=0).unsqueeze(0)


def _random(tokens: int, heads: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, heads, tokens, 4, generator=generator, dtype=torch.float64, requires_grad=True)


@settings(deadline=None, max_examples=40)
@given(families())
def test_groups_compute_what_parts_compute(rendered: list[Rendered]) -> None:
    """Four heads share the keys of two."""
    forest = plant(rendered)
    tokens = len(forest.input_ids)
    query, key, value = _random(tokens, 4, 0), _random(tokens, 2, 1), _random(tokens, 2, 2)
    repeated = key.repeat_interleave(2, dim=1), value.repeat_interleave(2, dim=1)
    expected = cascade_attention(query, *repeated, forest, scale=0.3)
    grad = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    groups = groups_of(forest, "cpu")
    got = grouped_attention(query, key, value, groups, scale=0.3, kernel=OneByOne())
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad(got, (query, key, value), grad),
        torch.autograd.grad(expected, (query, key, value), grad),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_as_many_calls_as_levels_that_others_branch_off() -> None:
    """[0 1] with [2 3] and [4] below it, [2 3] with [5] and [6], and that with [7] and [8]; a second tree."""

    def row(*ids: int) -> Rendered:
        return Rendered(token_ids=ids, turns=(-1, *[0] * (len(ids) - 1)), num_turns=1)

    rows = [row(0, 1, 2, 3, 5), row(0, 1, 2, 3, 6, 7), row(0, 1, 2, 3, 6, 8), row(0, 1, 4), row(9, 9)]
    forest = plant(rows)
    assert forest.input_ids.tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 4, 9, 9]
    assert [(c.start, c.end, c.level) for c in forest.chains] == [
        (0, 5, 0),
        (5, 7, 1),
        (7, 8, 2),
        (8, 9, 1),
        (9, 11, 0),
    ]
    own, first, second = groups_of(forest, "cpu")
    assert own.query_ends.tolist() == [0, 5, 7, 8, 9, 11]
    assert (own.most_queries, own.causal, own.queries) == (5, True, None)
    assert first.queries is not None
    assert first.keys is not None
    assert (first.queries.tolist(), first.keys.tolist()) == ([8, 5, 6, 7], [0, 1, 0, 1, 2, 3])
    assert (first.query_ends.tolist(), first.key_ends.tolist()) == ([0, 1, 4], [0, 2, 6])
    assert (first.most_queries, first.most_keys, first.causal) == (3, 4, False)
    assert second.queries is not None
    assert second.keys is not None
    assert (second.queries.tolist(), second.keys.tolist()) == ([7], [5])


def test_a_conversation_that_ends_inside_another_branches_nothing_off() -> None:
    rows = [
        Rendered(token_ids=ids, turns=(-1, *[0] * (len(ids) - 1)), num_turns=1)
        for ids in ((0, 1, 2), (0, 1, 2, 3, 4))
    ]
    (chain,) = plant(rows).chains
    assert (chain.start, chain.end) == (0, 5)
    assert list(chain.branches()) == []
    assert len(groups_of(plant(rows), "cpu")) == 1


def test_the_kernel_takes_its_arguments() -> None:
    """On tensors that only pretend to be on a GPU: names, order and shapes of what torch is called with."""
    tokens = 5
    with FakeTensorMode():
        ends = torch.empty(3, dtype=torch.int32, device="cuda")
        group = Group(
            queries=None,
            keys=None,
            query_ends=ends,
            key_ends=ends,
            most_queries=3,
            most_keys=3,
            causal=True,
        )
        query = torch.empty(tokens, 4, 64, dtype=torch.bfloat16, device="cuda")
        key = torch.empty(tokens, 2, 64, dtype=torch.bfloat16, device="cuda")
        output, lse = FlashKernel().forward(query, key, key, group, 0.125)
        assert output.shape == query.shape
        assert (tuple(lse.shape), lse.dtype) == ((4, tokens), torch.float32)
        shares = FlashKernel().backward(output, (query, key, key, output), lse, group, 0.125)
        assert [tuple(share.shape) for share in shares] == [(tokens, 4, 64), (tokens, 2, 64), (tokens, 2, 64)]


def test_which_attention_takes_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped, "_has_flash", lambda device: True)
    with FakeTensorMode():
        half = torch.empty(1, 4, 3, 64, dtype=torch.bfloat16, device="cuda")
        key = torch.empty(1, 2, 3, 64, dtype=torch.bfloat16, device="cuda")
        odd = torch.empty(1, 2, 3, 20, dtype=torch.bfloat16, device="cuda")
        assert takes_groups(half, key, key)
        assert not takes_groups(half.float(), key.float(), key.float())
        assert not takes_groups(half, key, odd)
        # A GPU before Ampere, where the kernel would raise.
        monkeypatch.setattr(grouped, "_has_flash", lambda device: False)
        assert not takes_groups(half, key, key)
    on_cpu = torch.empty(1, 2, 3, 64, dtype=torch.bfloat16)
    assert not takes_groups(on_cpu, on_cpu, on_cpu)


def test_flash_attention_needs_ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    for index, (capability, runs) in enumerate([((7, 5), False), ((8, 0), True), ((9, 0), True)]):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert grouped._has_flash.__wrapped__(torch.device("cuda", index)) is runs


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_flash_attention_is_right_on_a_gpu() -> None:
    generator = torch.Generator().manual_seed(0)
    prefix = torch.randint(1, 50, (300,), generator=generator).tolist()
    rows = []
    for seed in range(5):
        tail = torch.randint(1, 50, (100 + 40 * seed,), generator=generator.manual_seed(seed)).tolist()
        ids = (*prefix[: 200 + 20 * seed], *tail)
        rows.append(Rendered(token_ids=ids, turns=(-1, *[0] * (len(ids) - 1)), num_turns=1))
    forest = plant(rows).to("cuda")
    tokens = len(forest.input_ids)
    exact = [torch.randn(1, heads, tokens, 64, dtype=torch.float64) for heads in (4, 2, 2)]
    wide = [tensor.requires_grad_() for tensor in exact]
    keys, values = (tensor.repeat_interleave(2, dim=1) for tensor in wide[1:])
    expected = cascade_attention(wide[0], keys, values, plant(rows), scale=0.125)
    half = [tensor.detach().to("cuda", torch.bfloat16).requires_grad_() for tensor in exact]
    got = grouped_attention(half[0], half[1], half[2], groups_of(forest, "cuda"), scale=0.125)
    torch.testing.assert_close(got.double().cpu(), expected, rtol=0.03, atol=0.03)
    grad = torch.randn(expected.shape, dtype=torch.float64)
    wanted = torch.autograd.grad(expected, wide, grad)
    for mine, theirs in zip(torch.autograd.grad(got, half, grad.to(got)), wanted, strict=True):
        torch.testing.assert_close(mine.double().cpu(), theirs, rtol=0.05, atol=0.1)
