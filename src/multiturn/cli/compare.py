"""``multiturn compare``: two runs, or two methods of one, task by task."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.pipeline.run_comparison import RunComparison

__all__ = ["compare", "describe"]

_LISTED = 20
"""Tasks of a list that are shown where not all are asked for."""


def compare(
    run_a: Annotated[Path, typer.Argument(help="A run's folder, for example runs/quickstart-seed0.")],
    run_b: Annotated[Path, typer.Argument(help="The run it is compared with; it may be the same folder.")],
    *,
    method_a: Annotated[
        str | None,
        typer.Option(
            help="A method of the first run, as its results name it (dmpo-round2); its first by default."
        ),
    ] = None,
    method_b: Annotated[
        str | None, typer.Option(help="A method of the second run; its first by default.")
    ] = None,
    all_tasks: Annotated[
        bool, typer.Option("--all", help="List every task that flipped, not only the first ones.")
    ] = False,
) -> None:
    """Compare two runs on the tasks that both evaluated.

    Shows the paired difference with its interval, the tasks that flipped, and how many more tasks would
    tell the two apart. Differences are the first less the second.

    Example: `multiturn compare runs/quickstart-seed0 runs/quickstart-seed0 --method-a dmpo --method-b dpo`
    """
    from rich.console import Console

    from multiturn.pipeline.run_comparison import compare_runs

    found = compare_runs(run_a, run_b, methods=(method_a, method_b))
    console = Console(highlight=False, emoji=False)
    for line in describe(found, most=None if all_tasks else _LISTED):
        console.print(line, markup=False, soft_wrap=True)


def describe(found: "Sequence[RunComparison]", *, most: int | None) -> list[str]:
    """The lines that say how two policies differ.

    Args:
        found: The comparison on each split.
        most: Tasks of a list at most; None lists all.
    """
    lines: list[str] = []
    for each in found:
        lines += ["", *_figures(each)] if lines else _figures(each)
        known = each.comparison.success is not None
        first, second = each.comparison.method, each.comparison.baseline
        for name, tasks in ((first, each.gained), (second, each.lost)):
            title = f"solved by {name} only" if known else f"a higher reward for {name}"
            lines += _task_list(title, tasks, most)
    return lines


def _figures(each: "RunComparison") -> list[str]:
    from multiturn.reports.words import interval_text, signed

    comparison = each.comparison
    reward, success = comparison.reward, comparison.success
    difference = f"{signed(reward.mean)} {interval_text(asdict(reward))}, {comparison.verdict}"
    lines = [
        f"{comparison.method} less {comparison.baseline} on {each.split}, {comparison.tasks} tasks:",
        f"  average reward {difference} ({100 * reward.level:g}% interval, paired by task)",
    ]
    if success is not None:
        lines.append(f"  success rate {signed(success.mean)} {interval_text(asdict(success))}")
    lines.append(
        f"  better on {comparison.better}, equal on {comparison.equal}, worse on {comparison.worse} tasks "
        f"(sign test p = {comparison.sign_test:.3g})"
    )
    for count, name in ((each.only_first, comparison.method), (each.only_second, comparison.baseline)):
        if count:
            lines.append(f"  {count} tasks that only {name} evaluated are left out")
    lines += [
        f"  {name} counts each task's best sample, chosen by the test's own reward: an oracle"
        for name in each.oracles
    ]
    lines += [
        f"  the evaluation of {name} is not finished: its tasks so far are no fair choice; go on with "
        "multiturn run"
        for name in each.unfinished
    ]
    if comparison.excluded:
        lines.append(f"  {len(comparison.excluded)} tasks lost to environment errors are left out")
    return [*lines, *_power_lines(each)]


def _power_lines(each: "RunComparison") -> list[str]:
    """How many more tasks would tell the two apart, and what these can."""
    from multiturn.reports.words import number

    power, verdict = each.power, each.comparison.verdict
    if power is None:
        return []
    chance = f"{100 * power.power:g}%"
    can = f"  {power.tasks} tasks find a difference of {number(power.detectable)} with probability {chance}"
    if verdict != "undecided":
        return ["  these tasks tell the two apart", can]
    if power.needed is None:
        return ["  the mean difference is zero: no number of tasks is known to tell the two apart", can]
    if not power.more:
        return ["  enough tasks if they were independent; tasks of a type resemble each other", can]
    number_needed = f"{power.more} more tasks ({power.needed} in all)"
    condition = f"with probability {chance}, if the true difference is the one seen here"
    lines = [f"  {number_needed} would tell the two apart {condition}", can]
    if each.comparison.reward.method == "cluster":
        lines.append("  (rather more: this takes tasks to be independent, and those of a type are not)")
    return lines


def _task_list(title: str, tasks: "Sequence[str]", most: int | None) -> list[str]:
    from multiturn.reports.untrusted import reveal

    lines = [f"  {title}: {len(tasks) or 'none'}", *(f"    {reveal(task)}" for task in tasks[:most])]
    if most is not None and len(tasks) > most:
        lines.append(f"    and {len(tasks) - most} more (--all lists them)")
    return lines
