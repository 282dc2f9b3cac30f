"""Getting an environment ready: are its files, packages and programs there, and do they work?

Each environment that needs something has a function that looks, builds what can be built beforehand, and
answers with findings. An environment of your own gets one by an attribute ``prepare`` of its factory: a
function of the folder with its data (or None) that returns findings.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING, Any, Final

from multiturn.envs import registry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Finding", "prepare"]

_BUILT_IN: Final[Mapping[str, str]] = {
    "alfworld": "multiturn.envs.alfred.prepare:prepare_alfworld",
    "scienceworld": "multiturn.envs.scienceworld.prepare:prepare_scienceworld",
    "webshop": "multiturn.envs.webshop.prepare:prepare_webshop",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: What was found.
        ok: Whether it is as it should be.
        remedy: What to do; ``""`` where there is nothing to be done.
    """

    what: str
    ok: bool
    remedy: str = ""


def prepare(name: str, path: Path | str | None = None) -> list[Finding]:
    """Get an environment ready.

    Args:
        name: A registered name, or ``module:factory``.
        path: The folder with its data, for environments that need some; None for where they look by default.

    Returns:
        What was looked at; empty for an environment that needs nothing.

    Raises:
        ConfigError: There is no such environment.
    """
    if name in _BUILT_IN:
        module, _, function = _BUILT_IN[name].partition(":")
        own: Any = getattr(importlib.import_module(module), function)
    else:
        own = getattr(registry.find(name).factory(), "prepare", None)
        if own is None:
            return []
    found: Sequence[Finding] = own(path)
    return list(found)
