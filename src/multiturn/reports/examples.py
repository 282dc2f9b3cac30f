"""Which episodes and pairs a report shows, and what of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from multiturn.reports.untrusted import clip
from multiturn.reports.viewer import message_text
from multiturn.reports.words import label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from multiturn.trajectory import Message, PreferencePair, Trajectory

__all__ = ["Episode", "Example", "Said", "choose_examples", "choose_pairs"]

EPISODES_IN_ALL: Final = 6
PAIRS_IN_ALL: Final = 3
_MAX_TEXT: Final = 2_000
_MAX_PROMPT: Final = 4_000
_MAX_TURNS: Final = 40


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One message as it is shown.

    Attributes:
        role: Who spoke.
        text: What, cut off where it is very long.
        more: The number of characters cut off.
    """

    role: str
    text: str
    more: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One side of an example.

    Attributes:
        title: Whose it is.
        method: The method, for its colour; empty for an expert's.
        facts: What came of it, in a few words.
        good: Whether it went well; None where that is not known.
        turns: The messages from the first action on.
        more_turns: The number of turns that are not shown.
    """

    title: str
    method: str
    facts: str
    good: bool | None
    turns: tuple[Said, ...]
    more_turns: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One task, as every method played it; or a pair, its chosen and its rejected side.

    Attributes:
        title: The task.
        why: Why it is shown.
        prompt: What all of them were told.
        episodes: What each method, or each side, did.
    """

    title: str
    why: str
    prompt: tuple[Said, ...]
    episodes: tuple[Episode, ...]


