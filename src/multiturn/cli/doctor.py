"""``multiturn doctor``: what may go wrong in a run, before it is begun."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multiturn.cli.options import Overrides

if TYPE_CHECKING:
    from multiturn.doctor import Finding

__all__ = ["doctor"]


def doctor(
    config: Annotated[Path, typer.Argument(help="The run's YAML file.")],
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Do not load the weights; measure nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, a finding a line.")] = False,
    overrides: Overrides = None,
) -> None:
    """Look a run over before it costs anything: exit status 1 if something will stop it.

    Looked at: the run's folder, packages, the machine's memory and disk, whether the environment has the
    tasks and its expert plays them, whether the chat template takes the conversations and they fit, the
    pairs' balance once there are some. A few steps of each kind of training and a few replies are measured
    to predict memory and time. Each finding says what to do.

    Example: `multiturn doctor examples/quickstart.yaml`
    """
    from multiturn.doctor import examine
    from multiturn.pipeline.load import load_config

    stopped = False
    for finding in examine(load_config(config, overrides or ()), quick=quick):
        stopped = stopped or finding.severity == "problem"
        if as_json:
            typer.echo(json.dumps(dataclasses.asdict(finding)))
        else:
            _show(finding)
    if stopped:
        raise typer.Exit(1)


def _show(finding: "Finding") -> None:
    from multiturn.reports.untrusted import reveal

    colours = {"ok": "green", "note": None, "warning": "yellow", "problem": "red"}
    typer.secho(f"{finding.severity:8}", fg=colours[finding.severity], nl=False)
    typer.echo(reveal(finding.what))
    if finding.remedy:
        typer.echo(f"        -> {reveal(finding.remedy)}")
