"""What a check has to say."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Finding", "Severity", "note", "ok", "problem", "warning"]

Severity = Literal["ok", "note", "warning", "problem"]
"""As it should be; good to know; may spoil the run; will stop it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        severity: How bad it is.
        what: What was found.
        remedy: What to do; empty where there is nothing to be done.
        check: Which check found it.
        figures: Numbers that it rests on: seconds, bytes, counts, by name.
    """

    severity: Severity
    what: str
    remedy: str = ""
    check: str = ""
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)


def ok(what: str, **figures: float) -> Finding:
    """Something is as it should be."""
    return Finding(severity="ok", what=what, figures=figures)


def note(what: str, **figures: float) -> Finding:
    """Something is good to know."""
    return Finding(severity="note", what=what, figures=figures)


def warning(what: str, remedy: str, **figures: float) -> Finding:
    """Something may spoil the run."""
    return Finding(severity="warning", what=what, remedy=remedy, figures=figures)


def problem(what: str, remedy: str, **figures: float) -> Finding:
    """Something will stop the run."""
    return Finding(severity="problem", what=what, remedy=remedy, figures=figures)
