"""From rows (trajectories, pairs) to rendered sequences: once, up front, with every drop counted and named.

``docs/data.md`` describes the formats. Nothing here draws random numbers or touches a model.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

import numpy as np
from torch.utils.data import Dataset

from multiturn.errors import DataError
from multiturn.progress import progress
from multiturn.tokens import NO_TURN, Rendered, cut
from multiturn.training.rows import Rows, read_pair, read_trajectory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from multiturn.tokens import Renderer
    from multiturn.training.rows import Conversation, Row
    from multiturn.trajectory import Json

__all__ = [
    "DataReport",
    "RenderedPair",
    "RenderedRow",
    "RenderedRows",
    "RenderedTrajectory",
    "render_pairs",
    "render_trajectories",
]

SHOW_PROGRESS_FROM: Final = 500
"""Rows from which on rendering shows a progress bar."""
NAMED_IDS: Final = 20
"""How many ids of the rows that share a fate the report names."""

TOO_LONG: Final = "longer than max_length"
NOTHING_LEFT: Final = "no scored turn fits into max_length"


@dataclasses.dataclass(kw_only=True)
class DataReport:
    """What became of the rows of a dataset.

    Attributes:
        rows: Rows given.
        used: Rows trained on.
        dropped: Why others were left out, and how many for each reason.
        dropped_ids: Their ids, the first few for each reason.
        cut: Conversations that were cut at a turn boundary.
        cut_ids: The ids of their rows, the first few.
        tokens: Tokens of all conversations used, each up to its last scored one.
        scored_tokens: Those that count in the loss.
        turns: Scored assistant turns.
        longest: Tokens of the longest conversation used.
    """

    rows: int = 0
    used: int = 0
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    dropped_ids: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    cut: int = 0
    cut_ids: list[str] = dataclasses.field(default_factory=list)
    tokens: int = 0
    scored_tokens: int = 0
    turns: int = 0
    longest: int = 0

    def to_json(self) -> dict[str, Json]:
        """This report as JSON."""
        return dataclasses.asdict(self)

    def describe(self) -> str:
        """One line for people."""
        parts = [f"{self.used} of {self.rows} rows used"]
        for reason, count in self.dropped.items():
            named = ", ".join(self.dropped_ids[reason])
            more = ", ..." if count > len(self.dropped_ids[reason]) else ""
            parts.append(f"{count} dropped: {reason} ({named}{more})")
        if self.cut:
            parts.append(f"{self.cut} conversations cut at a turn boundary")
        return "; ".join(parts)

    def drop(self, reason: str, row_id: str) -> None:
        """Count a row that is left out."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        named = self.dropped_ids.setdefault(reason, [])
        if len(named) < NAMED_IDS:
            named.append(row_id)

    def use(self, row_id: str, sequences: Sequence[Rendered], *, cut: int) -> None:
        """Count a row that is trained on, `cut` of whose sequences were cut."""
        self.used += 1
        self.cut += cut
        for sequence in sequences:
            self.tokens += len(sequence.token_ids)
            self.scored_tokens += sequence.scored_tokens
            self.turns += sequence.num_turns
            self.longest = max(self.longest, len(sequence.token_ids))
        if cut and len(self.cut_ids) < NAMED_IDS:
            self.cut_ids.append(row_id)


