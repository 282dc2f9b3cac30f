"""The application: its verbs, and how errors reach the user."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

import multiturn
from multiturn.cli import (
    bench,
    compare,
    convert,
    doctor,
    env,
    evaluate,
    inspect,
    pairs,
    report,
    rollout,
    run,
    sft,
    train,
)
from multiturn.errors import ConfigError, MultiturnError
from multiturn.launch import process_count, process_index
from multiturn.reports.untrusted import reveal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

__all__ = ["app", "log_handler", "run_app"]

INTERRUPTED = 130
_LOG = logging.getLogger(__name__)

app = typer.Typer(
    name="multiturn",
    help="Train language agents from preferred and dispreferred multi-turn trajectories.\n\n"
    "'multiturn run CONFIG' does everything: expert trajectories, SFT, exploration, preference pairs, DMPO "
    "and DPO, evaluation, report. The other verbs are its stages, one at a time.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("doctor")(doctor.doctor)
app.command("convert")(convert.convert)
app.command("inspect")(inspect.inspect)
app.command("sft")(sft.sft)
app.command("rollout")(rollout.rollout)
app.command("pairs")(pairs.pairs)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("bench")(bench.bench)
app.add_typer(env.app, name="env")


def _show_version(value: bool) -> None:  # noqa: FBT001 - the signature typer calls back
    if value:
        typer.echo(f"multiturn {multiturn.__version__}")
        raise typer.Exit


TOGETHER = ("sft", "train")
"""Verbs that several processes may work on together."""


@app.callback()
def _options(
    context: typer.Context,
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show debugging messages.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    del version  # handled by its callback
    if process_count() > 1 and context.invoked_subcommand not in TOGETHER:
        raise ConfigError(
            f"`multiturn {context.invoked_subcommand}` runs in one process, and a launcher has started "
            f"{process_count()}; start it without one ({' and '.join(TOGETHER)} train with several)"
        )
    level = logging.DEBUG if verbose else logging.WARNING
    logging.basicConfig(
        level=logging.ERROR if process_index() > 0 else level,
        handlers=[log_handler()],
    )


class _Revealed(logging.Formatter):
    """Shows the control characters of messages, which quote data: a terminal would obey them."""

    def format(self, record: logging.LogRecord) -> str:
        """The message as text."""
        return reveal(super().format(record))


def log_handler() -> logging.Handler:
    """Writes messages to stderr."""
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    handler.setFormatter(_Revealed("%(message)s"))
    return handler


class _InterruptedByUser(BaseException):
    """Ctrl-C. Not KeyboardInterrupt, which typer would turn into an exit code of its own."""


def _error() -> str:
    """What stands before an error; of several processes it is not always the first that fails."""
    return "error:" if process_count() == 1 else f"error in process {process_index()}:"


def _interrupt(_signal_number: int, _frame: FrameType | None) -> None:
    raise _InterruptedByUser


def run_app(arguments: Sequence[str]) -> int:
    """Run one verb.

    Args:
        arguments: The command line without the program's name.

    Returns:
        The exit code: 0, or that of the error (see `multiturn.errors`; 1 where the system refuses a file).
    """
    stderr = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
    previous = signal.signal(signal.SIGINT, _interrupt)
    try:
        app(args=list(arguments))
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except MultiturnError as error:
        stderr.print(_error(), style="bold red", end=" ")
        stderr.print(reveal(str(error)), markup=False)
        return error.exit_code
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        what = error.strerror or str(error)
        stderr.print(_error(), style="bold red", end=" ")
        said = f"{where}{what}; check the path, its permissions and the free space"
        stderr.print(reveal(said), markup=False)
        _LOG.debug("it happened here:", exc_info=error)
        return MultiturnError.exit_code
    except _InterruptedByUser:
        stderr.print("interrupted; run the same command again to go on from here (bench begins anew)")
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, previous)
    return 0
