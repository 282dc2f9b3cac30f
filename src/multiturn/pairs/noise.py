"""What makes a trajectory "noisy": repeated actions or meaningless text.

The DMPO paper trains on "noisy" pairs (dispreferred trajectories with repeated actions or meaningless words
are kept) and on "clean" ones (they are left out), but gives no rule. This is ours; a trajectory is noisy when
at least one of these holds, and every threshold is a field of `NoiseRule`:

``repeated_action``
    The same action got the same observation 3 times in a row.
``repeated_cycle``
    A block of 2 to 8 turns (actions and observations) came 3 times in a row.
``no_words``
    A turn holds no letter and no digit at all (and no tool call).
``repeated_text``
    Within a turn, a piece of at most 64 characters came at least 4 times in a row, over at least 64
    characters.
``unprintable_text``
    More than 10% of a turn's characters are control characters (other than newline, tab and carriage
    return), unassigned, private or lone surrogate code points, or U+FFFD.

Two actions are the same when their text agrees after the last ``Action:`` at the start of a line (the whole
turn where there is none), apart from white space and case, and their tool calls agree. Two observations are
the same when their texts are. The last turn often has no observation; there the action alone decides.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import unicodedata
from typing import TYPE_CHECKING, Final

import numpy as np

from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.trajectory import Message, Trajectory, Turn

__all__ = ["NoiseRule", "action_text", "noise_reasons"]

_ACTION_LABEL: Final = re.compile(r"^[ \t]*action[ \t]*:", re.IGNORECASE | re.MULTILINE)
_UNPRINTABLE: Final = frozenset({"Cc", "Cn", "Co", "Cs"})
_LAYOUT: Final = frozenset("\n\t\r")
_NO_LAYOUT: Final = {ord(character): " " for character in _LAYOUT}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NoiseRule:
    """The thresholds of the rule in the module's docstring.

    Attributes:
        repeats: So many equal turns, or equal blocks of turns, in a row are noise; at least 2.
        max_cycle: Turns in the longest block that counts as a cycle.
        text_span: Characters that a repetition within a turn must cover.
        text_repeats: So many equal pieces in a row are a repetition; at least 2.
        text_piece: Characters in the longest piece that is looked for.
        unprintable: The share of unprintable characters of a turn above which it is noise, in [0, 1].
    """

    repeats: int = 3
    max_cycle: int = 8
    text_span: int = 64
    text_repeats: int = 4
    text_piece: int = 64
    unprintable: float = 0.1

    def __post_init__(self) -> None:
        """Refuse thresholds under which everything would be noise.

        Raises:
            ConfigError: A threshold is out of its range.
        """
        if self.repeats < 2 or self.text_repeats < 2:
            raise ConfigError("repeats and text_repeats must be at least 2: once is no repetition")
        if min(self.max_cycle, self.text_span, self.text_piece) < 1:
            raise ConfigError("max_cycle, text_span and text_piece must be at least 1")
        if not 0.0 <= self.unprintable <= 1.0:
            raise ConfigError(f"unprintable is {self.unprintable}; it is a share, in [0, 1]")


_DEFAULT_RULE: Final = NoiseRule()


def noise_reasons(trajectory: Trajectory, rule: NoiseRule = _DEFAULT_RULE) -> tuple[str, ...]:
    """Why a trajectory counts as noisy; empty when it is clean.

    Args:
        trajectory: The episode to judge.
        rule: The thresholds.

    Returns:
        The names of the reasons in the module's docstring that hold, in the order given there.
    """
    turns = trajectory.turns
    steps = [_step(turn) for turn in turns]
    periods = [p for p in range(1, rule.max_cycle + 1) if _blocks_in_a_row(steps, p) >= rule.repeats]
    reasons = {
        "repeated_action": 1 in periods,
        # A repeated action is a cycle of every length; only a block with a change in it is a cycle apart.
        "repeated_cycle": any(period > 1 for period in periods) and 1 not in periods,
        "no_words": any(_wordless(turn.message) for turn in turns),
        "repeated_text": any(_repeats_itself(turn.message.content, rule) for turn in turns),
        "unprintable_text": any(_unprintable_share(t.message.content) > rule.unprintable for t in turns),
    }
    return tuple(reason for reason, holds in reasons.items() if holds)


def action_text(message: Message) -> str:
    """What of an assistant message counts as its action, in a form fit for comparison.

    Args:
        message: An assistant message.

    Returns:
        The text after the last ``Action:`` that starts a line, or the whole text, in lower case with single
        blanks, followed by the tool calls as JSON where there are any.
    """
    text = message.content
    labels = list(_ACTION_LABEL.finditer(text))
    if labels:
        text = text[labels[-1].end() :]
    action = " ".join(text.casefold().split())
    if message.tool_calls:
        calls = [
            {key: value for key, value in call.items() if key != "id"}  # ids differ from call to call
            for call in message.tool_calls
        ]
        action = f"{action}\n{json.dumps(calls, sort_keys=True, default=str)}"
    return action


def _step(turn: Turn) -> tuple[str, str | None]:
    observation = "\n".join(message.content for message in turn.observation) if turn.observation else None
    return action_text(turn.message), observation


def _blocks_in_a_row(steps: Sequence[tuple[str, str | None]], period: int) -> int:
    """How often some block of ``period`` steps comes in direct succession, at most (1 when never again)."""
    longest = run = 0
    for earlier, later in zip(steps, steps[period:], strict=False):
        run = run + 1 if _same_step(earlier, later) else 0
        longest = max(longest, run)
    return longest // period + 1


def _same_step(a: tuple[str, str | None], b: tuple[str, str | None]) -> bool:
    return a[0] == b[0] and (a[1] is None or b[1] is None or a[1] == b[1])


def _wordless(message: Message) -> bool:
    return not message.tool_calls and not any(character.isalnum() for character in message.content)


def _repeats_itself(text: str, rule: NoiseRule) -> bool:
    """Whether some piece comes so often in a row that the whole repetition is long enough."""
    if len(text) < rule.text_span or not _may_repeat(text, rule):
        return False
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    for period in range(1, min(rule.text_piece, codes.size - 1) + 1):
        least = max(rule.text_span, rule.text_repeats * period)
        differs = codes[period:] != codes[:-period]
        if differs.size - np.count_nonzero(differs) < least - period:  # too few equal ones, in a row or not
            continue
        edges = np.concatenate([[-1], np.flatnonzero(differs), [differs.size]])
        if int(np.diff(edges).max()) - 1 + period >= least:
            return True
    return False


def _may_repeat(text: str, rule: NoiseRule) -> bool:
    """Whether some piece of text comes again soon enough; where none does, nothing needs a closer look.

    Pieces of equal length are laid side by side over the text. A repetition of period p covers at least
    max(text_span, text_repeats * p) characters; if that is at least p plus nearly two such pieces, one of
    them lies in it so that it comes again p characters later.
    """
    size = _piece_size(rule.text_span, rule.text_repeats, rule.text_piece)
    return any(
        text.find(text[at : at + size], at + 1, at + size + rule.text_piece) >= 0
        for at in range(0, len(text) - size + 1, size)
    )


@functools.lru_cache
def _piece_size(span: int, repeats: int, longest: int) -> int:
    spare = min(max(span, repeats * period) - period for period in range(1, longest + 1))
    return max(1, (spare + 1) // 2)


def _unprintable_share(text: str) -> float:
    if "\ufffd" not in text and text.translate(_NO_LAYOUT).isprintable():  # so is no text at all
        return 0.0
    bad = sum(c == "\ufffd" or (unicodedata.category(c) in _UNPRINTABLE and c not in _LAYOUT) for c in text)
    return bad / len(text)
