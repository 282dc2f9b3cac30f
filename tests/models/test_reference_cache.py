"""The reference's sums: computed once, found again, never believed when damaged."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
import warnings
from typing import TYPE_CHECKING, NoReturn

import pytest
import torch
from model_samples import adapted, conversation, conversations, llama, single
from peft import LoraConfig

from multiturn.errors import ConfigError
from multiturn.models import reference, reference_cache
from multiturn.models.logps import turn_logps
from multiturn.models.modes import adapter_off
from multiturn.models.policy import weights_fingerprint
from multiturn.models.reference import reference_turn_logps
from multiturn.models.reference_cache import (
    ReferenceCache,
    architecture_of,
    conversation_key,
    precision_of,
)
from multiturn.tokens.padded import collate
from multiturn.tokens.rendered import Rendered

if TYPE_CHECKING:
    from pathlib import Path

    from multiturn.models.logps import Head
    from multiturn.tokens.batches import Layout

ROWS = conversations()
SUMS = {row: torch.arange(float(row.num_turns)) - 7.25 for row in ROWS}


def files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.safetensors"))


def test_what_is_put_comes_back(tmp_path: Path) -> None:
    cache = ReferenceCache(tmp_path, "weights")
    assert cache.get(ROWS[0]) is None
    cache.put(SUMS)
    for opened in (cache, ReferenceCache(tmp_path, "weights")):
        assert len(opened) == 4
        for row, sums in SUMS.items():
            found = opened.get(row)
            assert found is not None
            assert torch.equal(found, sums)


@pytest.mark.parametrize(
    "other",
    [
        {"fingerprint": "others"},
        {"architecture": "other"},
        {"precision": "bfloat16"},
        {"precision": "float32+bfloat16"},
        {"attention": "eager"},
    ],
)
def test_another_reference_shares_nothing(tmp_path: Path, other: dict[str, str]) -> None:
    ReferenceCache(tmp_path, "weights").put(SUMS)
    assert len(ReferenceCache(tmp_path, **{"fingerprint": "weights", **other})) == 0
    assert len(ReferenceCache(tmp_path, "weights")) == 4


def test_keys_know_ids_and_turns_but_not_what_follows_the_last_turn() -> None:
    row = conversation(2, 1, seed=1)
    keys = {
        conversation_key(row),
        conversation_key(dataclasses.replace(row, token_ids=(row.token_ids[0] + 1, *row.token_ids[1:]))),
        conversation_key(
            dataclasses.replace(row, turns=tuple(0 if t == 1 else t for t in row.turns), num_turns=1)
        ),
    }
    assert len(keys) == 3
    longer = dataclasses.replace(row, token_ids=(*row.token_ids, 9), turns=(*row.turns, -1))
    assert conversation_key(longer) == conversation_key(row)


def test_keys_know_where_the_ids_end_and_how_many_turns_there_are() -> None:
    """The same numbers, parted in another way: two ids and two turns, or three and one, or a turn more."""
    rows = [
        Rendered((1, 0), (-1, 0), 1),
        Rendered((1, 0, -1), (0,), 1),
        Rendered((1, 0), (-1, 0), 2),
    ]
    assert len({conversation_key(row) for row in rows}) == 3


def test_a_checksum_knows_shapes_and_dtypes() -> None:
    tensor = torch.arange(6, dtype=torch.int32)
    others = [tensor, tensor.view(2, 3), tensor.view(3, 2), tensor.view(torch.float32)]
    assert len({reference_cache._checksum({"sums": other}) for other in others}) == 4


def test_a_file_that_another_process_removes_meanwhile_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ReferenceCache(tmp_path, "weights").put(SUMS)

    def gone(*_: object, **__: object) -> NoReturn:
        raise FileNotFoundError(errno.ENOENT, "No such file")

    with monkeypatch.context() as patched:
        patched.setattr(reference_cache, "safe_open", gone)
        opened = ReferenceCache(tmp_path, "weights")
    assert (len(opened), opened.corrupt_files) == (0, 0)
    assert len(ReferenceCache(tmp_path, "weights")) == 4


def test_packed_passes_keep_sums_of_their_own(tmp_path: Path) -> None:
    """Their attention adds in another order; both packed layouts share one."""
    model = llama()
    ReferenceCache.of(tmp_path, model, layout="forest").put(SUMS)
    lengths = [
        len(ReferenceCache.of(tmp_path, model, layout=each)) for each in ("padded", "packed", "forest")
    ]
    assert lengths == [0, 4, 4]


def damaged(kind: str, content: bytes) -> bytes:
    if kind == "truncated":
        return content[: len(content) - 5]
    if kind == "header only":
        return content[:20]
    if kind == "empty":
        return b""
    if kind == "text":
        return b"not a tensor at all"
    assert kind == "one bit"
    return content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]


@pytest.mark.parametrize("kind", ["truncated", "header only", "empty", "text", "one bit"])
def test_a_damaged_file_is_removed_counted_and_built_again(tmp_path: Path, kind: str) -> None:
    cache = ReferenceCache(tmp_path, "weights")
    cache.put({ROWS[0]: SUMS[ROWS[0]]})
    (victim,) = files(tmp_path)
    cache.put({ROWS[1]: SUMS[ROWS[1]]})
    victim.write_bytes(damaged(kind, victim.read_bytes()))
    opened = ReferenceCache(tmp_path, "weights")
    assert opened.corrupt_files == 1
    assert opened.get(ROWS[0]) is None
    assert opened.get(ROWS[1]) is not None
    assert victim not in files(tmp_path)
    opened.put({ROWS[0]: SUMS[ROWS[0]]})
    again = ReferenceCache(tmp_path, "weights")
    assert (again.corrupt_files, len(again)) == (0, 2)


def test_what_a_killed_process_leaves_is_ignored(tmp_path: Path) -> None:
    cache = ReferenceCache(tmp_path, "weights")
    cache.put(SUMS)
    (file,) = files(tmp_path)
    (file.parent / ".half.partial").write_bytes(file.read_bytes()[:50])
    opened = ReferenceCache(tmp_path, "weights")
    assert (opened.corrupt_files, len(opened)) == (0, 4)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = ReferenceCache(tmp_path, "weights")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        cache.put(SUMS)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert cache.get(ROWS[0]) is None


def test_killed_while_writing(tmp_path: Path) -> None:
    """A process that writes as fast as it can is killed; every file that is there is whole."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Newer Pythons warn of forking beside threads; this child takes none of their locks.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        cache = ReferenceCache(tmp_path, "weights")
        for number in range(1_000_000):
            row = dataclasses.replace(ROWS[1], token_ids=(number, *ROWS[1].token_ids[1:]))
            cache.put({row: torch.tensor([float(number)])})
            os.write(writer, b".")
    assert os.read(reader, 1) == b"."
    time.sleep(0.3)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(writer)
    told = 1
    while chunk := os.read(reader, 65536):
        told += len(chunk)
    os.close(reader)
    cache = ReferenceCache(tmp_path, "weights")
    assert cache.corrupt_files == 0
    assert len(cache) in (told, told + 1)


