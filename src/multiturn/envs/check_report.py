"""What the checker of environments found, in numbers and in words."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CheckReport", "Finding"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something the checker found.

    Attributes:
        level: ``error`` for a broken rule of the protocol, ``warning`` for what is merely suspicious.
        where: What was being checked.
        message: What is wrong, and what the protocol wants.
    """

    level: Literal["error", "warning"]
    where: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What the checker found and measured.

    Attributes:
        name: The environment's name.
        fingerprint: The environment's fingerprint.
        findings: What is wrong, errors first; each said once.
        tasks: How many tasks the split has.
        steps: How many steps were taken.
        steps_per_second: How many ``step`` calls the environment answered in a second; 0 without steps.
        resets_per_second: The same for ``reset``.
        memory_growth: By how much this process grew at most, in bytes.
        process_memory: How much main memory the processes that this one has started held at most, in bytes;
            None where the system does not say.
        expert_returns: The returns of the expert's episodes; empty where there is no expert.
        random_returns: The returns of a random agent's; empty where ``Step.info`` has no
            ``admissible_commands``.
    """

    name: str
    fingerprint: str
    findings: tuple[Finding, ...]
    tasks: int
    steps: int
    steps_per_second: float
    resets_per_second: float
    memory_growth: int
    process_memory: int | None
    expert_returns: tuple[float, ...]
    random_returns: tuple[float, ...]

    @property
    def ok(self) -> bool:
        """Whether no rule of the protocol is broken."""
        return not any(finding.level == "error" for finding in self.findings)

    def describe(self) -> str:
        """The report as plain text."""
        speed = f"{self.steps_per_second:,.0f} steps/s, {self.resets_per_second:,.0f} resets/s"
        not_played = "not played; Step.info has no admissible_commands"
        lines = [
            f"{self.name or 'environment'}: {'keeps' if self.ok else 'breaks'} the protocol",
            f"  fingerprint: {self.fingerprint}",
            f"  tasks:       {self.tasks:,}",
            f"  speed:       {speed} (over {self.steps:,} steps)",
            f"  memory:      {_memory(self.memory_growth, self.process_memory)}",
            f"  expert:      {_returns(self.expert_returns, 'none, or it gave up at once')}",
            f"  random:      {_returns(self.random_returns, not_played)}",
        ]
        lines += [f"  {finding.level}: {finding.where}: {finding.message}" for finding in self.findings]
        return "\n".join(lines)


def _returns(values: Sequence[float], nothing: str) -> str:
    if not values:
        return nothing
    return f"mean return {sum(values) / len(values):.3f} over {len(values)} episodes"


def _memory(growth: int, started: int | None) -> str:
    text = f"{growth / 2**20:,.0f} MiB"
    return f"{text}, and {started / 2**20:,.0f} MiB in processes of its own" if started else text
