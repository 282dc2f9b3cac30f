"""Preference optimization of language agents over multi-turn trajectories."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from multiturn.trajectory import Message, Outcome, PreferencePair, Trajectory, Turn

if TYPE_CHECKING:
    from multiturn.envs.check import check_env
    from multiturn.envs.registry import make, register
    from multiturn.training import DMPOConfig, DMPOTrainer, SFTConfig, SFTTrainer

__all__ = [
    "DMPOConfig",
    "DMPOTrainer",
    "Message",
    "Outcome",
    "PreferencePair",
    "SFTConfig",
    "SFTTrainer",
    "Trajectory",
    "Turn",
    "check_env",
    "make",
    "register",
]

__version__ = "0.1.0"

# Names whose modules import torch and the like: they are loaded when they are first asked for.
_LAZY: Final = {
    "DMPOConfig": "multiturn.training",
    "DMPOTrainer": "multiturn.training",
    "SFTConfig": "multiturn.training",
    "SFTTrainer": "multiturn.training",
    "check_env": "multiturn.envs.check",
    "make": "multiturn.envs.registry",
    "register": "multiturn.envs.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
