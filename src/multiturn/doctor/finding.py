"""What a check has to say."""

from __future__ import annotations

import dataclasses
from typing import Literal

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
    """

    severity: Severity
    what: str
    remedy: str = ""


def ok(what: str) -> Finding:
    """Something is as it should be."""
    return Finding(severity="ok", what=what)


def note(what: str) -> Finding:
    """Something is good to know."""
    return Finding(severity="note", what=what)


def warning(what: str, remedy: str) -> Finding:
    """Something may spoil the run."""
    return Finding(severity="warning", what=what, remedy=remedy)


def problem(what: str, remedy: str) -> Finding:
    """Something will stop the run."""
    return Finding(severity="problem", what=what, remedy=remedy)
