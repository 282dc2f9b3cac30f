"""What may be wrong with pairs as a whole: one side is longer, or held-out tasks are among them.

The standardized difference of a quantity is (mean of chosen - mean of rejected) / s, with s the square root
of the mean of both sides' variances (those of samples, divided by n - 1). Beyond `LENGTH_THRESHOLD` either
way, which is called a medium effect, a model can tell the sides apart by length better than it should.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import statistics
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from multiturn.trajectory import Message, PreferencePair, Trajectory

__all__ = [
    "LEAST_PAIRS",
    "LENGTH_THRESHOLD",
    "SideLengths",
    "length_warnings",
    "overlap_warnings",
    "side_lengths",
]

LENGTH_THRESHOLD: Final = 0.5
"""A standardized difference beyond this is warned of."""
LEAST_PAIRS: Final = 20
"""With fewer pairs nothing is said about lengths."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SideLengths:
    """How long the two sides of pairs are.

    Attributes:
        quantity: What is counted: ``"turns"``, or ``"characters"`` of what the assistant said.
        chosen: The mean of the chosen sides.
        rejected: The mean of the rejected sides.
        difference: The standardized difference, chosen minus rejected.
    """

    quantity: str
    chosen: float
    rejected: float
    difference: float


def side_lengths(pairs: Sequence[PreferencePair]) -> tuple[SideLengths, ...]:
    """The lengths of the two sides, in turns and in characters; empty with fewer than two pairs."""
    if len(pairs) < 2:
        return ()
    counts: dict[str, tuple[list[int], list[int]]] = {"turns": ([], []), "characters": ([], [])}
    for pair in pairs:
        for side, messages in enumerate((pair.chosen, pair.rejected)):
            said = [message for message in messages if message.role == "assistant"]
            counts["turns"][side].append(len(said))
            counts["characters"][side].append(sum(map(_characters, said)))
    return tuple(
        SideLengths(
            quantity=quantity,
            chosen=statistics.fmean(chosen),
            rejected=statistics.fmean(rejected),
            difference=_standardized(chosen, rejected),
        )
        for quantity, (chosen, rejected) in counts.items()
    )


def length_warnings(pairs: Sequence[PreferencePair]) -> list[str]:
    """What to warn of where one side is longer by much; nothing with fewer than `LEAST_PAIRS` pairs."""
    if len(pairs) < LEAST_PAIRS:
        return []
    return [
        f"length bias: chosen sides have {lengths.chosen:.1f} {lengths.quantity} on average, rejected sides "
        f"{lengths.rejected:.1f} (standardized difference {lengths.difference:+.2f}, threshold "
        f"{LENGTH_THRESHOLD}); a model may learn the length instead of the preference: compare lengths "
        "before and after training; the strategy length-matched pairs sides of like length"
        for lengths in side_lengths(pairs)
        if abs(lengths.difference) > LENGTH_THRESHOLD
    ]


def overlap_warnings(
    trajectories: Sequence[Trajectory], held_out: Mapping[str, Iterable[Trajectory]]
) -> list[str]:
    """What to warn of where the same task is in several splits, or among the held-out ones.

    Args:
        trajectories: What pairs are made of.
        held_out: Trajectories or tasks that are for evaluation, by the name of their file. The same task has
            the same id or the same prompt.
    """
    warnings = []
    splits: dict[str, set[str]] = collections.defaultdict(set)
    for trajectory in trajectories:
        if trajectory.split:
            splits[trajectory.task_id].add(trajectory.split)
    several = [task for task, names in splits.items() if len(names) > 1]
    if several:
        names = sorted({name for task in several for name in splits[task]})
        warnings.append(f"{_tasks(several)} in several splits ({', '.join(names)}); keep one split")
    ids = {trajectory.task_id for trajectory in trajectories}
    prompts = {_prompt(trajectory) for trajectory in trajectories} - {()}  # what has none says no task
    for name, others in held_out.items():
        both = list(dict.fromkeys(o.task_id for o in others if o.task_id in ids or _prompt(o) in prompts))
        if both:
            warnings.append(
                f"{_tasks(both)} held out in {name} and among these trajectories; an evaluation on them is "
                "no measure of new tasks"
            )
    return warnings


def _tasks(ids: Sequence[str]) -> str:
    shown = ", ".join(repr(task) for task in ids[:3]) + (", ..." if len(ids) > 3 else "")
    return f"{len(ids)} task{' is' if len(ids) == 1 else 's are'} ({shown})"


def _prompt(trajectory: Trajectory) -> tuple[tuple[str, str], ...]:
    return tuple((message.role, message.content) for message in trajectory.prompt)


def _characters(message: Message) -> int:
    calls = json.dumps(list(message.tool_calls), default=str) if message.tool_calls else ""
    return len(message.content) + len(calls)


def _standardized(chosen: Sequence[int], rejected: Sequence[int]) -> float:
    gap = statistics.fmean(chosen) - statistics.fmean(rejected)
    spread = math.sqrt((statistics.variance(chosen) + statistics.variance(rejected)) / 2)
    if spread == 0:
        return 0.0 if gap == 0 else math.copysign(math.inf, gap)
    return gap / spread
