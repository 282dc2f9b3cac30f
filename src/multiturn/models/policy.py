"""A model with its tokenizer: what agents act with and trainers train."""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from multiturn.cache import replace_folder
from multiturn.files import written
from multiturn.models.quantized import merged
from multiturn.models.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = [
    "CARD",
    "Policy",
    "Tokenizer",
    "as_trained",
    "is_adapter_parameter",
    "save_policy",
    "weights_fingerprint",
]

CARD: Final = "README.md"
"""The file beside a model's weights that says what it is."""

Tokenizer = PreTrainedTokenizerBase

# What wrappers put into a parameter's name: DDP, torch.compile, PEFT.
_WRAPPING = re.compile(
    r"^(module\.|_orig_mod\.)*(base_model\.model\.)?|\.(base_layer|original_module|token_adapter)(?=\.)"
)
# PEFT names the parameters of each kind of adapter by a prefix; VeRA's frozen part and AdaLoRA's ranks have
# others.
_PREFIXES = sorted({*PEFT_TYPE_TO_PREFIX_MAPPING.values(), "vera_", "ranknum."})
_ADAPTER = re.compile(rf"\.({'|'.join(map(re.escape, _PREFIXES))}|modules_to_save\.|trainable_tokens_)")


class Policy:
    """A causal language model with its tokenizer.

    Args:
        model: The model, possibly with an adapter.
        tokenizer: Its tokenizer.
        name: What reports call it.
        fingerprint: The fingerprint of its weights where it is known; otherwise it is computed when needed.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
        name: What reports call it.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        fingerprint: str | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> str:
        """A hash of the weights as they were when it was first asked for; see `weights_fingerprint`."""
        if self._fingerprint is None:
            self._fingerprint = weights_fingerprint(self.model)
        return self._fingerprint

    def weights_changed(self) -> None:
        """Forget the fingerprint, because the weights were trained."""
        self._fingerprint = None

    def __repr__(self) -> str:
        return f"Policy({self.name!r}, {type(self.model).__name__})"


def weights_fingerprint(model: torch.nn.Module, *, adapter: bool = True) -> str:
    """A hash of a model's actual weights.

    SHA-256 over the names, shapes, dtypes and bytes of all parameters and saved buffers, and of what
    quantized weights need beside their bits (scales, code books). Tied weights count once. The names are
    those of the bare model, so wrapping a model changes nothing. 135M parameters in float32 take about a
    second on one core, and parameters are hashed on several.

    Args:
        model: The model.
        adapter: Whether an adapter's parameters count. Without them the result is the bare model's.

    Returns:
        32 hexadecimal digits.
    """
    saved = model.state_dict(keep_vars=True)
    tensors: dict[str, torch.Tensor] = dict(model.named_parameters())
    # Quantized weights keep their scales beside them: "q_proj.weight.absmax" belongs to "q_proj.weight".
    scales = {name: tensor for name, tensor in saved.items() if _owner(name) in tensors}
    tensors |= {name: buffer for name, buffer in model.named_buffers() if name in saved} | scales
    chosen = {
        _WRAPPING.sub("", name): tensor
        for name, tensor in tensors.items()
        if adapter or not is_adapter_parameter(name)
    }
    # hashlib lets go of the interpreter lock, so threads do run side by side.
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        digests = pool.map(_digest, chosen.values())
        lines = sorted(f"{name} {digest}" for name, digest in zip(chosen, digests, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def _owner(name: str) -> str | None:
    """The weight that an entry of a state dictionary belongs to, without being it."""
    owner, dot, _ = name.partition(".weight.")
    return f"{owner}.weight" if dot else None


def is_adapter_parameter(name: str) -> bool:
    """Whether a parameter of this name belongs to a PEFT adapter rather than to the model."""
    return _ADAPTER.search(name) is not None


def _digest(tensor: torch.Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_policy(
    policy: Policy,
    folder: Path | str,
    *,
    chat_template: str | None = None,
    stop_ids: Collection[int] = (),
    card: str | None = None,
) -> Path:
    """Save a policy so that plain transformers can load it, all or nothing.

    An adapter is merged into a copy of the model, which for that moment takes the model's memory once more.

    Args:
        policy: The policy.
        folder: Where to; a folder that is there is replaced.
        chat_template: Jinja text that becomes the saved tokenizer's own template: the one the policy was
            trained with. None keeps the tokenizer's.
        stop_ids: Token ids that end a turn under that template. The saved generation settings stop at them,
            too.
        card: The text of the model's card; None writes none.

    Returns:
        The folder as a path.

    Raises:
        OSError: The folder cannot be written.
    """
    folder = Path(folder)
    model: Any = policy.model
    if isinstance(model, PeftModel):
        model = merged(copy.deepcopy(model))

    def build(partial: Path) -> None:
        with quiet(), as_trained(model, policy.tokenizer, chat_template=chat_template, stop_ids=stop_ids):
            model.save_pretrained(partial)
            policy.tokenizer.save_pretrained(partial)
        if card is not None:
            (partial / CARD).write_text(card, encoding="utf-8")

    with written(folder):
        replace_folder(folder, build)
    return folder


@contextlib.contextmanager
def as_trained(
    model: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    chat_template: str | None = None,
    stop_ids: Collection[int] = (),
) -> Iterator[None]:
    """Give a tokenizer the chat template of a training for a while, and the model what stops its turns.

    Args:
        model: The model, possibly with an adapter.
        tokenizer: Its tokenizer, if it is to be saved.
        chat_template: Jinja text; None keeps the tokenizer's own.
        stop_ids: Token ids that end a turn, beside those that the model's generation settings know.
    """
    own = None if tokenizer is None else tokenizer.chat_template
    generation = getattr(model, "generation_config", None)
    eos = getattr(generation, "eos_token_id", None)
    known = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
    more = sorted(set(stop_ids) - set(known))
    if tokenizer is not None and chat_template is not None:
        tokenizer.chat_template = chat_template
    if generation is not None and more:
        generation.eos_token_id = (known + more)[0] if len(known + more) == 1 else known + more
    try:
        yield
    finally:
        if tokenizer is not None:
            tokenizer.chat_template = own
        if generation is not None:
            generation.eos_token_id = eos
