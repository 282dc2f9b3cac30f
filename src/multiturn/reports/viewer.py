"""The data of the pair viewer: JSON that cannot end its script element, within a size that can be sent."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from multiturn.fields import is_finite
from multiturn.reports.turns import SIDES, pair_turns
from multiturn.reports.untrusted import clip, reveal
from multiturn.reports.words import label

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from multiturn.reports.turns import PairTurns, TurnValue
    from multiturn.trajectory import Message, PreferencePair

__all__ = ["Viewer", "build_viewer", "message_text", "script_json"]

MOST_PAIRS: Final = 200
MOST_BYTES: Final = 4_000_000
"""The data's size; the rest of a report is well under a megabyte."""
_TEXT_LIMITS: Final = (4000, 2000, 1000, 500, 240, 120)
"""Characters of a message: the largest of these with which the data stay within their size."""
_ESCAPES: Final = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}
_SHARE: Final = 0.95
"""Colours are deepest from this quantile of all values on, so that a single one does not bleach the rest."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """What the pair viewer shows.

    Attributes:
        data: The JSON for the script element; empty where there are no pairs.
        shown: Pairs in it.
        scored: Pairs in it whose turns are scored.
        total: Pairs of the run.
        turns: For each method what the turns of its scored pairs are worth.
    """

    data: Markup
    shown: int
    scored: int
    total: int
    turns: dict[str, list[PairTurns]]


def build_viewer(
    pairs: Sequence[PreferencePair],
    scores: Mapping[int, Mapping[str, Any]],
    trainings: Mapping[str, Mapping[str, Any]],
    series: Mapping[str, int],
) -> Viewer:
    """The viewer's data: the scored pairs, then others spread over the run, at most 200 in all.

    Args:
        pairs: The run's pairs.
        scores: For the index of each scored pair what `multiturn.reports.turns.pair_turns` takes, by method.
        trainings: The summary's ``trainings``.
        series: The number of each method's colour.
    """
    scored = [index for index in sorted(scores) if index < len(pairs)][:MOST_PAIRS]
    values = {
        index: {
            name: found
            for name, each in scores[index].items()
            if name in trainings and (found := pair_turns(each)) is not None
        }
        for index in scored
    }
    methods = list(dict.fromkeys(name for found in values.values() for name in found))
    methods.sort(key=list(trainings).index)
    others = [index for index in range(len(pairs)) if index not in values]
    room = MOST_PAIRS - len(scored)
    if len(others) > room:
        others = [others[place * len(others) // room] for place in range(room)]
    shown = [*scored, *others]
    views = [_view(name, trainings[name], series.get(name, 0), values) for name in methods]
    data = Markup("")
    if pairs:
        data, shown = _fitting(pairs, shown, values, views)
    return Viewer(
        data=data,
        shown=len(shown),
        scored=sum(bool(values.get(index)) for index in shown),
        total=len(pairs),
        turns={name: [found[name] for found in values.values() if name in found] for name in methods},
    )


def script_json(record: object) -> Markup:
    """JSON for a script element, without the characters that could end it."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_ESCAPES))  # noqa: S704 - nothing in it can be markup


def message_text(message: Message) -> str:
    """What a message says, its tool calls included."""
    if not message.tool_calls:
        return message.content
    calls = "\n".join(json.dumps(dict(call), default=str) for call in message.tool_calls)
    return f"{message.content}\n{calls}" if message.content else calls


