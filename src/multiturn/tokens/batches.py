"""Conversations as what a model is given, in one of three layouts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from multiturn.tokens.layout import PackedForest, plant
from multiturn.tokens.padded import PaddedBatch, collate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.tokens.rendered import Rendered

__all__ = ["Layout", "lay_out"]

Layout: TypeAlias = Literal["forest", "packed", "padded"]
"""Sharing prefixes, one after another, or as rows padded to the longest."""


def lay_out(rendered: Sequence[Rendered], layout: Layout) -> PaddedBatch | PackedForest:
    """Conversations in the given layout; see `plant` and `collate`.

    Raises:
        ValueError: A conversation cannot be laid out.
    """
    return collate(rendered) if layout == "padded" else plant(rendered, share=layout == "forest")
