"""Scoring tokens at a model's output head, inside the model's own forward pass.

The head's forward is replaced for one pass by one that picks the hidden states that predict a scored token
and returns log-probabilities instead of logits. The pass goes through the wrapped model as ever, so that
engines that gather weights on the way (FSDP, ZeRO) find everything where they expect it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from multiturn.models.modes import evaluating
from multiturn.models.token_logps import HeadShape, chunk_rows, token_logps
from multiturn.models.wrapped import bare_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["fused_obstacle", "fused_token_logps"]

_PROBE: Final = (-40.0, -1.5, 0.0, 0.25, 3.0)
"""Stand-ins for what a head returns: they show what a model does to it."""

_NO_CAP: Final = 2.0**60
"""A soft cap that leaves log-probabilities exactly as they are; not every model can do without one."""

_verdicts: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()
"""Whether a model is known to do to its logits what its settings say, and nothing else."""


def fused_token_logps(
    model: nn.Module,
    inputs: Mapping[str, Any],
    sources: Tensor,
    targets: Tensor,
    *,
    rows: int | None = None,
    passes: int = 1,
) -> Tensor:
    """The log-probabilities of tokens, of which only the places that predict them meet the output head.

    Args:
        model: A causal language model that `fused_obstacle` finds nothing against; wrappers are welcome.
        inputs: What its forward is called with.
        sources: ``[U]`` int64, places in the flattened ``[B * L]`` inputs whose hidden states predict.
        targets: ``[U]`` int64, the token ids that they predict.
        rows: Rows of logits at once; None takes what fits into a fixed memory.
        passes: Forward passes before the backward pass, which share the memory for logits that are kept.

    Returns:
        ``[U]`` nats, float32 (float64 for a float64 model), differentiable.
    """
    bare: Any = bare_model(model)
    head = bare.get_output_embeddings()
    shape = _head_shape(bare)
    at_once = chunk_rows(head.out_features) if rows is None else rows

    def score(hidden: Tensor) -> Tensor:
        states = hidden.reshape(-1, hidden.shape[-1]).index_select(0, sources)
        logps = token_logps(
            states, head.weight, head.bias, targets, shape=shape, rows=at_once, kept=at_once // passes
        )
        # A copy: FSDP hooks into what a module returns, and a view can lose the hook.
        return logps.view(1, -1, 1).clone()

    with _replaced_head(bare, head, score):
        output = model(**inputs)
    logps: Tensor = output.logits.reshape(-1)
    return logps


def fused_obstacle(model: nn.Module) -> str | None:
    """Why a model's tokens cannot be scored at its head; None if they can.

    The first call for a model runs it on a few tokens.
    """
    bare: Any = bare_model(model)
    head: Any = bare.get_output_embeddings() if hasattr(bare, "get_output_embeddings") else None
    if not (isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward):
        # Asked every time: an adapter may have come.
        kind = type(head)  # adapters and quantized layers are called Linear, too
        return f"its output head is a {kind.__module__}.{kind.__name__}, not a plain linear layer"
    if not head.weight.is_floating_point():
        return f"the weights of its output head are {head.weight.dtype}, not floating-point numbers"
    if bare not in _verdicts:
        _verdicts[bare] = _does_as_it_says(model, bare, head)
    if not _verdicts[bare]:
        return "it changes its logits after the output head in a way that is not known here"
    return None


def _does_as_it_says(model: nn.Module, bare: Any, head: nn.Linear) -> bool:
    """Whether a model does to its logits what its settings say, and nothing once they are neutral."""
    device = head.weight.device
    probe = torch.tensor(_PROBE, device=device)
    ids = torch.arange(len(_PROBE), device=device).unsqueeze(0) % head.out_features
    shape = _head_shape(bare)
    outputs = []
    for neutral in (True,) if shape == HeadShape() else (True, False):
        # In evaluation mode nothing is drawn at random, so a resumed training sees the same dropout.
        replaced = _replaced_head(bare, head, lambda _: probe.view(1, -1, 1), neutral=neutral)
        with torch.no_grad(), evaluating(model), replaced:
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        outputs.append(output.logits.reshape(-1).to(probe.dtype))
    said = torch.allclose(outputs[-1], shape.apply(probe), rtol=1e-2)  # bfloat16 rounds
    return said and torch.equal(outputs[0], probe)


@contextlib.contextmanager
def _replaced_head(
    bare: Any, head: nn.Module, forward: Callable[[Tensor], Tensor], *, neutral: bool = True
) -> Iterator[None]:
    """Let the head do something else for a while, and nothing be done to what it returns if `neutral`."""
    features = _features(bare) if neutral else []
    own = head.__dict__.get("forward")  # a hook's
    try:
        for holder, name, _, nothing in features:
            setattr(holder, name, nothing)
        head.__dict__["forward"] = forward
        yield
    finally:
        head.__dict__.pop("forward", None)
        if own is not None:
            head.__dict__["forward"] = own
        for holder, name, value, _ in features:
            setattr(holder, name, value)


def _head_shape(bare: Any) -> HeadShape:
    """What a model does to its logits after the head."""
    shape = HeadShape()
    for _, name, value, _ in _features(bare):
        if name == "final_logit_softcapping":
            shape = dataclasses.replace(shape, softcap=float(value))
        else:
            shape = dataclasses.replace(
                shape, scale=1.0 / float(value) if name == "logits_scaling" else float(value)
            )
    return shape


def _features(bare: Any) -> list[tuple[Any, str, Any, float]]:
    """Settings that change logits after the head: holder, name, value, and the value that changes nothing.

    Gemma caps its logits, Granite divides them, Cohere multiplies them.
    """
    text = bare.config.get_text_config()
    holders = [
        (text, "final_logit_softcapping", _NO_CAP),
        (text, "logits_scaling", 1.0),
        (bare, "logit_scale", 1.0),
    ]
    found = [
        (holder, name, getattr(holder, name, None), neutral)
        for holder, name, neutral in holders
        if not isinstance(getattr(type(holder), name, None), property)  # MiniCPM's, of its hidden states
    ]
    return [feature for feature in found if isinstance(feature[2], int | float)]
