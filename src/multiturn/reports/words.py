"""Numbers and names as reports write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "interval_text",
    "label",
    "number",
    "oracle_note",
    "percent",
    "percent_interval",
    "signed",
    "signed_interval",
]

MINUS: Final = "\N{MINUS SIGN}"
_ACRONYMS: Final = frozenset({"sft", "dpo", "dmpo", "ipo", "rft", "eto", "rpo"})


def label(name: str) -> str:
    """A method's name as people write it: known acronyms in capitals (``SFT-chosen``), all else as it is."""
    return "-".join(part.upper() if part in _ACRONYMS else part for part in name.split("-"))


def number(value: float, digits: int = 3) -> str:
    """A number with a true minus sign, never a negative zero."""
    text = f"{value:.{digits}f}"
    if float(text) == 0.0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """A difference: with its sign, unless it rounds to zero."""
    text = number(value, digits)
    return f"+{text}" if value > 0 and float(text) != 0.0 else text


def percent(value: float) -> str:
    """A share as whole per cents; more exactly where that would say 0% or 100% and not mean it."""
    rough = f"{100 * value:.0f}%"
    if value in {0.0, 1.0} or rough not in {"0%", "100%"}:
        return rough
    fine = f"{100 * value:.1f}%"
    return {"0.0%": "<0.1%", "100.0%": ">99.9%"}.get(fine, fine)


def interval_text(interval: Mapping[str, Any], digits: int = 3) -> str:
    """``[0.431, 0.592]``."""
    return f"[{number(interval['low'], digits)}, {number(interval['high'], digits)}]"


def percent_interval(interval: Mapping[str, Any]) -> str:
    """``[43%, 59%]``."""
    return f"[{percent(interval['low'])}, {percent(interval['high'])}]"


def oracle_note(name: str, samples: Mapping[str, Any]) -> str:
    """What must be said of a method of which only each task's best sample counts.

    Args:
        name: The method.
        samples: The ``samples`` of its figures in a summary.
    """
    reward = samples["reward"]
    return (
        f"{label(name)} is an oracle: of {samples['per_task']} samples a task the best counts, by the test's "
        f"own reward. A sample earns {number(reward['mean'])} {interval_text(reward)} on average."
    )


def signed_interval(interval: Mapping[str, Any], digits: int = 2) -> str:
    """``+0.14 [0.07, 0.21]``; with more digits where an end would round to zero without being it."""
    ends = [interval[key] for key in ("mean", "low", "high")]
    while digits < 4 and any(end != 0.0 and float(f"{end:.{digits}f}") == 0.0 for end in ends):
        digits += 1
    return f"{signed(interval['mean'], digits)} {interval_text(interval, digits)}"