def choose_examples(
    summary: Mapping[str, Any], episodes: Mapping[str, Mapping[str, Sequence[Trajectory]]]
) -> list[Example]:
    """Tasks that show how the methods differ: gains, losses, and one of which neither made anything.

    Short episodes go first, and task types that were not shown yet.

    Args:
        summary: The run's summary.
        episodes: For each split, each method's evaluation episodes.
    """
    splits = [split for split in summary["splits"] if episodes.get(split)]
    share = max(2, EPISODES_IN_ALL // max(1, len(splits)))
    chosen: list[Example] = []
    for split in splits:
        first = {name: _first_by_task(found) for name, found in episodes[split].items()}
        ordered = [name for name in summary["methods"] if name in first]
        for task, why in _pick(summary, split, first, share):
            played = {name: first[name][task] for name in ordered if task in first[name]}
            title = f"{split}: {task}" if len(splits) > 1 else task
            chosen.append(_example(title, why, played))
    return chosen


def choose_pairs(pairs: Sequence[PreferencePair]) -> list[Example]:
    """A few pairs: short ones, of different types, a swapped one among them if there is any."""
    ordered = sorted(pairs, key=lambda pair: (len(pair.chosen) + len(pair.rejected), pair.id))
    swapped = [pair for pair in ordered if pair.info.get("swapped")][:1]
    usual = [pair for pair in ordered if not pair.info.get("swapped")]
    varied = _varied(usual, [str(pair.info.get("task_type", "")) for pair in usual])
    return [_pair_example(pair) for pair in [*swapped, *varied][:PAIRS_IN_ALL]]


def _pick(
    summary: Mapping[str, Any], split: str, first: Mapping[str, Mapping[str, Trajectory]], share: int
) -> list[tuple[str, str]]:
    """The tasks to show and why, at most ``share``."""
    main, baseline = summary["main_method"], summary["baseline"]
    found = [
        comparison
        for comparison in summary["splits"][split]["comparisons"]
        if (comparison["method"], comparison["baseline"]) == (main, baseline)
    ]
    if not found or main not in first or baseline not in first:
        name = next(iter(first))
        return [(task, f"{label(name)} on its own") for task in sorted(first[name])[:share]]
    ours, theirs = first[main], first[baseline]
    differences = {t: d for t, d in found[0]["differences"].items() if t in ours and t in theirs}

    def ordered(tasks: list[str]) -> list[str]:
        def rank(task: str) -> tuple[float, int, str]:
            return -abs(differences[task]), ours[task].num_turns + theirs[task].num_turns, task

        tasks = sorted(tasks, key=rank)
        return _varied(tasks, [ours[task].task_type for task in tasks])

    better = ordered([task for task, d in differences.items() if d > 0])
    worse = ordered([task for task, d in differences.items() if d < 0])
    even = ordered([task for task, d in differences.items() if d == 0 and not ours[task].success])
    spare = 1 if even else 0
    losses = min(len(worse), max(share // 3, share - spare - len(better)))
    gains = min(len(better), share - spare - losses)
    return [
        *((task, f"{label(main)} does better") for task in better[:gains]),
        *((task, f"{label(main)} does worse") for task in worse[:losses]),
        *((task, "the same reward, and no success") for task in even[: share - gains - losses]),
    ]


def _varied(items: list[Any], types: Sequence[str]) -> list[Any]:
    """The items in their order, but the first of each type before the second of any."""
    seen: dict[str, int] = {}
    rounds = []
    for position, (item, kind) in enumerate(zip(items, types, strict=True)):
        seen[kind] = seen.get(kind, 0) + 1
        rounds.append((seen[kind], position, item))
    return [item for _, _, item in sorted(rounds, key=lambda entry: entry[:2])]


def _first_by_task(trajectories: Sequence[Trajectory]) -> dict[str, Trajectory]:
    first: dict[str, Trajectory] = {}
    for trajectory in trajectories:
        first.setdefault(trajectory.task_id, trajectory)
    return first


def _example(title: str, why: str, played: Mapping[str, Trajectory]) -> Example:
    some = next(iter(played.values()))
    kind = f" ({some.task_type})" if some.task_type else ""
    return Example(
        title=f"{title}{kind}",
        why=why,
        prompt=tuple(_said(message, _MAX_PROMPT) for message in some.prompt),
        episodes=tuple(_episode(name, trajectory) for name, trajectory in played.items()),
    )


def _episode(method: str, trajectory: Trajectory) -> Episode:
    facts = [f"reward {trajectory.reward:.2f}"] if trajectory.reward is not None else []
    facts += [trajectory.outcome.value.replace("_", " "), _turns(trajectory.num_turns)]
    said, more = _shown(trajectory.messages[len(trajectory.prompt) :])
    return Episode(
        title=label(method),
        method=method,
        facts=", ".join(facts),
        good=trajectory.success,
        turns=said,
        more_turns=more,
    )


def _pair_example(pair: PreferencePair) -> Example:
    sides = []
    for side, messages in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        said, more = _shown(messages)
        count = sum(message.role == "assistant" for message in messages)
        reward = pair.info.get(f"{side}_reward")
        facts = [f"reward {reward:.2f}"] if isinstance(reward, int | float) else []
        sides.append(
            Episode(
                title=side,
                method="",
                facts=", ".join([*facts, _turns(count)]),
                good=side == "chosen",
                turns=said,
                more_turns=more,
            )
        )
    return Example(
        title=pair.id,
        why=_why(pair),
        prompt=tuple(_said(message, _MAX_PROMPT) for message in pair.prompt),
        episodes=tuple(sides),
    )


def _why(pair: PreferencePair) -> str:
    if "strategy" in pair.info:  # both sides may be anybody's
        return "the one with the higher reward is chosen"
    return "the rollout beat the expert" if pair.info.get("swapped") else "the expert beat the rollout"


def _turns(count: int) -> str:
    return "1 turn" if count == 1 else f"{count} turns"


def _shown(messages: Sequence[Message]) -> tuple[tuple[Said, ...], int]:
    """The messages of the first turns, and the number of turns left out."""
    starts = [i for i, message in enumerate(messages) if message.role == "assistant"]
    end = starts[_MAX_TURNS] if len(starts) > _MAX_TURNS else len(messages)
    return tuple(_said(message, _MAX_TEXT) for message in messages[:end]), max(0, len(starts) - _MAX_TURNS)


def _said(message: Message, limit: int) -> Said:
    shown, more = clip(message_text(message), limit)
    return Said(role=message.role, text=shown, more=more)
