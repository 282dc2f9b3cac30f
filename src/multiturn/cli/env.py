"""``multiturn env``: what environments there are, and whether one keeps the rules."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multiturn.cli import options

if TYPE_CHECKING:
    from multiturn.envs.check_report import CheckReport

__all__ = ["app"]

app = typer.Typer(
    help="List environments, get them ready, and check them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.command("list")
def list_environments(
    name: Annotated[str | None, typer.Argument(help="Show the options of this environment.")] = None,
) -> None:
    """Show the environments there are, or the options of one.

    Example: `multiturn env list household`
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from multiturn.envs import registry
    from multiturn.reports.untrusted import reveal

    table = Table(box=None, pad_edge=False)
    if name is None:
        table.add_column("environment", style="bold", no_wrap=True)
        table.add_column("what it is")
        for known, summary in registry.available().items():
            table.add_row(escape(known), escape(reveal(summary)))
    else:
        for heading in ("option", "type", "default", "what it does"):
            table.add_column(heading, style="bold" if heading == "option" else None)
        for option in registry.options_of(name):
            cells = (option.name, option.type, option.default or "required", option.summary)
            table.add_row(*(escape(reveal(cell)) for cell in cells))
    Console(emoji=False).print(table)


@app.command("check")
def check(
    name: Annotated[str, typer.Argument(help="A registered environment, or module:factory.")],
    *,
    split: Annotated[str, typer.Option(help="The split to check.")] = "train",
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to play.")] = 3,
    env_options: options.EnvOptions = None,
    seed: options.Seed = 0,
) -> None:
    """Check that an environment keeps the protocol, and measure its speed and memory.

    Leaves with 5 where it does not.

    Example: `multiturn env check household --episodes 5`
    """
    from rich.console import Console

    from multiturn.envs.registry import options_of
    from multiturn.errors import EnvironmentFaultError
    from multiturn.reports.untrusted import reveal

    settings: dict[str, Any] = options.environment_settings(name, env_options, None).options
    report = _checked(name, settings, split=split, episodes=episodes, seed=seed)
    known = {option.name for option in options_of(name)}
    if not report.random_returns and "admissible" in known and "admissible" not in settings:
        # The random agent needs what may slow an environment down: apart, so that the speed is the usual one.
        listing = _checked(name, {**settings, "admissible": True}, split=split, episodes=episodes, seed=seed)
        found = tuple(dict.fromkeys((*report.findings, *listing.findings)))
        report = dataclasses.replace(report, random_returns=listing.random_returns, findings=found)
    Console(emoji=False).print(reveal(report.describe()), markup=False, soft_wrap=True)
    if not report.ok:
        raise EnvironmentFaultError(f"{name} breaks the environment protocol; see above")


def _checked(name: str, settings: dict[str, Any], *, split: str, episodes: int, seed: int) -> "CheckReport":
    """Check an environment that is made with these options."""
    from multiturn.envs.check import check_env
    from multiturn.envs.registry import make
    from multiturn.memory import MemoryMeter

    meter = MemoryMeter()  # before the environment, which may hold much from the first moment
    env = make(name, **settings)
    try:
        return check_env(env, split=split, episodes=episodes, seed=seed, meter=meter)
    finally:
        env.close()


@app.command("prepare")
def prepare(
    name: Annotated[str, typer.Argument(help="A registered environment, or module:factory.")],
    *,
    path: Annotated[
        Path | None, typer.Option(help="The folder with its data; where it looks by default without it.")
    ] = None,
) -> None:
    """Get an environment ready: look at its files and packages, and build what can be built beforehand.

    Leaves with 2 where something is missing; each finding says what to do.

    Example: `multiturn env prepare webshop --path data/webshop`
    """
    from rich.console import Console
    from rich.text import Text

    from multiturn.envs.prepare import prepare as prepare_environment
    from multiturn.errors import ConfigError
    from multiturn.reports.untrusted import reveal

    findings = prepare_environment(name, path)
    console = Console(emoji=False)
    for finding in findings:
        mark = Text("ok   ", style="green") if finding.ok else Text("wrong", style="bold red")
        console.print(mark, Text(f" {reveal(finding.what)}"), sep="", soft_wrap=True)
        if finding.remedy:
            console.print(Text(f"      {reveal(finding.remedy)}"), soft_wrap=True)
    if not findings:
        console.print(f"{name} needs nothing", markup=False)
    wrong = sum(not finding.ok for finding in findings)
    if wrong:
        raise ConfigError(f"{name} is not ready: {wrong} of {len(findings)} findings are wrong; see above")
