"""Many conversations as one sequence without padding, in which what they share stands once (M16).

The conversations of a micro-batch are merged by their longest common prefixes of token ids into a forest. Its
segments (runs of tokens without a branch) are laid out one after another, parents before children, so that
everything below a segment follows it directly. A token's position is its depth, and it may attend to its
ancestors only; a causal model then computes for every token exactly what it computes for the conversation
alone.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from multiturn.tokens.rendered import NO_TURN, Rendered, require_scorable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["Chain", "PackedForest", "Run", "Segment", "forest_size", "plant", "runs_of"]


@dataclasses.dataclass(frozen=True, slots=True)
class Chain:
    """Segments of which each is the first child of the one before, and so follows it directly.

    Attributes:
        segments: The segments from the top down, at least one.
        level: How many chains are above it.
    """

    segments: tuple[Segment, ...]
    level: int

    @property
    def start(self) -> int:
        """The place of its first token in the layout."""
        return self.segments[0].start

    @property
    def end(self) -> int:
        """The place after its last token."""
        return self.segments[-1].end

    def branches(self) -> Iterator[tuple[int, int, int]]:
        """What branches off: first and last place (exclusive) of it all, and where in the chain it does."""
        for segment, child in itertools.pairwise(self.segments):
            if child.below < segment.below:  # else a conversation only ended here
                yield child.below, segment.below, segment.end


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens without a branch, and where what is below it ends.

    Attributes:
        start: The place of its first token in the layout.
        end: The place after its last token; what is below the segment begins here.
        below: The place after the last token of everything below it; `end` for a leaf.
        depth: The position of its first token in its conversations.
        parent: The index of the segment it continues; None for a root.
    """

    start: int
    end: int
    below: int
    depth: int
    parent: int | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedForest:
    """S conversations as one sequence of N tokens in which shared prefixes stand once.

    What is scored is a list of U predictions (a place and the token that comes next) without duplicates; a
    place where conversations part predicts several tokens. A prediction of a shared turn counts for each
    conversation that holds it, and there for the turn that it belongs to.

    Attributes:
        input_ids: ``[N]`` int64 token ids.
        positions: ``[N]`` int64, each token's position in its conversations, from 0.
        segments: The runs without a branch, in the order of the layout.
        sources: ``[U]`` int64, the place in the layout whose hidden state predicts.
        targets: ``[U]`` int64, the token id that is predicted.
        scored: ``[M]`` int64, indices of predictions: one entry for each scored token of each conversation.
        rows: ``[M]`` int64, the conversation that an entry of `scored` counts for.
        turns: ``[M]`` int64, the turn of that conversation.
        num_turns: ``[S]`` int64, the number of turns of each conversation.
        total_tokens: The tokens of all conversations, shared or not.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    segments: tuple[Segment, ...]
    sources: torch.Tensor
    targets: torch.Tensor
    scored: torch.Tensor
    rows: torch.Tensor
    turns: torch.Tensor
    num_turns: torch.Tensor
    total_tokens: int

    def to(self, device: torch.device | str) -> PackedForest:
        """The same forest with its tensors on `device`."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in fields.items() if isinstance(value, torch.Tensor)
        }
        return dataclasses.replace(self, **moved)

    @property
    def depth(self) -> int:
        """The tokens of the longest conversation."""
        return max(segment.depth + segment.end - segment.start for segment in self.segments)

    @property
    def chains(self) -> list[Chain]:
        """All segments in chains, in the order of the layout: as few runs without a gap as there can be."""
        levels: list[int] = []
        starts: list[int] = []
        for index, segment in enumerate(self.segments):
            follows = index > 0 and segment.parent == index - 1
            above = -1 if segment.parent is None else levels[segment.parent]
            levels.append(above + (not follows))
            if not follows:
                starts.append(index)
        return [
            Chain(self.segments[first:last], levels[first])
            for first, last in itertools.pairwise([*starts, len(self.segments)])
        ]

    def path(self, segment: Segment) -> list[Segment]:
        """The segments from a root to `segment`, which is the last."""
        path = [segment]
        while path[-1].parent is not None:
            path.append(self.segments[path[-1].parent])
        return path[::-1]


def plant(rendered: Sequence[Rendered], *, share: bool = True) -> PackedForest:
    """Lay conversations out as a packed forest of their shared prefixes.

    What stands after a conversation's last scored token is left out: it cannot change any score.

    Args:
        rendered: The conversations, at least one, each with at least one turn.
        share: False gives every conversation a tree of its own: packing alone.

    Raises:
        ValueError: There is no conversation, one has no turn, or a first token belongs to a turn (nothing
            precedes it that could predict it).
    """
    require_scorable(rendered)
    ids = [_scored_ids(row) for row in rendered]
    lengths = [len(own_ids) for own_ids in ids]
    runs = list(runs_of(rendered, share=share))
    segments, places = _segments(runs, lengths)
    sources, targets, rows, turns = [], [], [], []
    for index, (row, own_ids) in enumerate(zip(rendered, ids, strict=True)):
        own_turns = np.asarray(row.turns[: len(own_ids)], dtype=np.int64)
        at = np.flatnonzero(own_turns != NO_TURN)
        sources.append(places[index][at - 1])  # the token at position p is predicted at position p - 1
        targets.append(own_ids[at])
        rows.append(np.full(len(at), index))
        turns.append(own_turns[at])
    predictions = np.stack([np.concatenate(sources), np.concatenate(targets)])
    unique, scored = np.unique(predictions, axis=1, return_inverse=True)
    return PackedForest(
        input_ids=torch.from_numpy(np.concatenate([ids[run.row][run.depth :] for run in runs])),
        positions=torch.cat([torch.arange(run.depth, lengths[run.row]) for run in runs]),
        segments=segments,
        sources=torch.from_numpy(unique[0].copy()),
        targets=torch.from_numpy(unique[1].copy()),
        scored=torch.from_numpy(scored.reshape(-1)),
        rows=torch.from_numpy(np.concatenate(rows)),
        turns=torch.from_numpy(np.concatenate(turns)),
        num_turns=torch.tensor([row.num_turns for row in rendered]),
        total_tokens=sum(lengths),
    )


