"""From logits to tokens, every row with its own distribution and its own random numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from multiturn.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["sample"]

_FEW: Final = 512
"""The nucleus is looked for among so many of the likeliest tokens before the whole vocabulary is sorted."""


def sample(
    logits: torch.Tensor, *, temperature: float, top_p: float, generators: Sequence[torch.Generator]
) -> list[int]:
    """Draw one token for each row.

    A row's token is the first whose cumulative probability exceeds one uniform number of the row's own
    generator, so a row's draws depend on nothing but its logits and its seed.

    Args:
        logits: ``[rows, vocabulary]``.
        temperature: Divides the logits; 0 takes the likeliest token (the first of equals).
        top_p: Draw from the smallest set of likeliest tokens whose probabilities add up to this, in (0, 1].
        generators: One CPU generator a row; advanced by one number a row unless `temperature` is 0.

    Returns:
        The token ids.

    Raises:
        DataError: The logits are not numbers.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    top = logits.amax(dim=-1, keepdim=True)
    if not bool(top.isfinite().all()):
        raise DataError(
            "the model answers with logits that are not finite numbers; its weights are damaged, "
            "or its training diverged: lower the learning rate and train again"
        )
    if temperature == 0.0:
        return [int(token) for token in logits.argmax(dim=-1)]
    probabilities = ((logits - top) / temperature).softmax(dim=-1)
    if top_p < 1.0:
        probabilities = _nucleus(probabilities, top_p)
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    draws = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in generators])
    draws = draws.to(cumulative.device) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, draws, right=True)[:, 0]
    # A draw that rounding puts on the very end belongs to the last token that is possible at all.
    return [int(token) for token in tokens.minimum(_last_possible(probabilities))]


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """The probabilities with everything outside the nucleus at 0 (not normalized again)."""
    few = min(_FEW, probabilities.shape[-1])
    values, tokens = probabilities.topk(few, dim=-1)
    wide = values.sum(dim=-1) < top_p
    kept = _within(probabilities, values, tokens, top_p)
    if bool(wide.any()):
        # These rows only: sorting puts equals in another order than topk, and a row must not notice its
        # neighbours.
        values, tokens = probabilities[wide].sort(dim=-1, descending=True, stable=True)
        kept[wide] = _within(probabilities[wide], values, tokens, top_p)
    return kept


def _within(
    probabilities: torch.Tensor, values: torch.Tensor, tokens: torch.Tensor, top_p: float
) -> torch.Tensor:
    """The probabilities ``[rows, vocabulary]`` of each row's nucleus.

    Args:
        probabilities: ``[rows, vocabulary]``.
        values: ``[rows, few]`` each row's largest probabilities, falling; enough of them to reach `top_p`.
        tokens: ``[rows, few]`` whose they are.
        top_p: What the nucleus adds up to.
    """
    # A token is inside when those before it do not reach top_p yet; the likeliest always is.
    before = values.cumsum(dim=-1) - values
    kept = values.masked_fill(before >= top_p, 0.0)
    return torch.zeros_like(probabilities).scatter_(-1, tokens, kept)


def _last_possible(probabilities: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(probabilities.shape[-1], device=probabilities.device)
    return torch.where(probabilities > 0, positions, 0).amax(dim=-1)
