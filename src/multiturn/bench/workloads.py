"""Pairs to measure with: of given shapes with random tokens, or a user's own."""

from __future__ import annotations

import dataclasses
import json
import random
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from multiturn.errors import ConfigError, DataError
from multiturn.tokens import NO_TURN, Rendered, forest_size
from multiturn.training.data import RenderedPair

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = [
    "USUAL",
    "WORKLOADS",
    "Shape",
    "Workload",
    "from_pairs",
    "generate",
    "read_workload",
    "write_workload",
]

FIRST_ID: Final = 100
"""Random tokens are drawn from here on, clear of special tokens."""
LAST_ID: Final = 32000
"""They are below it; most models know as many."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the pairs of a workload look like; ranges are drawn from evenly.

    Attributes:
        tasks: How many tasks there are.
        rejected: Rejected trajectories for each task; the chosen one is the same for all of them.
        common: Tokens of the prompt that all tasks share: instructions, an in-context example.
        task: Tokens of the task's own description.
        turns: The fewest and most turns of a trajectory.
        action: The fewest and most tokens of a turn.
        observation: The fewest and most tokens between two turns.
        fork: The first turns, at least and at most, that a rejected trajectory has in common with the chosen.
        pairs_per_pass: Pairs that engines without a token budget run at a time.
        max_tokens: The token budget.
    """

    tasks: int
    rejected: int
    common: int
    task: int
    turns: tuple[int, int]
    action: tuple[int, int]
    observation: tuple[int, int]
    fork: tuple[int, int]
    pairs_per_pass: int
    max_tokens: int


WORKLOADS: Final[Mapping[str, Shape]] = MappingProxyType(
    {
        "short": Shape(
            tasks=8,
            rejected=1,
            common=0,
            task=170,
            turns=(4, 11),
            action=(4, 8),
            observation=(15, 40),
            fork=(0, 3),
            pairs_per_pass=4,
            max_tokens=2048,
        ),
        "long": Shape(
            tasks=2,
            rejected=1,
            common=1200,
            task=120,
            turns=(18, 22),
            action=(25, 55),
            observation=(60, 130),
            fork=(0, 6),
            pairs_per_pass=1,
            max_tokens=7168,
        ),
        "long-8k": Shape(
            tasks=4,
            rejected=1,
            common=1200,
            task=120,
            turns=(46, 54),
            action=(25, 55),
            observation=(60, 130),
            fork=(0, 15),
            pairs_per_pass=1,
            max_tokens=32768,
        ),
        "long-16k": Shape(
            tasks=2,
            rejected=1,
            common=1200,
            task=120,
            turns=(106, 114),
            action=(25, 55),
            observation=(60, 130),
            fork=(0, 35),
            pairs_per_pass=1,
            max_tokens=32768,
        ),
        "one-against-four": Shape(
            tasks=1,
            rejected=4,
            common=0,
            task=350,
            turns=(8, 14),
            action=(8, 16),
            observation=(25, 55),
            fork=(0, 5),
            pairs_per_pass=4,
            max_tokens=4096,
        ),
    }
)
"""The built-in workloads. An optimizer step trains on all pairs of one."""

USUAL: Final = ("short", "long", "one-against-four")
"""Those that a machine without a GPU can be asked to measure."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Pairs for one optimizer step.

    Attributes:
        name: What tables call it.
        pairs: The pairs.
        pairs_per_pass: Pairs that engines without a token budget run at a time.
        max_tokens: The token budget of those that have one.
    """

    name: str
    pairs: tuple[RenderedPair, ...]
    pairs_per_pass: int
    max_tokens: int

    @property
    def sequences(self) -> list[Rendered]:
        """Both sides of every pair."""
        return [sequence for pair in self.pairs for sequence in pair.sequences]

    def within(self, vocabulary: int) -> Workload:
        """The same with every token id below `vocabulary`; prefixes that are shared stay shared."""

        def fold(rendered: Rendered) -> Rendered:
            return dataclasses.replace(rendered, token_ids=tuple(i % vocabulary for i in rendered.token_ids))

        folded = (
            dataclasses.replace(pair, chosen=fold(pair.chosen), rejected=fold(pair.rejected))
            for pair in self.pairs
        )
        return dataclasses.replace(self, pairs=tuple(folded))

    def facts(self) -> dict[str, Any]:
        """What is in it: pairs, tokens, tokens that are left when shared prefixes count once, and more."""
        sequences = self.sequences
        total = sum(s.scored_length for s in sequences)
        return {
            "pairs": len(self.pairs),
            "total_tokens": total,
            "unique_tokens": forest_size(sequences),
            "scored_tokens": sum(s.scored_tokens for s in sequences),
            "longest": max(s.scored_length for s in sequences),
            "mean_turns": sum(s.num_turns for s in sequences) / len(sequences),
            "pairs_per_pass": self.pairs_per_pass,
            "max_tokens": self.max_tokens,
        }


