"""The reference model's log-probabilities per turn: computed once, kept on disk.

What is kept does not depend on gamma, beta or the objective, so a sweep over them never runs the reference
again. An entry is found by the conversation's token ids and turns, under the reference's weights, precision
and attention implementation.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from multiturn.errors import ConfigError
from multiturn.models.logps import turn_logps
from multiturn.models.modes import evaluating
from multiturn.models.policy import is_adapter_parameter, weights_fingerprint
from multiturn.models.wrapped import bare_model
from multiturn.tokens.padded import collate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from multiturn.tokens.rendered import Rendered

__all__ = [
    "ReferenceCache",
    "conversation_key",
    "precision_of",
    "reference_turn_logps",
]

_SAVE_EVERY_SECONDS = 15.0
_FORMAT = "multiturn-reference-1"


def conversation_key(rendered: Rendered) -> str:
    """A hash of the token ids and turns that scores depend on; what follows the last turn is left out."""
    length = rendered.scored_length
    digest = hashlib.sha256(f"{length} {rendered.num_turns} ".encode())
    for values in (rendered.token_ids[:length], rendered.turns[:length]):
        digest.update(np.asarray(values, dtype="<i8").tobytes())
    return digest.hexdigest()


def precision_of(model: nn.Module, autocast: torch.dtype | None = None) -> str:
    """The dtype of a model's weights, and of the computation where it is another: ``float32+bfloat16``.

    An adapter's own dtype does not count: it may be switched off, and a fingerprint knows it anyway.
    """
    weights = [p for name, p in model.named_parameters() if not is_adapter_parameter(name)]
    own = ",".join(sorted({str(p.dtype).removeprefix("torch.") for p in weights if p.is_floating_point()}))
    return own if autocast is None else f"{own}+{str(autocast).removeprefix('torch.')}"


class ReferenceCache:
    """Per-turn log-probability sums on disk, for one reference.

    A folder of small safetensors files, each written beside its place, flushed and renamed, so a killed
    process leaves whole files only. A file that cannot be read or does not match its checksum is removed,
    counted in `corrupt_files`, and its entries are computed again. Several processes may share a folder: each
    sees what was there when it opened the cache, and adds files of its own.

    Args:
        path: The folder of the cache; one folder may serve many references.
        fingerprint: The reference's `weights_fingerprint`.
        precision: Its `precision_of`.
        attention: Its attention implementation.

    Attributes:
        precision: As given.
        corrupt_files: How many files were unusable and have been removed.

    Raises:
        ConfigError: The folder cannot be made or read.
    """

    def __init__(
        self, path: Path | str, fingerprint: str, *, precision: str = "float32", attention: str = "sdpa"
    ) -> None:
        identity = f"{_FORMAT}\n{fingerprint}\n{precision}\n{attention}"
        self._reference = hashlib.sha256(identity.encode()).hexdigest()[:32]
        self._folder = Path(path) / self._reference
        self._entries: dict[str, torch.Tensor] = {}
        self.precision = precision
        self.corrupt_files = 0
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            files = sorted(self._folder.glob("*.safetensors"))
        except OSError as error:
            raise ConfigError(
                f"the reference cache {path} cannot be used ({error}); check the folder"
            ) from error
        for file in files:
            self._read(file)

    @classmethod
    def of(
        cls,
        path: Path | str,
        model: nn.Module,
        *,
        adapter: bool = True,
        autocast: torch.dtype | None = None,
        fingerprint: str | None = None,
    ) -> ReferenceCache:
        """The cache of a given reference model.

        Args:
            path: The folder of the cache.
            model: The reference.
            adapter: False if the reference is `model` with its adapter switched off.
            autocast: The dtype that the reference computes in, where that is not its weights'.
            fingerprint: The fingerprint of its weights, if it is known already.

        Raises:
            ConfigError: The folder cannot be made or read.
        """
        config: Any = bare_model(model).config
        return cls(
            path,
            fingerprint or weights_fingerprint(model, adapter=adapter),
            precision=precision_of(model, autocast),
            attention=str(getattr(config, "_attn_implementation", None)),
        )

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, rendered: Rendered) -> torch.Tensor | None:
        """The per-turn sums ``[T]`` float32 of a conversation, in nats; None when they are not kept."""
        return self._entries.get(conversation_key(rendered))

    def put(self, entries: Mapping[Rendered, torch.Tensor]) -> None:
        """Keep per-turn sums; when this returns they are on the disk.

        Args:
            entries: The sums ``[T]`` of each conversation, in nats.

        Raises:
            ValueError: A conversation has another number of turns than sums.
        """
        if not entries:
            return
        rows = {}
        for rendered, sums in entries.items():
            if sums.shape != (rendered.num_turns,):
                raise ValueError(f"{tuple(sums.shape)} sums for a conversation of {rendered.num_turns} turns")
            rows[conversation_key(rendered)] = sums.detach().to("cpu", torch.float32).clone()
        tensors = {
            "keys": torch.frombuffer(bytearray(bytes.fromhex("".join(rows))), dtype=torch.uint8).view(-1, 32),
            "counts": torch.tensor([row.numel() for row in rows.values()]),
            "sums": torch.cat(list(rows.values())),
        }
        content = save(tensors, metadata={"format": _FORMAT, "sha256": _checksum(tensors)})
        name = uuid.uuid4().hex
        partial = self._folder / f".{name}.partial"
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self._folder / f"{name}.safetensors")
        self._entries |= rows

    def _read(self, file: Path) -> None:
        try:
            with safe_open(str(file), framework="pt") as opened:
                metadata = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in ("keys", "counts", "sums")}
        except FileNotFoundError:  # Another process found it corrupt first.
            return
        except (SafetensorError, OSError, ValueError):
            metadata, tensors = {}, {}
        if metadata.get("format") != _FORMAT or metadata.get("sha256") != _checksum(tensors):
            self.corrupt_files += 1
            file.unlink(missing_ok=True)
            return
        keys = (bytes(key).hex() for key in tensors["keys"].numpy())
        self._entries |= dict(zip(keys, tensors["sums"].split(tensors["counts"].tolist()), strict=True))


def _checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} ".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def reference_turn_logps(
    model: nn.Module,
    rendered: Sequence[Rendered],
    *,
    batch_size: int = 8,
    cache: ReferenceCache | None = None,
    autocast: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[torch.Tensor]:
    """The reference's log-probability of every turn of every conversation.

    Only what the cache lacks is computed, each different conversation once, longest first. What is done is
    saved every few seconds, so that a killed process loses no more than that.

    Args:
        model: The reference; it is put into evaluation mode for the time. For an adapter that is switched off
            call this inside `adapter_off`.
        rendered: The conversations, each with at least one turn.
        batch_size: How many are computed at once.
        cache: Where results are looked up and kept; None keeps nothing.
        autocast: The dtype to compute in, for example ``torch.bfloat16``; None for the weights' own.
        progress: Is told how many of how many missing conversations are done.

    Returns:
        For each conversation the per-turn sums ``[T]`` float32 on the CPU, in nats. Where these are not
        finite the cache does not keep them, so that another call computes them again.

    Raises:
        ValueError: `batch_size` is not positive, or the cache belongs to another precision.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    precision = precision_of(model, autocast)
    if cache is not None and cache.precision != precision:
        raise ValueError(f"the cache is for {cache.precision}, but the model computes in {precision}")
    known: dict[Rendered, torch.Tensor] = {}
    missing: list[Rendered] = []
    for row in dict.fromkeys(rendered):
        kept = None if cache is None else cache.get(row)
        if kept is None:
            missing.append(row)
        else:
            known[row] = kept
    unsaved: dict[Rendered, torch.Tensor] = {}
    last_save = time.monotonic()
    missing.sort(key=lambda row: -row.scored_length)
    device = next(model.parameters()).device.type
    autocasting = torch.autocast(device, dtype=autocast, enabled=autocast is not None)
    try:
        with evaluating(model), torch.no_grad(), autocasting:
            for start in range(0, len(missing), batch_size):
                unsaved |= _compute(model, missing[start : start + batch_size])
                if cache is not None and time.monotonic() - last_save > _SAVE_EVERY_SECONDS:
                    cache.put(_finite(unsaved))
                    known |= unsaved
                    unsaved, last_save = {}, time.monotonic()
                if progress is not None:
                    progress(min(start + batch_size, len(missing)), len(missing))
    finally:
        if cache is not None:
            cache.put(_finite(unsaved))
    known |= unsaved
    return [known[row] for row in rendered]


def _compute(model: nn.Module, rows: Sequence[Rendered]) -> dict[Rendered, torch.Tensor]:
    device = next(model.parameters()).device
    sums = turn_logps(model, collate(rows).to(device)).to("cpu", torch.float32)
    return {row: sums[i, : row.num_turns].clone() for i, row in enumerate(rows)}


def _finite(sums: Mapping[Rendered, torch.Tensor]) -> dict[Rendered, torch.Tensor]:
    return {row: values for row, values in sums.items() if bool(torch.isfinite(values).all())}
