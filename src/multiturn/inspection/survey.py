"""A whole file: what training would refuse, and how long, how deep and how much alike its rows are."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import math
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from multiturn.errors import DataError, MultiturnError
from multiturn.formats.reading import SHOWN_ROWS
from multiturn.inspection.rows import LeftOutError
from multiturn.pairs.balance import SideLengths, length_warnings, side_lengths
from multiturn.progress import progress
from multiturn.tokens import forest_size
from multiturn.trajectory import PreferencePair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.formats import RecordReader
    from multiturn.inspection.rows import Inspector
    from multiturn.tokens import Rendered

__all__ = ["Problem", "Spread", "Survey", "survey"]

_PERCENTILES: Final = (0, 50, 90, 99, 100)
_ALIKE_ROWS: Final = 512
"""The first rows, over which sharing is worked out; for all of them it would take long and say the same."""
_NUMBERS: Final = re.compile(r"\d+")


@dataclasses.dataclass(slots=True, kw_only=True)
class Problem:
    """Rows that training would refuse for one reason.

    Attributes:
        count: How many.
        example: The message about the first of them, with its place in the file.
        rows: The numbers of the first of them, as ``--row`` takes them: lines of a JSONL file.
    """

    count: int
    example: str
    rows: list[int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a quantity is spread over conversations.

    Attributes:
        mean: Its mean.
        percentiles: Its 0th (least), 50th, 90th, 99th and 100th (most) percentile, by `_PERCENTILES`.
    """

    mean: float
    percentiles: dict[int, float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        found = np.percentile(values, _PERCENTILES)
        return cls(
            mean=float(np.mean(values)),
            percentiles={p: float(v) for p, v in zip(_PERCENTILES, found, strict=True)},
        )


@dataclasses.dataclass(slots=True, kw_only=True)
class Survey:
    """What was found out about a file.

    Attributes:
        rows: Rows in the file.
        usable: Those that training would take.
        kind: ``"pairs"`` or ``"trajectories"``; empty where there are none.
        left_out: Rows that training would leave out, by reason.
        problems: Why others would be refused, by reason.
        warnings: What does not stop a training and should be known.
        tokens: Tokens of a conversation; None without usable rows, as the following.
        turns: Scored turns of a conversation.
        scored_share: The part of all tokens that is scored.
        cut: Conversations that would be cut at a turn boundary.
        duplicates: Usable rows whose tokens are the same as an earlier row's.
        same_sides: Usable pairs whose two sides are the same tokens.
        swapped: Usable pairs that are an earlier one the other way round.
        lengths: How long the two sides of the usable pairs are; empty with fewer than two.
        shared_share: The part of the tokens of the first rows, at most 512, that a packed forest of all of
            them computes once instead of several times.
    """

    rows: int = 0
    usable: int = 0
    kind: str = ""
    left_out: dict[str, int] = dataclasses.field(default_factory=dict)
    problems: dict[str, Problem] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    tokens: Spread | None = None
    turns: Spread | None = None
    scored_share: float | None = None
    cut: int = 0
    duplicates: int = 0
    same_sides: int = 0
    swapped: int = 0
    lengths: tuple[SideLengths, ...] = ()
    shared_share: float | None = None

    @property
    def refused(self) -> int:
        """Rows that training would refuse."""
        return sum(problem.count for problem in self.problems.values())

    def to_json(self) -> dict[str, Any]:
        """This survey as JSON; a difference of lengths that is infinite is null."""
        record = dataclasses.asdict(self)
        for lengths in record["lengths"]:
            if math.isinf(lengths["difference"]):
                lengths["difference"] = None
        return record


def survey(reader: RecordReader, inspector: Inspector) -> Survey:
    """Look at every row of a file; a bad one does not stop it.

    Args:
        reader: The file, with unusable rows skipped.
        inspector: Renders rows as training does.

    Raises:
        DataError: The file cannot be read at all.
    """
    found = Survey()
    kept = _Kept()
    with progress("inspect", total=reader.total) as bar:
        for item in reader:
            kind = "pairs" if isinstance(item, PreferencePair) else "trajectories"
            found.kind = found.kind or kind
            try:
                if kind != found.kind:
                    raise DataError(
                        f"is one of {kind} in a file of {found.kind}; keep them in files of their own"
                    )
                sequences, cut = inspector.render(item)
            except LeftOutError as error:
                found.left_out[str(error)] = found.left_out.get(str(error), 0) + 1
            except MultiturnError as error:
                _note(found, reader, item.id, error)
            else:
                found.usable += 1
                found.cut += sum(cut)
                kept.add(sequences)
                if isinstance(item, PreferencePair):
                    kept.pairs.append(item)
            bar.advance()
    found.rows = reader.rows
    for reason, count in reader.bad.items():
        rows = reader.bad_rows[reason]
        found.problems[reason] = Problem(count=count, example=reader.first_bad[reason], rows=rows)
    kept.finish(found)
    return found


def _note(found: Survey, reader: RecordReader, row_id: str, error: MultiturnError) -> None:
    """Count a row that training would not take, with others of the same reason."""
    message = str(error)
    row = reader.row
    # The row's own name stands first, and numbers differ from row to row.
    reason = _NUMBERS.sub("N", message.removeprefix(row_id).lstrip(",: "))
    known = found.problems.get(reason)
    if known is None:
        example = message if row is None else str(row.error(message, reader.path))
        known = found.problems[reason] = Problem(count=0, example=example, rows=[])
    known.count += 1
    if row is not None and known.count <= SHOWN_ROWS:
        known.rows.append(row.number)


class _Kept:
    """What is remembered of the usable rows."""

    def __init__(self) -> None:
        self.pairs: list[PreferencePair] = []
        self._lengths: list[int] = []
        self._turns: list[int] = []
        self._scored = 0
        self._seen: collections.Counter[tuple[bytes, ...]] = collections.Counter()
        self._same_sides = self._swapped = 0
        self._first: list[Rendered] = []
        self._first_rows = 0

    def add(self, sequences: Sequence[Rendered]) -> None:
        """Remember a row."""
        for sequence in sequences:
            self._lengths.append(len(sequence.token_ids))
            self._turns.append(sequence.num_turns)
            self._scored += sequence.scored_tokens
        key = tuple(map(_digest, sequences))
        if len(key) == 2:
            self._same_sides += key[0] == key[1]
            self._swapped += key[0] != key[1] and key[::-1] in self._seen
        self._seen[key] += 1
        if self._first_rows < _ALIKE_ROWS:
            self._first_rows += 1
            self._first += sequences

    def finish(self, found: Survey) -> None:
        """Write the figures down."""
        if not self._lengths:
            return
        found.tokens, found.turns = Spread.of(self._lengths), Spread.of(self._turns)
        found.scored_share = self._scored / sum(self._lengths)
        found.duplicates = self._seen.total() - len(self._seen)
        whole = sum(sequence.scored_length for sequence in self._first)
        found.shared_share = 1.0 - forest_size(self._first) / whole
        found.same_sides, found.swapped = self._same_sides, self._swapped
        found.lengths = side_lengths(self.pairs)
        found.warnings += length_warnings(self.pairs)
        if found.same_sides:
            found.warnings.append(
                f"{found.same_sides} pairs have two sides of the same tokens; there is nothing to prefer"
            )
        if found.swapped:
            found.warnings.append(
                f"{found.swapped} pairs are others the other way round; they contradict each other"
            )
        if found.duplicates:
            found.warnings.append(
                f"{found.duplicates} rows are repetitions of others token for token; they count as often"
            )


def _digest(sequence: Rendered) -> bytes:
    """The same for the same tokens and turns."""
    content = np.asarray([sequence.token_ids, sequence.turns], dtype=np.int64).tobytes()
    return hashlib.sha256(content).digest()
