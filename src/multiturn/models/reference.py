"""The reference model's log-probabilities per turn: computed once, kept on disk.

What is kept does not depend on gamma, beta or the objective, so a sweep over them never runs the reference
again. An entry is found by the conversation's token ids and turns, under the reference's weights, precision
and attention implementation.
"""

from __future__ import annotations

import contextlib
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
from multiturn.models.attention import FOREST_ATTENTION, forest_attention
from multiturn.models.logps import turn_logps
from multiturn.models.modes import evaluating
from multiturn.models.policy import is_adapter_parameter, weights_fingerprint
from multiturn.models.wrapped import bare_model
from multiturn.tokens.batches import lay_out
from multiturn.tokens.packing import fill_passes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from multiturn.models.logps import Head
    from multiturn.tokens.batches import Layout
    from multiturn.tokens.rendered import Rendered

__all__ = [
    "ReferenceCache",
    "conversation_key",
    "precision_of",
    "reference_passes",
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
        layout: Layout = "padded",
    ) -> ReferenceCache:
        """The cache of a given reference model.

        Args:
            path: The folder of the cache.
            model: The reference.
            adapter: False if the reference is `model` with its adapter switched off.
            autocast: The dtype that the reference computes in, where that is not its weights'.
            fingerprint: The fingerprint of its weights, if it is known already.
            layout: How its batches are laid out; packed ones have an attention of their own.

        Raises:
            ConfigError: The folder cannot be made or read.
        """
        config: Any = bare_model(model).config
        own = str(getattr(config, "_attn_implementation", None))
        return cls(
            path,
            fingerprint or weights_fingerprint(model, adapter=adapter),
            precision=precision_of(model, autocast),
            attention=own if layout == "padded" else FOREST_ATTENTION,
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
    max_tokens: int = 8192,
    layout: Layout = "padded",
    head: Head = "auto",
    at_least: int = 0,
    cache: ReferenceCache | None = None,
    autocast: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[torch.Tensor]:
    """The reference's log-probability of every turn of every conversation.

    Only what the cache lacks is computed, each different conversation once. What is done is saved every few
    seconds, so that a killed process loses no more than that.

    Args:
        model: The reference; it is put into evaluation mode for the time. For an adapter that is switched off
            call this inside `adapter_off`.
        rendered: The conversations, each with at least one turn.
        max_tokens: Tokens of a forward pass at most, padding included; a longer conversation gets one of its
            own.
        layout: How the conversations of a pass are laid out.
        head: How tokens are scored; see `turn_logps`.
        at_least: The number of forward passes at least; see `reference_passes`.
        cache: Where results are looked up and kept; None keeps nothing.
        autocast: The dtype to compute in, for example ``torch.bfloat16``; None for the weights' own.
        progress: Is told how many of how many missing conversations are done.

    Returns:
        For each conversation the per-turn sums ``[T]`` float32 on the CPU, in nats. Where these are not
        finite the cache does not keep them, so that another call computes them again.

    Raises:
        ValueError: `max_tokens` is not positive, or the cache belongs to another precision.
        LayoutError: The model cannot take the layout.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
    precision = precision_of(model, autocast)
    if cache is not None and cache.precision != precision:
        raise ValueError(f"the cache is for {cache.precision}, but the model computes in {precision}")
    found = {row: None if cache is None else cache.get(row) for row in dict.fromkeys(rendered)}
    known = {row: sums for row, sums in found.items() if sums is not None}
    missing = [row for row, sums in found.items() if sums is None]
    unsaved: dict[Rendered, torch.Tensor] = {}
    last_save = time.monotonic()
    done = 0
    device = next(model.parameters()).device.type
    autocasting = torch.autocast(device, dtype=autocast, enabled=autocast is not None)
    packing = contextlib.nullcontext() if layout == "padded" else forest_attention(model)
    try:
        with evaluating(model), torch.no_grad(), packing, autocasting:
            for rows in reference_passes(missing, max_tokens, layout, at_least=at_least):
                unsaved |= _compute(model, rows, layout, head)
                if cache is not None and time.monotonic() - last_save > _SAVE_EVERY_SECONDS:
                    cache.put(_finite(unsaved))
                    known |= unsaved
                    unsaved, last_save = {}, time.monotonic()
                done = min(done + len(rows), len(missing))  # a pass may repeat conversations
                if progress is not None:
                    progress(done, len(missing))
    finally:
        if cache is not None:
            cache.put(_finite(unsaved))
    known |= unsaved
    return [known[row] for row in rendered]


def reference_passes(
    rows: Sequence[Rendered], max_tokens: int, layout: Layout, *, at_least: int = 0
) -> list[list[Rendered]]:
    """The conversations of each forward pass: kin together in a packed one, of like length in a padded one.

    Args:
        rows: The conversations.
        max_tokens: As for `reference_turn_logps`.
        layout: As for `reference_turn_logps`.
        at_least: The number of passes at least, of which some may repeat conversations: engines that shard
            a model run it on all processes at the same time.
    """
    if not rows:
        return []
    passes = _passes(rows, max_tokens, layout)
    return passes + [[rows[0]]] * (at_least - len(passes))


def _passes(rows: Sequence[Rendered], max_tokens: int, layout: Layout) -> list[list[Rendered]]:
    if layout != "padded":
        return fill_passes(rows, lambda row: (row,), max_tokens=max_tokens, share=layout == "forest")
    passes: list[list[Rendered]] = []
    for row in sorted(rows, key=lambda row: -row.scored_length):
        if not passes or (len(passes[-1]) + 1) * passes[-1][0].scored_length > max_tokens:
            passes.append([])
        passes[-1].append(row)
    return passes


def _compute(
    model: nn.Module, rows: Sequence[Rendered], layout: Layout, head: Head
) -> dict[Rendered, torch.Tensor]:
    device = next(model.parameters()).device
    sums = turn_logps(model, lay_out(rows, layout).to(device), head=head).to("cpu", torch.float32)
    return {row: sums[i, : row.num_turns].clone() for i, row in enumerate(rows)}


def _finite(sums: Mapping[Rendered, torch.Tensor]) -> dict[Rendered, torch.Tensor]:
    return {row: values for row, values in sums.items() if bool(torch.isfinite(values).all())}
