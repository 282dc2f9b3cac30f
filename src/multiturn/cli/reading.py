"""Options and messages of the verbs that read a file of data, in whatever format it is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from multiturn.formats import ReadOptions, RecordReader
    from multiturn.trajectory import PreferencePair, Trajectory

__all__ = ["DatasetSplit", "RewardField", "SkipBad", "Source", "read_pairs", "read_trajectories"]

Source: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FORMAT",
        help="multiturn, trl, openai, ms-swift, sharegpt or agentgym; found out without it.",
    ),
]
SkipBad: TypeAlias = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out rows that cannot be read, and count them.")
]
RewardField: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="Where a row's return stands, for example info.score; reward, score or return without it."
    ),
]
DatasetSplit: TypeAlias = Annotated[
    str | None, typer.Option(help="The split to read of a saved dataset that has several.")
]


def read_trajectories(path: Path, given: "ReadOptions") -> "list[Trajectory]":
    """The trajectories of a file of rollouts, or of one in any other format.

    Raises:
        DataError: The file cannot be read, or a row is unusable.
    """
    from multiturn.formats import RecordReader, has_rollout_header, trajectories_of
    from multiturn.rollouts.store import read_episodes

    as_written = given.source is None and given.reward_field is None and not given.skip_bad
    if as_written and has_rollout_header(path):
        return read_episodes(path)
    reader = RecordReader(path, given)
    trajectories = trajectories_of(reader)
    _say(reader)
    return trajectories


def read_pairs(path: Path, given: "ReadOptions") -> "list[PreferencePair]":
    """The pairs of a file in any format.

    Raises:
        DataError: The file cannot be read, has no rows, or a row is unusable.
    """
    from multiturn.formats import RecordReader, pairs_of

    reader = RecordReader(path, given)
    pairs = pairs_of(reader)
    _say(reader)
    return pairs


def _say(reader: "RecordReader") -> None:
    """What was read as what, and what was not."""
    from multiturn.progress import tell

    if reader.source is None:
        return
    line = f"{reader.path}: {reader.rows} rows, read as {reader.source.name}"
    if reader.bad:
        line += f"; {reader.describe_bad()}"
    if reader.unread:
        line += "; not read: " + ", ".join(f"{name} ({count})" for name, count in reader.unread.items())
    tell(line)
