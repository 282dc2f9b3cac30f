"""How an action is written into an assistant message, and read out of one.

Replies are untrusted text: reading one never raises, and looks at a bounded part of it only.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Final

from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["FORMATS", "ActionFormat", "action_format"]

_MAX_REPLY: Final = 20_000
"""Characters of a reply that are looked at: its end for ReAct, its beginning for bare actions."""
_MAX_ACTION: Final = 2_000
"""Characters in an action at most; a longer one is cut."""

_ACTION_LINE: Final = re.compile(
    r"^[ \t>*_#`-]*action[ \t*_`]*:(?P<action>.*)$", re.IGNORECASE | re.MULTILINE
)
_WRAPPING: Final = "*`\"'"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ActionFormat:
    """A way of writing actions.

    Attributes:
        name: What configurations call it.
        instructions: What an agent is told about it; may be empty.
        compose: From a thought (may be empty) and an action to the assistant message.
        parse: From an assistant message to the action, None when there is none to be found.
    """

    name: str
    instructions: str
    compose: Callable[[str, str], str]
    parse: Callable[[str], str | None]


def _compose_react(thought: str, action: str) -> str:
    thought = _one_line(thought)
    return f"Thought: {thought}\nAction: {action}" if thought else f"Action: {action}"


def _parse_react(reply: str) -> str | None:
    """The last ``Action:`` line that says something; case, indentation and Markdown emphasis are forgiven."""
    found = None
    for match in _ACTION_LINE.finditer(reply[-_MAX_REPLY:]):
        action = _bare(match["action"])
        found = action or found
    return found


def _compose_action(_thought: str, action: str) -> str:
    return action


def _parse_action(reply: str) -> str | None:
    """The first line that is not blank."""
    for line in reply[:_MAX_REPLY].splitlines():
        action = _bare(line)
        if action:
            return action
    return None


def _bare(text: str) -> str:
    """An action without what surrounds it: white space, emphasis, quotation marks around the whole of it."""
    text = text.strip()[:_MAX_ACTION].strip()
    while len(text) >= 2 and text[0] == text[-1] and text[0] in _WRAPPING:
        text = text[1:-1].strip()
    # What is left of **Action:** go** and the like.
    return text.strip("*` \t")


def _one_line(text: str) -> str:
    return " ".join(text.split())


FORMATS: Final[Mapping[str, ActionFormat]] = {
    "react": ActionFormat(
        name="react",
        instructions=(
            "Answer every observation with one thought and one action, in exactly this form:\n"
            "Thought: <why>\nAction: <the action>"
        ),
        compose=_compose_react,
        parse=_parse_react,
    ),
    "action": ActionFormat(
        name="action",
        instructions="Answer every observation with one action and nothing else.",
        compose=_compose_action,
        parse=_parse_action,
    ),
}
"""The formats by name."""


def action_format(name: str) -> ActionFormat:
    """A format by its name.

    Raises:
        ConfigError: There is no such format.
    """
    try:
        return FORMATS[name]
    except KeyError:
        raise ConfigError(f"there is no action format {name!r}; use one of {', '.join(FORMATS)}") from None