def _fitting(
    pairs: Sequence[PreferencePair],
    shown: list[int],
    values: Mapping[int, Mapping[str, PairTurns]],
    views: Sequence[Mapping[str, Any]],
) -> tuple[Markup, list[int]]:
    """The data, texts cut and at last pairs left out until they are small enough."""
    lengths = {text: len(text) for index in shown for text in _texts_of(pairs[index])}
    # One character is one byte at least: what cannot fit is not even tried.
    hopeful = [limit for limit in _TEXT_LIMITS if sum(min(n, limit) for n in lengths.values()) <= MOST_BYTES]
    limits = hopeful or [_TEXT_LIMITS[-1]]
    while True:
        texts = _Texts(limits[0])
        record = {
            "views": views,
            "reference": _quantile(
                -turn.reference
                for found in values.values()
                for side in SIDES
                for turn in _longest(found, side)
            ),
            "pairs": [_pair(index, pairs[index], texts, values.get(index, {})) for index in shown],
            "texts": texts.shown,
            "more": texts.more,
        }
        data = script_json(record)
        if len(data.encode()) <= MOST_BYTES or len(shown) == 1:
            return data, shown
        if len(limits) > 1:
            limits.pop(0)
        else:
            shown = shown[: max(1, 3 * len(shown) // 4)]


def _texts_of(pair: PreferencePair) -> Iterator[str]:
    for message in (*pair.prompt, *pair.chosen, *pair.rejected):
        yield message_text(message)


class _Texts:
    """Every different text once, cut to a length; messages refer to them by number.

    Args:
        limit: Characters of a text.

    Attributes:
        shown: The texts, fit to be read.
        more: The number of characters cut off, by the number of the text.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._numbers: dict[str, int] = {}
        self.shown: list[str] = []
        self.more: dict[int, int] = {}

    def number(self, text: str) -> int:
        """The number of a text."""
        if text not in self._numbers:
            self._numbers[text] = len(self.shown)
            start, more = clip(text, self._limit)
            if more:
                self.more[len(self.shown)] = more
            self.shown.append(reveal(start))
        return self._numbers[text]


def _view(
    name: str, training: Mapping[str, Any], slot: int, values: Mapping[int, Mapping[str, PairTurns]]
) -> dict[str, Any]:
    """What the viewer needs to know of a method."""
    known = [found[name] for found in values.values() if name in found]
    turns = [turn for pair in known for turn in (*pair.chosen, *pair.rejected)]
    return {
        "name": reveal(name),
        "label": reveal(label(name)),
        "series": slot,
        "beta": training.get("beta"),
        "weighted": any(turn.weight is not None for turn in turns),
        "product": all(_is_product(turn, training.get("beta")) for turn in turns),
        "scale": _quantile(abs(turn.value) for turn in turns),
    }


def _is_product(turn: TurnValue, beta: float | None) -> bool:
    """Whether a turn's value is beta times weight times log-ratio; without a reference it is not."""
    if beta is None or turn.weight is None:
        return False
    product = beta * turn.weight * (turn.policy - turn.reference)
    rounding = 1e-5 * beta * (1.0 - turn.policy - turn.reference)  # all are stored with six digits
    return math.isclose(product, turn.value, rel_tol=1e-3, abs_tol=rounding)


def _pair(index: int, pair: PreferencePair, texts: _Texts, values: Mapping[str, PairTurns]) -> dict[str, Any]:
    record: dict[str, Any] = {
        "n": index + 1,
        "id": texts.number(pair.id),
        "task": texts.number(pair.task_id),
        "type": texts.number(str(pair.info.get("task_type") or "")),
        "swapped": bool(pair.info.get("swapped")),
        "prompt": _messages(pair.prompt, texts),
        "common": _common(pair.chosen, pair.rejected),
    }
    for side in SIDES:
        reward = pair.info.get(f"{side}_reward")
        record[side] = {
            "reward": float(reward) if is_finite(reward) else None,
            "messages": _messages(getattr(pair, side), texts),
        }
        if values:
            record[side]["reference"] = [round(turn.reference, 3) for turn in _longest(values, side)]
            record[side]["values"] = {
                reveal(name): [_numbers(turn) for turn in getattr(found, side)]
                for name, found in values.items()
            }
    return record


def _messages(messages: Sequence[Message], texts: _Texts) -> list[list[Any]]:
    return [[message.role, texts.number(message_text(message))] for message in messages]


def _common(chosen: Sequence[Message], rejected: Sequence[Message]) -> int:
    """How many messages the two sides begin with that say the same."""
    count = 0
    for ours, theirs in zip(chosen, rejected, strict=False):
        if ours.role != theirs.role or message_text(ours) != message_text(theirs):
            break
        count += 1
    return count


def _longest(values: Mapping[str, PairTurns], side: str) -> tuple[TurnValue, ...]:
    """A side's turns as the method scored them that kept most of them; others may have cut the episode."""
    return max((getattr(found, side) for found in values.values()), key=len, default=())


def _numbers(turn: TurnValue) -> list[float | None]:
    """A turn's log-probability under the policy, weight and value, with as many digits as are shown."""
    weight = None if turn.weight is None else _short(turn.weight)
    return [round(turn.policy, 3), weight, _short(turn.value)]


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _quantile(sizes: Iterable[float]) -> float:
    """The size from which on colours are deepest."""
    ordered = sorted(sizes)
    return _short(ordered[min(len(ordered) - 1, int(_SHARE * len(ordered)))]) if ordered else 0.0