def generate(name: str, *, seed: int = 0) -> Workload:
    """A built-in workload with random tokens, the same for the same seed.

    Args:
        name: A name in `WORKLOADS`.
        seed: Seeds the draws.

    Raises:
        ConfigError: There is no such workload.
    """
    shape = WORKLOADS.get(name)
    if shape is None:
        raise ConfigError(f"there is no workload {name!r}; use one of {', '.join(WORKLOADS)}")
    draw = random.Random(seed)  # noqa: S311 - nothing secret is drawn

    def tokens(count: int) -> list[int]:
        return [draw.randrange(FIRST_ID, LAST_ID) for _ in range(count)]

    def turn() -> tuple[list[int], list[int]]:
        return tokens(draw.randint(*shape.action)), tokens(draw.randint(*shape.observation))

    common = tokens(shape.common)
    pairs = []
    for task in range(shape.tasks):
        prompt = common + tokens(shape.task)
        chosen = [turn() for _ in range(draw.randint(*shape.turns))]
        for index in range(shape.rejected):
            same = min(draw.randint(*shape.fork), len(chosen) - 1)
            more = max(1, draw.randint(*shape.turns) - same)
            rejected = chosen[:same] + [turn() for _ in range(more)]
            pairs.append(
                RenderedPair(
                    id=f"{task}-{index}",
                    chosen=_rendered(prompt, chosen),
                    rejected=_rendered(prompt, rejected),
                )
            )
    return Workload(
        name=name, pairs=tuple(pairs), pairs_per_pass=shape.pairs_per_pass, max_tokens=shape.max_tokens
    )


def from_pairs(
    name: str, pairs: Sequence[RenderedPair], *, pairs_per_pass: int = 4, max_tokens: int = 2048
) -> Workload:
    """A workload of given pairs; where `pairs_per_pass` does not divide their number, fewer make a pass."""
    each = next(n for n in range(pairs_per_pass, 0, -1) if len(pairs) % n == 0)
    return Workload(name=name, pairs=tuple(pairs), pairs_per_pass=each, max_tokens=max_tokens)


def write_workload(workload: Workload, path: Path) -> None:
    """Write a workload as JSON, for the processes that run it."""
    record = dataclasses.asdict(workload)
    path.write_text(json.dumps(record), encoding="utf-8")


def read_workload(path: Path) -> Workload:
    """Read what `write_workload` wrote.

    Raises:
        DataError: The file holds something else.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        record["pairs"] = tuple(
            RenderedPair(id=pair["id"], chosen=_read(pair["chosen"]), rejected=_read(pair["rejected"]))
            for pair in record["pairs"]
        )
        return Workload(**record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"is no workload ({error}); let `multiturn bench` write it", path=path) from None


def _rendered(prompt: Sequence[int], turns: Sequence[tuple[list[int], list[int]]]) -> Rendered:
    """A conversation; what follows its last turn is left out."""
    ids, owners = list(prompt), [NO_TURN] * len(prompt)
    for index, (action, observation) in enumerate(turns):
        ids += action
        owners += [index] * len(action)
        if index < len(turns) - 1:
            ids += observation
            owners += [NO_TURN] * len(observation)
    return Rendered(token_ids=tuple(ids), turns=tuple(owners), num_turns=len(turns))


def _read(record: Mapping[str, Any]) -> Rendered:
    return Rendered(
        token_ids=tuple(record["token_ids"]), turns=tuple(record["turns"]), num_turns=record["num_turns"]
    )
