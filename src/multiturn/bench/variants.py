"""What is measured against what."""

from __future__ import annotations

import dataclasses
import importlib.util
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["OURS", "VARIANTS", "Variant", "installed_variants"]

OURS: Final = "multiturn"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A way to train.

    Attributes:
        engine: This project's trainer, the classic computation in it, or TRL's trainer.
        meaning: What it is, for tables.
        settings: Settings of the engine's configuration.
        budget: Whether passes are filled to the workload's token budget; otherwise they hold
            `pairs_per_pass` pairs.
        pairs_per_pass: Pairs of a pass; None takes the workload's.
    """

    engine: Literal["multiturn", "classic", "trl"]
    meaning: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    budget: bool = False
    pairs_per_pass: int | None = None


def _ours(meaning: str, **settings: Any) -> Variant:
    return Variant(
        engine="multiturn",
        meaning=meaning,
        settings={"layout": "forest", "head": "fused", "reference": "cached", **settings},
        budget=True,
    )


VARIANTS: Final[Mapping[str, Variant]] = MappingProxyType(
    {
        OURS: _ours("shared prefixes, packed, log-probabilities without logits, cached reference"),
        "no sharing": _ours("the same, but every sequence stands alone", layout="packed"),
        "no packing": _ours("padded rows of like length, so nothing is shared either", layout="padded"),
        "no fused head": _ours("the model's own logits at the scored places", head="logits"),
        "no cache": _ours("the reference runs at every step", reference="live"),
        "checkpointing": _ours("activations are computed again, not kept", gradient_checkpointing=True),
        "classic": Variant(
            engine="classic",
            meaning="padded rows, live reference, logits of every place",
            settings={"layout": "padded", "reference": "live"},
        ),
        "TRL": Variant(engine="trl", meaning="TRL's DPOTrainer: fused head, precomputed reference"),
        "TRL, 1 pair": Variant(
            engine="trl", meaning="the same, one pair a pass: less padding", pairs_per_pass=1
        ),
    }
)
"""Every variant by name; the first is what the others are compared with."""


def installed_variants() -> list[str]:
    """The variants that can run here: TRL's only where it is installed."""
    there = all(importlib.util.find_spec(package) is not None for package in ("trl", "datasets"))
    return [name for name, variant in VARIANTS.items() if there or variant.engine != "trl"]
