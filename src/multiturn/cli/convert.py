"""``multiturn convert``: trajectories and pairs from one format to another."""

from pathlib import Path
from typing import Annotated

import typer

from multiturn.cli import reading

__all__ = ["convert"]


def convert(
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="JSONL, JSON, Parquet, or the folder of a saved dataset."),
    ],
    output: Annotated[
        Path,
        typer.Argument(help="The file to write: an array if it ends in .json, .parquet a table, else JSONL."),
    ],
    *,
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT", help="multiturn, trl, openai, ms-swift, sharegpt (also ETO's) or agentgym."
        ),
    ],
    given_format: reading.Source = None,
    skip_bad: reading.SkipBad = False,
    reward_field: reading.RewardField = None,
    dataset_split: reading.DatasetSplit = None,
) -> None:
    """Write trajectories or pairs in another format. Text never changes.

    What the format is that is read shows in its first rows. What the new format cannot hold, rewards or
    token_ids say, is named and counted. A row that cannot be read or written ends the conversion, with all
    such rows counted by reason, unless `--skip-bad` leaves them out.

    Example: `multiturn convert logs.jsonl trajectories.jsonl --to multiturn --reward-field info.score`
    """
    from multiturn.formats import ReadOptions
    from multiturn.formats import convert as run

    given = ReadOptions(
        source=given_format, skip_bad=skip_bad, reward_field=reward_field, split=dataset_split
    )
    report = run(source, output, to=to, options=given)
    typer.echo(f"{output}: {report.describe()}")