def forest_size(rendered: Sequence[Rendered], *, share: bool = True) -> int:
    """The number of tokens ``N`` that `plant` would lay out."""
    lengths = [row.scored_length for row in rendered]
    return sum(lengths[run.row] - run.depth for run in runs_of(rendered, share=share))


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """What a conversation adds to the layout: its tokens from a depth on.

    Attributes:
        row: The conversation.
        depth: How many of its first tokens it shares with the run before, and so are there already; all of
            them if it adds nothing.
    """

    row: int
    depth: int


def runs_of(rendered: Sequence[Rendered], *, share: bool) -> Iterator[Run]:
    """The conversations in the order of the layout, each with what it shares with the one before.

    In lexicographic order the longest prefix that a conversation shares with any earlier one is the one it
    shares with its predecessor, and two conversations share what all between them share.
    """
    if not share:
        yield from (Run(row, 0) for row in range(len(rendered)))
        return
    ids = [_scored_ids(row) for row in rendered]
    # Bytes with the most significant one first compare as the numbers do.
    order = sorted(range(len(ids)), key=lambda row: ids[row].astype(">i8").tobytes())
    yield from (Run(row, 0) for row in order[:1])
    for previous, row in itertools.pairwise(order):
        yield Run(row, _common(ids[previous], ids[row]))


def _scored_ids(row: Rendered) -> NDArray[np.int64]:
    """The token ids up to the last one that is scored."""
    return np.asarray(row.token_ids[: row.scored_length], dtype=np.int64)


def _common(left: NDArray[np.int64], right: NDArray[np.int64]) -> int:
    """The length of the longest common prefix."""
    shortest = min(len(left), len(right))
    differs = left[:shortest] != right[:shortest]
    return int(differs.argmax()) if differs.any() else shortest


@dataclasses.dataclass(slots=True)
class _Piece:
    """The part of a run that lies on the path of the conversation at hand.

    Attributes:
        run: The index of the run.
        first: The depth of its first token.
        last: The depth after its last token that is on the path.
        offset: What is added to a depth to get the place in the layout.
    """

    run: int
    first: int
    last: int
    offset: int


def _segments(
    runs: Sequence[Run], lengths: Sequence[int]
) -> tuple[tuple[Segment, ...], dict[int, NDArray[np.int64]]]:
    """The segments of the layout, and for each conversation the places of its tokens."""
    cuts: list[set[int]] = [set() for _ in runs]  # for each run the places where something branches off
    parents: list[int | None] = []  # for each run the place of the token that its first one follows
    starts: list[int] = []
    places: dict[int, NDArray[np.int64]] = {}
    path: list[_Piece] = []
    end = 0
    for index, run in enumerate(runs):
        while path and path[-1].first >= run.depth:
            path.pop()
        parent = None
        if path:
            piece = path[-1]
            piece.last = run.depth
            parent = run.depth - 1 + piece.offset
            cuts[piece.run].add(parent + 1)
        parents.append(parent)
        starts.append(end)
        if lengths[run.row] > run.depth:
            path.append(_Piece(index, run.depth, lengths[run.row], end - run.depth))
            end += lengths[run.row] - run.depth
        places[run.row] = np.concatenate([np.arange(p.first, p.last) + p.offset for p in path])
    return _cut(runs, starts, [*starts[1:], end], cuts, parents), places


def _cut(
    runs: Sequence[Run],
    starts: Sequence[int],
    ends: Sequence[int],
    cuts: Sequence[set[int]],
    parents: Sequence[int | None],
) -> tuple[Segment, ...]:
    """Cut runs where something branches off, and find each segment's parent and what is below it."""
    bounds: list[tuple[int, int, int, int | None]] = []  # start, end, depth, parent
    ending: dict[int, int] = {}  # from the place after a segment's last token to the segment
    for run, start, end, inner, parent in zip(runs, starts, ends, cuts, parents, strict=True):
        if start == end:  # nothing that was not there already
            continue
        above = None if parent is None else ending[parent + 1]
        for first, last in itertools.pairwise(sorted({start, end} | inner)):
            bounds.append((first, last, run.depth + first - start, above))
            above = ending[last] = len(bounds) - 1
    below = [last for _, last, _, _ in bounds]
    for index in range(len(bounds) - 1, -1, -1):
        above = bounds[index][3]
        if above is not None:
            below[above] = max(below[above], below[index])
    return tuple(
        Segment(first, last, below[index], depth, above)
        for index, (first, last, depth, above) in enumerate(bounds)
    )