def test_processes_share_a_folder(tmp_path: Path) -> None:
    one, two = (ReferenceCache(tmp_path, "weights") for _ in range(2))
    one.put({ROWS[0]: SUMS[ROWS[0]], ROWS[1]: SUMS[ROWS[1]]})
    two.put({ROWS[1]: SUMS[ROWS[1]], ROWS[2]: SUMS[ROWS[2]]})
    assert len(ReferenceCache(tmp_path, "weights")) == 3


def test_a_wrong_number_of_sums_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="for a conversation of 3 turns"):
        ReferenceCache(tmp_path, "weights").put({ROWS[0]: torch.zeros(2)})


def test_what_cannot_be_read_today_is_not_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No permission, or a disk that fails for a moment, is not damage."""
    ReferenceCache(tmp_path, "weights").put(SUMS)

    def refused(*_: object, **__: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(reference_cache, "safe_open", refused)
        with pytest.raises(ConfigError, match=r"cannot be used .*Permission denied"):
            ReferenceCache(tmp_path, "weights")
    assert len(ReferenceCache(tmp_path, "weights")) == 4


def test_an_architecture_is_what_the_same_weights_compute_with() -> None:
    model = llama()
    same = architecture_of(model)
    model.config.use_cache = not model.config.use_cache
    model.config.name_or_path = "elsewhere"
    model.config.pad_token_id = 3
    assert architecture_of(model) == same
    model.config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    stretched = architecture_of(model)
    model.config.rope_parameters = {**model.config.rope_parameters, "factor": 4.0}
    assert len({same, stretched, architecture_of(model)}) == 3


def test_an_architecture_is_the_same_in_every_process() -> None:
    """The order of a set is another one in each."""
    code = (
        "from transformers import LlamaConfig; from types import SimpleNamespace; "
        "from multiturn.models.reference_cache import architecture_of; "
        "config = LlamaConfig(some={'a', 'b', 'c'}); config.to_dict = lambda own=config.to_dict: "
        "own() | {'some': {'a', 'b', 'c'}, 'odd': object()}; "
        "print(architecture_of(SimpleNamespace(config=config)))"
    )
    told = {
        subprocess.run(  # noqa: S603 - ours
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(told) == 1


def test_an_unusable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        ReferenceCache(tmp_path / "file", "weights")


class TestComputing:
    def test_equal_to_the_live_reference(self, tmp_path: Path) -> None:
        model = llama()
        cache = ReferenceCache.of(tmp_path, model)
        live = turn_logps(model, collate(ROWS)).detach().float()
        for got in (
            reference_turn_logps(model, ROWS, max_tokens=60, cache=cache),
            reference_turn_logps(model, ROWS, cache=ReferenceCache.of(tmp_path, model)),
            reference_turn_logps(model, ROWS, max_tokens=1),
        ):
            for index, row in enumerate(ROWS):
                assert got[index].dtype == torch.float32
                torch.testing.assert_close(got[index], live[index, : row.num_turns], rtol=1e-6, atol=1e-6)

    def test_only_what_is_missing_once_and_longest_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = llama()
        computed: list[list[int]] = []
        original = reference._compute

        def counted(
            model: torch.nn.Module, rows: list[Rendered], layout: Layout, head: Head
        ) -> dict[Rendered, torch.Tensor]:
            computed.append([row.scored_length for row in rows])
            return original(model, rows, layout, head)

        monkeypatch.setattr(reference, "_compute", counted)
        cache = ReferenceCache.of(tmp_path, model)
        told: list[tuple[int, int]] = []
        reference_turn_logps(model, ROWS[:1], cache=cache)
        reference_turn_logps(
            model, [*ROWS, *ROWS], max_tokens=44, cache=cache, progress=lambda *done: told.append(done)
        )
        rest = sorted((row.scored_length for row in ROWS[1:]), reverse=True)
        assert computed == [[ROWS[0].scored_length], rest[:2], rest[2:]]
        assert told == [(2, 3), (3, 3)]
        reference_turn_logps(model, ROWS, cache=ReferenceCache.of(tmp_path, model))
        assert len(computed) == 3

    def test_what_was_done_before_a_failure_is_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = llama()
        cache = ReferenceCache.of(tmp_path, model)

        def stop(done: int, total: int) -> None:
            if done == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            reference_turn_logps(model, ROWS, max_tokens=1, cache=cache, progress=stop)
        assert len(ReferenceCache.of(tmp_path, model)) == 2

    def test_it_saves_as_it_goes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reference, "_SAVE_EVERY_SECONDS", -1.0)
        model = llama()
        lengths: list[int] = []
        reference_turn_logps(
            model,
            ROWS,
            max_tokens=1,
            cache=ReferenceCache.of(tmp_path, model),
            progress=lambda *_: lengths.append(len(ReferenceCache.of(tmp_path, model))),
        )
        assert lengths == [1, 2, 3, 4]

    def test_modes_come_back(self) -> None:
        model = llama()
        model.train()
        model.lm_head.eval()
        reference_turn_logps(model, ROWS)
        assert model.training
        assert not model.lm_head.training

    def test_sums_that_are_not_finite_are_not_kept(self, tmp_path: Path) -> None:
        """They are told, but a later call computes them again, and gets them right."""
        model = llama()

        def cache() -> ReferenceCache:
            return ReferenceCache(tmp_path, "weights", precision="float64")

        weight = model.lm_head.weight.detach().clone()
        model.lm_head.weight.data.fill_(torch.nan)
        assert reference_turn_logps(model, ROWS, cache=cache())[0].isnan().all()
        model.lm_head.weight.data.copy_(weight)
        again = reference_turn_logps(model, ROWS, cache=cache())
        assert all(bool(sums.isfinite().all()) for sums in again)
        assert len(cache()) == 4

    def test_autocast_is_part_of_the_precision(self, tmp_path: Path) -> None:
        model = single(llama())
        assert precision_of(model) == "float32"
        assert precision_of(model, torch.bfloat16) == "float32+bfloat16"
        cache = ReferenceCache.of(tmp_path, model, autocast=torch.bfloat16)
        with pytest.raises(
            ValueError, match=r"cache is for float32\+bfloat16, but the model computes in float32"
        ):
            reference_turn_logps(model, ROWS, cache=cache)
        got = reference_turn_logps(model, ROWS, cache=cache, autocast=torch.bfloat16)
        exact = reference_turn_logps(model, ROWS)
        assert not torch.equal(got[0], exact[0])
        torch.testing.assert_close(got[0], exact[0], rtol=0.05, atol=0.3)
        # The caller's own autocast does not leak in.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(reference_turn_logps(model, ROWS)[0], exact[0])

    def test_no_batch(self) -> None:
        assert reference_turn_logps(llama(), []) == []
        with pytest.raises(ValueError, match="at least 1"):
            reference_turn_logps(llama(), ROWS, max_tokens=0)


class TestAdapterOff:
    def test_the_model_is_its_own_reference(self, tmp_path: Path) -> None:
        plain = llama()
        expected = reference_turn_logps(plain, ROWS)
        cache = ReferenceCache.of(tmp_path, plain)
        config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        model = adapted(llama(), config)
        changed = reference_turn_logps(model, ROWS)
        assert not torch.allclose(changed[0], expected[0], atol=1e-3)
        with adapter_off(model):
            got = reference_turn_logps(model, ROWS)
        for a, b in zip(got, expected, strict=True):
            assert torch.equal(a, b)
        assert torch.equal(reference_turn_logps(model, ROWS)[0], changed[0])
        # And it finds what the plain model left in the cache.
        cache.put(dict(zip(ROWS, expected, strict=True)))
        assert len(ReferenceCache.of(tmp_path, model, adapter=False)) == 4
        assert len(ReferenceCache.of(tmp_path, model)) == 0
        assert weights_fingerprint(model, adapter=False) == weights_fingerprint(plain)

    def test_a_frozen_adapter_stays_frozen(self) -> None:
        model = adapted(llama(), LoraConfig(r=2, target_modules=["q_proj"]))
        for trainable in (True, False):
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(trainable and "lora_" in name)
            before = [p.requires_grad for p in model.parameters()]
            with adapter_off(model):
                pass
            assert [p.requires_grad for p in model.parameters()] == before

    def test_a_model_without_one(self) -> None:
        with pytest.raises(ConfigError, match="no adapter"), adapter_off(llama()):
            pass


@pytest.mark.parametrize("layout", ["padded", "packed", "forest"])
def test_nothing_to_do_takes_no_pass(layout: Layout) -> None:
    for at_least in (0, 2):
        assert reference.reference_passes([], 100, layout, at_least=at_least) == []