class RenderedRow(Protocol):
    """What the trainer needs to know of a row."""

    @property
    def id(self) -> str:
        """Names the row in messages."""

    @property
    def sequences(self) -> tuple[Rendered, ...]:
        """The row's token sequences: one trajectory, or chosen and rejected."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RenderedTrajectory:
    """A trajectory as tokens.

    Attributes:
        id: Names the row in messages.
        rendered: Its tokens and turns.
    """

    id: str
    rendered: Rendered

    @property
    def sequences(self) -> tuple[Rendered, ...]:
        """The one sequence."""
        return (self.rendered,)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RenderedPair:
    """A preference pair as tokens.

    Attributes:
        id: Names the row in messages.
        chosen: The preferred trajectory, prompt included.
        rejected: The dispreferred one, prompt included.
    """

    id: str
    chosen: Rendered
    rejected: Rendered

    @property
    def sequences(self) -> tuple[Rendered, ...]:
        """Chosen and rejected."""
        return (self.chosen, self.rejected)


RowT = TypeVar("RowT", bound=RenderedRow)


class RenderedRows(Dataset[tuple[float, RowT]], Generic[RowT]):
    """Rendered rows as a dataset; each item is a row with its weight.

    The weight is 1. From index ``len(rows)`` on the rows come again as fillers, with weight 0: several
    processes need as many rows each, and what is added for that must not count.

    Args:
        rows: The rows in the order given.
        report: What was dropped on the way.
    """

    def __init__(self, rows: Sequence[RowT], report: DataReport) -> None:
        self.rows = rows
        self.report = report

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[float, RowT]:
        return float(index < len(self.rows)), self.rows[index % len(self.rows)]

    @functools.cached_property
    def lengths(self) -> list[int]:
        """The tokens of each row's longest sequence."""
        return [max(len(s.token_ids) for s in row.sequences) for row in self.rows]

    @functools.cached_property
    def tasks(self) -> list[list[int]]:
        """The rows of each task: those whose tokens before the first scored turn are the same."""
        tasks: dict[tuple[int, ...], list[int]] = {}
        for index, row in enumerate(self.rows):
            first = row.sequences[0]
            start = next(i for i, turn in enumerate(first.turns) if turn != NO_TURN)
            tasks.setdefault(first.token_ids[:start], []).append(index)
        return list(tasks.values())

    def fingerprint(self) -> str:
        """A hash of every row's id, tokens and turns, in order."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(row.id.encode() + b"\0")
            for sequence in row.sequences:
                digest.update(np.asarray([sequence.token_ids, sequence.turns], dtype=np.int64).tobytes())
        return digest.hexdigest()[:16]


def render_pairs(
    rows: Rows, renderer: Renderer, *, max_length: int | None = None, overlong: str = "error"
) -> RenderedRows[RenderedPair]:
    """Render preference pairs.

    Args:
        rows: `PreferencePair` or mappings with ``chosen`` and ``rejected`` (lists of messages), and
            optionally ``prompt``, ``tools`` and ``id``.
        renderer: Turns conversations into tokens.
        max_length: Tokens in a conversation at most; None sets no limit.
        overlong: ``"error"``, ``"drop"`` or ``"cut"``. A pair is dropped when either side is.

    Raises:
        DataError: A row is not usable, or too long under ``"error"``; the message names the row.
    """

    def pack(row_id: str, sequences: Sequence[Rendered]) -> RenderedPair:
        chosen, rejected = sequences
        return RenderedPair(id=row_id, chosen=chosen, rejected=rejected)

    fit = _Fit(renderer, max_length, overlong)
    return _render(rows, read_pair, fit, pack, label="pairs")


def render_trajectories(
    rows: Rows, renderer: Renderer, *, max_length: int | None = None, overlong: str = "error"
) -> RenderedRows[RenderedTrajectory]:
    """Render trajectories for supervised fine-tuning.

    Args:
        rows: `Trajectory`, or mappings with ``messages`` (every assistant message is scored) or with
            ``prompt`` and ``completion`` (only the completion's are), and optionally ``tools`` and ``id``.
        renderer: Turns conversations into tokens.
        max_length: Tokens in a conversation at most; None sets no limit.
        overlong: ``"error"``, ``"drop"`` or ``"cut"``.

    Raises:
        DataError: A row is not usable, or too long under ``"error"``; the message names the row.
    """

    def pack(row_id: str, sequences: Sequence[Rendered]) -> RenderedTrajectory:
        return RenderedTrajectory(id=row_id, rendered=sequences[0])

    fit = _Fit(renderer, max_length, overlong)
    return _render(rows, read_trajectory, fit, pack, label="trajectories")


def _render(
    rows: Rows,
    read: Callable[[object, int], Row],
    fit: _Fit,
    pack: Callable[[str, Sequence[Rendered]], RowT],
    *,
    label: str,
) -> RenderedRows[RowT]:
    """Read and render every row; rows that do not fit are dropped or cut as `fit` says."""
    if not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
        raise DataError(
            f"the {label} are a {type(rows).__name__}; give a list or a datasets.Dataset with a known length"
        )
    total = len(rows)
    report = DataReport(rows=total)
    kept: list[RowT] = []
    with progress(f"rendering {label}", total=total, quiet=total < SHOW_PROGRESS_FROM) as bar:
        for index in range(total):
            row = read(rows[index], index)
            fitted = [fit(conversation) for conversation in row.conversations]
            reasons = [f for f in fitted if isinstance(f, str)]
            sequences = [f for f in fitted if not isinstance(f, str)]
            if reasons:
                report.drop(reasons[0], row.id)
            else:
                report.use(row.id, [s.rendered for s in sequences], cut=sum(s.was_cut for s in sequences))
                kept.append(pack(row.id, [s.rendered for s in sequences]))
            bar.advance()
    return RenderedRows(kept, report)


@dataclasses.dataclass(frozen=True, slots=True)
class _Fitted:
    """A rendered conversation, and whether it was cut to fit."""

    rendered: Rendered
    was_cut: bool


@dataclasses.dataclass(frozen=True, slots=True)
class _Fit:
    """Renders a conversation and makes it fit: the sequence, or the reason to drop its row."""

    renderer: Renderer
    max_length: int | None
    overlong: str

    def __call__(self, conversation: Conversation) -> _Fitted | str:
        rendered = self.renderer.render(
            conversation.messages, tools=conversation.tools, where=conversation.where
        )
        rendered = _without_tail(rendered)
        was_cut = False
        if self.max_length is not None and len(rendered.token_ids) > self.max_length:
            if self.overlong == "error":
                raise DataError(
                    f"{conversation.where} has {len(rendered.token_ids)} tokens, and max_length is "
                    f"{self.max_length}; raise max_length, or set overlong to 'drop' or 'cut'"
                )
            if self.overlong == "drop":
                return TOO_LONG
            rendered, was_cut = cut(rendered, self.max_length), True
        rendered = _without_prompt_turns(rendered, conversation.unscored)
        return _Fitted(rendered, was_cut) if rendered.num_turns else NOTHING_LEFT


def _without_tail(rendered: Rendered) -> Rendered:
    """What follows the last assistant turn cannot change a score: it need not fit, nor be computed."""
    end = rendered.scored_length
    return dataclasses.replace(rendered, token_ids=rendered.token_ids[:end], turns=rendered.turns[:end])


def _without_prompt_turns(rendered: Rendered, unscored: int) -> Rendered:
    """Turns of the prompt become part of the state: the first scored turn is turn 0."""
    if unscored == 0:
        return rendered
    return dataclasses.replace(
        rendered,
        turns=tuple(max(turn - unscored, -1) for turn in rendered.turns),
        num_turns=max(rendered.num_turns - unscored, 0),
    )
