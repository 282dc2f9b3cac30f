"""The folder in which a reference's log-probabilities per turn are kept.

What is kept does not depend on gamma, beta or the objective, so a sweep over them never runs the reference
again. An entry is found by the conversation's token ids and turns, under the reference's weights,
architecture, precision and attention implementation.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from multiturn.errors import ConfigError
from multiturn.models.attention import FOREST_ATTENTION
from multiturn.models.policy import is_adapter_parameter, weights_fingerprint
from multiturn.models.wrapped import bare_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from multiturn.tokens.batches import Layout
    from multiturn.tokens.rendered import Rendered

__all__ = ["ReferenceCache", "architecture_of", "conversation_key", "precision_of"]

_FORMAT = "multiturn-reference-3"
_BESIDE_THE_POINT = frozenset(
    {
        "_name_or_path",
        "transformers_version",
        "architectures",
        "dtype",
        "torch_dtype",
        "use_cache",
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
        "id2label",
        "label2id",
    }
)
"""What a model's configuration says that changes no log-probability, or that `precision_of` says already."""


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


def architecture_of(model: nn.Module) -> str:
    """A hash of what a model's configuration says beside its weights: the scaling of positions and the like.

    The same weights compute something else under another one.
    """
    config: Any = bare_model(model).config
    told = json.dumps(_told(config.to_dict()), sort_keys=True, default=_in_words)
    return hashlib.sha256(told.encode()).hexdigest()


def _told(settings: Mapping[Any, Any]) -> dict[str, Any]:
    """A configuration without what is beside the point, in its parts as well."""
    return {
        str(name): _told(value) if isinstance(value, dict) else value
        for name, value in settings.items()
        if name not in _BESIDE_THE_POINT
    }


def _in_words(value: object) -> object:
    """What JSON has no form for, the same in every process: no order of a set, and no address in memory."""
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    return str(value) if type(value).__str__ is not object.__str__ else type(value).__qualname__


class ReferenceCache:
    """Per-turn log-probability sums on disk, for one reference.

    A folder of small safetensors files, each written beside its place, flushed and renamed, so a killed
    process leaves whole files only. A file that is damaged, or does not match its checksum, is removed,
    counted in `corrupt_files`, and its entries are computed again. Several processes may share a folder: each
    sees what was there when it opened the cache, and adds files of its own.

    Args:
        path: The folder of the cache; one folder may serve many references.
        fingerprint: The reference's `weights_fingerprint`.
        architecture: Its `architecture_of`.
        precision: Its `precision_of`.
        attention: Its attention implementation.

    Attributes:
        precision: As given.
        corrupt_files: How many files were unusable and have been removed.

    Raises:
        ConfigError: The folder cannot be made, or something in it cannot be read.
    """

    def __init__(
        self,
        path: Path | str,
        fingerprint: str,
        *,
        architecture: str = "",
        precision: str = "float32",
        attention: str = "sdpa",
    ) -> None:
        identity = f"{_FORMAT}\n{fingerprint}\n{architecture}\n{precision}\n{attention}"
        self._reference = hashlib.sha256(identity.encode()).hexdigest()[:32]
        self._folder = Path(path) / self._reference
        self._entries: dict[str, torch.Tensor] = {}
        self.precision = precision
        self.corrupt_files = 0
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for file in sorted(self._folder.glob("*.safetensors")):
                self._read(file)
        except OSError as error:
            raise ConfigError(
                f"the reference cache {path} cannot be used ({error}); check the folder"
            ) from error

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
            ConfigError: The folder cannot be made, or something in it cannot be read.
        """
        config: Any = bare_model(model).config
        own = str(getattr(config, "_attn_implementation", None))
        return cls(
            path,
            fingerprint or weights_fingerprint(model, adapter=adapter),
            architecture=architecture_of(model),
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
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(self._folder / f"{name}.safetensors")
        finally:
            partial.unlink(missing_ok=True)  # a disk may be full
        _flush_folder(self._folder)
        self._entries |= rows

    def _read(self, file: Path) -> None:
        try:
            with safe_open(str(file), framework="pt") as opened:
                metadata = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in ("keys", "counts", "sums")}
        except FileNotFoundError:  # Another process found it corrupt first.
            return
        except (SafetensorError, ValueError):
            metadata, tensors = {}, {}
        if metadata.get("format") != _FORMAT or metadata.get("sha256") != _checksum(tensors):
            self.corrupt_files += 1
            file.unlink(missing_ok=True)
            return
        keys = (bytes(key).hex() for key in tensors["keys"].numpy())
        self._entries |= dict(zip(keys, tensors["sums"].split(tensors["counts"].tolist()), strict=True))


def _flush_folder(folder: Path) -> None:
    """Make the name of a new file last, where the system can."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)} ".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
