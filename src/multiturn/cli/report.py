"""``multiturn report``: a run's report, made again."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report"]


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder, for example runs/quickstart-seed0.")],
    *,
    score_pairs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Score the turns of so many pairs (60,000 tokens at most) with the run's models first; "
            "without it, the scores that are there are shown.",
        ),
    ] = None,
) -> None:
    """Make the summary and the HTML report of a finished run again, and show the table.

    Example: `multiturn report runs/quickstart-seed0`
    """
    from multiturn.pipeline.results import rebuild_report, show_results

    directory = rebuild_report(run, score=score_pairs)
    show_results(directory)
