"""The reference model's log-probabilities per turn: computed once, and looked up where they are kept."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import torch

from multiturn.models.attention import forest_attention
from multiturn.models.logps import turn_logps
from multiturn.models.modes import evaluating
from multiturn.models.reference_cache import precision_of
from multiturn.tokens.batches import lay_out
from multiturn.tokens.packing import fill_passes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn

    from multiturn.models.logps import Head
    from multiturn.models.reference_cache import ReferenceCache
    from multiturn.tokens.batches import Layout
    from multiturn.tokens.rendered import Rendered

__all__ = ["reference_passes", "reference_turn_logps"]

_SAVE_EVERY_SECONDS = 15.0


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
