"""Look whether ScienceWorld is installed and runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from multiturn.envs.prepare import Finding
from multiturn.envs.scienceworld.environment import scienceworld
from multiturn.envs.scienceworld.java import package_version
from multiturn.errors import ConfigError, EnvironmentFaultError, MissingExtraError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["prepare_scienceworld"]

_TESTED: Final = ("1.2.3",)
_TASK: Final = "find-non-living-thing/0"
"""A short task: some eight actions."""


def prepare_scienceworld(_path: Path | str | None = None) -> list[Finding]:
    """Look for the package and its Java, and play a task by the simulator's own solution.

    Returns:
        What was found.
    """
    try:
        version = package_version()
    except MissingExtraError as error:
        return [Finding(what=str(error), ok=False, remedy="pip install 'multiturn[scienceworld]'")]
    tested = version in _TESTED
    findings = [
        Finding(
            what=f"ScienceWorld {version}" + ("" if tested else f", tested is {', '.join(_TESTED)}"),
            ok=tested,
            remedy=""
            if tested
            else f"pip install scienceworld=={_TESTED[-1]}, or compare with that version's only",
        )
    ]
    try:
        env = scienceworld()
    except (MissingExtraError, ConfigError, EnvironmentFaultError) as error:
        remedy = (
            "pip install 'multiturn[scienceworld]', or use the option java: system with a Java of your own"
        )
        return [*findings, Finding(what=str(error), ok=False, remedy=remedy)]
    try:
        env.reset(_TASK)
        best = 0.0
        while (expert := env.expert_action()) is not None:
            best = float(str(env.step(expert.action).info["best"]))
        solved = best == 1.0
        findings.append(
            Finding(
                what=f"its solution of {_TASK} scores {best:g}",
                ok=solved,
                remedy="" if solved else "the simulator is not as it should be; install it again",
            )
        )
    except EnvironmentFaultError as error:
        findings.append(Finding(what=str(error), ok=False, remedy="look at what Java says above"))
    finally:
        env.close()
    return findings
