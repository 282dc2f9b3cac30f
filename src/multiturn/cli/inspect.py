"""``multiturn inspect``: which tokens are in the loss, and whether a whole file can be trained on."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from multiturn.cli import options, reading
from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from multiturn.formats import RecordReader
    from multiturn.inspection import InspectedRow, Inspector
    from multiturn.trajectory import PreferencePair, Trajectory

__all__ = ["inspect"]


def inspect(
    file: Annotated[Path, typer.Argument(help="Trajectories or pairs in any format: `docs/data.md`.")],
    *,
    model: options.Model,
    chat_template: options.Template = "model",
    row: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Which row to show: its line in a JSONL file, else its place from 1. The first that is "
            "usable without it.",
        ),
    ] = None,
    row_id: Annotated[str | None, typer.Option("--id", help="Show the row with this id instead.")] = None,
    side: Annotated[
        Literal["chosen", "rejected"] | None, typer.Option(help="Show only this side of a pair.")
    ] = None,
    check_all: Annotated[
        bool,
        typer.Option(
            "--check-all", help="Look at every row and sum up; exit status 1 if any is refused or none there."
        ),
    ] = False,
    objective: Annotated[
        str | None,
        typer.Option(help="Whose weights to show: dmpo for pairs, sft otherwise, or as for train."),
    ] = None,
    weighting: Annotated[
        str | None,
        typer.Option(help="Another turn weighting: phi, uniform, exponential, last, MODULE:FUNCTION."),
    ] = None,
    gamma: Annotated[float, typer.Option(min=0.0, max=1.0, help="The discount of a turn.")] = 0.7,
    max_length: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of a conversation at most; as in training, the model's own limit."),
    ] = None,
    overlong: Annotated[
        Literal["error", "drop", "cut"], typer.Option(help="What becomes of longer ones.")
    ] = "error",
    plain: Annotated[
        bool,
        typer.Option("--plain", help="A line for each token; the default where the output is no terminal."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead.")] = False,
    given_format: reading.Source = None,
    dataset_split: reading.DatasetSplit = None,
) -> None:
    """Show a conversation as the loss sees it: every token's turn and weight.

    Rows are rendered by the code that training uses, with the same checks, so what is shown as scored is
    what is learned. Of a pair, what both sides share is shown once, and the fork is marked.

    `--check-all` goes through the whole file: what would be refused and why, lengths, turns, how much is
    scored, shared and repeated.

    Example: `multiturn inspect pairs.jsonl --model MODEL --row 3 --gamma 0.9`
    """
    from multiturn.formats import ReadOptions, RecordReader

    if objective == "sft" and weighting is not None:
        raise ConfigError(
            "--weighting has no effect on sft, which weighs every turn 1; leave one of them out"
        )
    if check_all and (row, row_id, side) != (None, None, None):
        raise ConfigError("--check-all looks at every row; leave --row, --id and --side out")
    if row is not None and row_id is not None:
        raise ConfigError("--row and --id name one row each; give one of them")
    given = ReadOptions(source=given_format, split=dataset_split, skip_bad=True)
    reader = RecordReader(file, given)
    item = None if check_all else _find(reader, row, row_id)
    inspector = _inspector(
        model,
        chat_template,
        objective=_objective(objective, item),
        sides="chosen" if objective == "sft" else "both",
        weighting=weighting,
        gamma=gamma,
        max_length=max_length,
        overlong=overlong,
    )
    if item is None:
        _check(reader, inspector, as_json=as_json)
    else:
        shown = inspector.inspect(item)
        if side is not None:
            shown = _one_side(shown, side)
        _show(shown, as_json=as_json, plain=plain)


def _objective(named: str | None, item: "Trajectory | PreferencePair | None") -> str:
    from multiturn.trajectory import PreferencePair

    return named or ("dmpo" if isinstance(item, PreferencePair) else "sft")


def _inspector(
    model: str,
    chat_template: str,
    *,
    objective: str,
    sides: Literal["both", "chosen"],
    weighting: str | None,
    gamma: float,
    max_length: int | None,
    overlong: Literal["error", "drop", "cut"],
) -> "Inspector":
    from multiturn.inspection import Inspector
    from multiturn.models import load_tokenizer, model_facts
    from multiturn.tokens import Renderer
    from multiturn.training.objectives import find_objective, find_weighting

    rule = None if objective == "sft" else find_objective(objective).weighting
    if weighting is not None:
        rule = find_weighting(weighting, gamma)
    tokenizer = load_tokenizer(model)
    return Inspector(
        tokenizer,
        Renderer(tokenizer, chat_template=chat_template),
        weighting=rule,
        sides=sides,
        gamma=gamma,
        max_length=model_facts(model).context if max_length is None else max_length,
        overlong=overlong,
    )


def _find(reader: "RecordReader", number: int | None, row_id: str | None) -> "Trajectory | PreferencePair":
    """The row that was asked for.

    Raises:
        ConfigError: The file has no such row, or it is unusable.
    """
    for item in reader:
        here = None if reader.row is None else reader.row.number
        if item.id == row_id if row_id is not None else number in (None, here):
            return item
    if row_id is not None:
        raise ConfigError(f"{reader.path} has {reader.rows} rows and none with the id {row_id!r}")
    last = 0 if reader.row is None else reader.row.number
    if number is None or number > last:
        wanted = "usable one" if number is None else f"row {number}"
        raise ConfigError(f"{reader.path} has {reader.rows} rows and no {wanted}; --check-all says more")
    raise ConfigError(
        f"row {number} of {reader.path} is no usable row (a header or a blank line is none); "
        "--check-all names the unusable ones"
    )


def _one_side(row: "InspectedRow", name: str) -> "InspectedRow":
    """A pair with one of its sides.

    Raises:
        ConfigError: It is a trajectory, or the side is not learned from.
    """
    sides = tuple(side for side in row.sides if side.name == name)
    if not sides:
        has = " and ".join(side.name for side in row.sides if side.name)
        why = f"this row has the {has} side alone" if has else "this row is a trajectory"
        raise ConfigError(f"--side: there is no {name} side, since {why}; leave it out")
    return dataclasses.replace(row, sides=sides)


def _show(shown: "InspectedRow", *, as_json: bool, plain: bool) -> None:
    from rich.console import Console

    from multiturn.inspection.terminal import plain_row, show_row

    console = Console(highlight=False, emoji=False)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(shown), indent=1))
    elif plain or not console.is_terminal:
        for line in plain_row(shown):
            typer.echo(line)
    else:
        show_row(console, shown)


def _check(reader: "RecordReader", inspector: "Inspector", *, as_json: bool) -> None:
    from multiturn.inspection import survey
    from multiturn.inspection.terminal import survey_lines

    found = survey(reader, inspector)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
    else:
        for line in survey_lines(found):
            typer.echo(line)
    if found.refused or not found.rows:
        raise typer.Exit(1)
