"""How episodes are played, whoever plays them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Literal

from multiturn.agents.formats import FORMATS, ActionFormat
from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from multiturn.trajectory import Json

__all__ = ["CollectSettings"]

_ENVIRONMENT: Final = "environment"
_NONE: Final = "none"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CollectSettings:
    """How episodes are played.

    Attributes:
        format: How actions are written.
        instructions: What stands before the first observation: ``environment`` (the environment's
            instructions and the format's), ``none`` (nothing at all), or a text of one's own.
        instructions_role: Whether that is a system message or the beginning of the first user message, for
            chat templates that know no system message.
        max_turns: Ends an episode after so many turns; None takes the environment's own limit.
        max_unusable: An episode ends as `Outcome.INVALID` after so many replies in a row from which no action
            can be read. An action that the environment does not understand is not one of them.
        fault_retries: How often an episode is begun again after its environment crashed or hung.
        seed: Seeds the agent's sampling.

    Raises:
        ConfigError: A number makes no sense.
    """

    format: ActionFormat = FORMATS["react"]
    instructions: str = _ENVIRONMENT
    instructions_role: Literal["system", "user"] = "system"
    max_turns: int | None = None
    max_unusable: int = 3
    fault_retries: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.max_turns is not None and self.max_turns < 1:
            raise ConfigError(f"max_turns is {self.max_turns}; it must be at least 1")
        if self.max_unusable < 1:
            raise ConfigError(f"max_unusable is {self.max_unusable}; it must be at least 1")
        if self.fault_retries < 0:
            raise ConfigError(f"fault_retries is {self.fault_retries}; it must not be negative")
        if self.instructions_role not in ("system", "user"):
            raise ConfigError(f"instructions_role is {self.instructions_role!r}; use system or user")

    def preamble(self, environment_instructions: str) -> str:
        """What the agent is told before its first observation; may be empty."""
        if self.instructions == _NONE:
            return ""
        if self.instructions != _ENVIRONMENT:
            return self.instructions
        parts = (environment_instructions.strip(), self.format.instructions)
        return "\n\n".join(part for part in parts if part)

    def to_json(self, preamble: str) -> dict[str, Json]:
        """What decides how an episode goes, for the store's header.

        Args:
            preamble: The instructions as they were given.
        """
        return {
            "format": self.format.name,
            "instructions": preamble,
            "instructions_role": self.instructions_role,
            "max_turns": self.max_turns,
            "max_unusable": self.max_unusable,
            "seed": self.seed,
        }
