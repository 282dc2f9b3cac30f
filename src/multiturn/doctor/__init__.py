"""What may go wrong in a run, found out before it is begun."""

from __future__ import annotations

from multiturn.doctor.checkup import examine
from multiturn.doctor.finding import Finding, Severity

__all__ = ["Finding", "Severity", "examine"]
