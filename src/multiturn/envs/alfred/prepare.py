"""Look whether the files of the ALFWorld games are all there, and can be played."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import re
from typing import TYPE_CHECKING

from multiturn.envs.alfred.dataset import DATA_VARIABLE, SPLITS, open_splits
from multiturn.envs.alfred.logic import wording_of
from multiturn.envs.alfred.pddl import parse_problem
from multiturn.envs.alfred.text import MOVE, PUT
from multiturn.envs.prepare import Finding
from multiturn.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from multiturn.envs.alfred.dataset import SplitFiles

__all__ = ["GAME_COUNTS", "Overlap", "overlaps", "prepare_alfworld"]

GAME_COUNTS = {"train": (3553, 3554), "valid_seen": (140,), "valid_unseen": (134,)}
"""How many games the splits have. Releases of ALFWorld differ by one game for training."""

_GET = (
    "get the files: pip install alfworld, then alfworld-download, which puts them into ~/.cache/alfworld (or "
    f"where ALFWORLD_DATA says); then set {DATA_VARIABLE} to that folder"
)
_SHOWN = 3
_NAME = re.compile(r"\(problem [^)]*\)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What two splits share.

    Attributes:
        first: One split.
        second: The other.
        same_task: Of how many games of ``second`` a game of ``first`` has the same goal sentence in the same
            room (ALFRED's number of it, with which a game's folder ends). Things may lie elsewhere in it.
        same_game: Of how many games of ``second`` a game of ``first`` has the same goal sentence and the
            same problem throughout, so that it is the same game.
    """

    first: str
    second: str
    same_task: int
    same_game: int


@dataclasses.dataclass(slots=True)
class _Read:
    """What reading the games of a split has shown."""

    keys: list[tuple[tuple[str, str], str]] = dataclasses.field(default_factory=list)
    wordings: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    unusable: list[str] = dataclasses.field(default_factory=list)


def prepare_alfworld(path: str | Path | None = None) -> list[Finding]:
    """Look whether the games are all there, and whether each can be read. It takes some seconds.

    Args:
        path: The folder, as the option ``path`` of `alfworld`: ALFWorld's own, or one with
            ``<split>.jsonl.xz`` files; None for the one that ``MULTITURN_ALFWORLD_DATA`` names.

    Returns:
        For each split whether its games are there, as many as there should be; which of them cannot be used,
        are not solvable or do not say whether they are; how they are worded; what the splits share.
    """
    try:
        splits = open_splits(path)
    except ConfigError as error:
        return [Finding(what=str(error), ok=False, remedy=_GET)]
    findings: list[Finding] = []
    read: dict[str, _Read] = {}
    for split in SPLITS:
        if split not in splits:
            findings.append(Finding(what=f"{split}: there are no games", ok=False, remedy=_GET))
            continue
        try:
            read[split] = _read(splits[split])
        except DataError as error:
            findings.append(Finding(what=f"{split}: {error}", ok=False, remedy=_GET))
            continue
        findings += _about(split, splits[split], read[split])
    findings += [_shared(overlap) for overlap in _overlaps(read)]
    return findings


def overlaps(path: str | Path | None = None) -> list[Overlap]:
    """What the splits of ALFWorld share, two by two. Reads all games.

    ALFWorld's ``valid_seen`` has the rooms of ``train``, and often the same task in the same room with things
    in other places; the rooms of ``valid_unseen`` are its own.

    Args:
        path: As for `prepare_alfworld`.

    Raises:
        ConfigError: There are no games.
        DataError: The file of a split cannot be read.
    """
    return _overlaps({split: _read(files) for split, files in open_splits(path).items()})


def _read(files: SplitFiles) -> _Read:
    result = _Read()
    for entry in files.entries:
        game_id = entry.id
        try:
            raw = files.read(game_id)
            parse_problem(raw.pddl)
        except DataError:
            result.unusable.append(game_id)
        else:
            room = game_id.partition("/")[0].rpartition("-")[2]
            lines = sorted(line.strip() for line in _NAME.sub("", raw.pddl.lower()).splitlines())
            digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
            result.keys.append(((raw.task, room), f"{raw.task} {digest}"))
            wording = PUT if raw.logic is None else wording_of(raw.logic.domain, raw.logic.grammar)
            result.wordings[wording.name if wording in (PUT, MOVE) else f"like {wording.name}"] += 1
    return result


def _about(split: str, files: SplitFiles, read: _Read) -> list[Finding]:
    expected, count = GAME_COUNTS[split], len(files.entries)
    wanted = " or ".join(f"{number:,}" for number in expected)
    complete = count in expected
    findings = [
        Finding(
            what=f"{split}: {count:,} games" + ("" if complete else f" instead of {wanted}"),
            ok=complete,
            remedy="" if complete else _GET,
        )
    ]
    if read.unusable:
        findings.append(
            Finding(
                what=f"{split}: unusable: {_some(read.unusable)}",
                ok=False,
                remedy=f"{_GET}; or leave them out",
            )
        )
    if files.unsolvable:
        left_out = f"{split}: not solvable, so left out as ALFWorld does: {_some(files.unsolvable)}"
        findings.append(Finding(what=left_out, ok=True))
    if files.unmarked:
        findings.append(
            Finding(
                what=f"{split}: without `solvable`, so ALFWorld itself leaves them out, while they are "
                f"played here: {_some(files.unmarked)}",
                ok=False,
                remedy=f"{_GET} (its newest files say it of every game); or list the others in `split_file`",
            )
        )
    if read.wordings:
        said = " and ".join(f"{number:,} {name}" for name, number in sorted(read.wordings.items()))
        mixed = len(read.wordings) > 1
        remedy = "set `grammar` to put or move, or use the files of one release" if mixed else ""
        findings.append(Finding(what=f"{split}: wording: {said}", ok=not mixed, remedy=remedy))
    return findings


def _shared(overlap: Overlap) -> Finding:
    return Finding(
        what=f"{overlap.second}: {overlap.same_task:,} games have a task in a room that {overlap.first} has "
        f"too; {overlap.same_game:,} are the same game",
        ok=not overlap.same_game,
        remedy=f"do not train on {overlap.first} to be tested on them" if overlap.same_game else "",
    )


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _SHOWN:,} more" if len(ids) > _SHOWN else ""
    return f"{len(ids):,} ({', '.join(ids[:_SHOWN])}{more})"


def _overlaps(read: dict[str, _Read]) -> list[Overlap]:
    found = []
    names = list(read)
    for number, first in enumerate(names):
        tasks = {task for task, _ in read[first].keys}
        games = {game for _, game in read[first].keys}
        for second in names[number + 1 :]:
            keys = read[second].keys
            found.append(
                Overlap(
                    first=first,
                    second=second,
                    same_task=sum(task in tasks for task, _ in keys),
                    same_game=sum(game in games for _, game in keys),
                )
            )
    return found
