"""The errors that multiturn raises on purpose.

Every message says what is wrong, where, and what to do. The command line prints the message alone (no
traceback) and leaves with the class's exit code::

    MultiturnError                1
    ├── ConfigError               2   a setting, an option or an argument is not usable
    │   └── LayoutError           2   a model cannot take its batches in the layout that was asked for
    ├── DataError                 3   the contents of a file or a dataset are not usable
    │   └── TemplateError         3   a chat template cannot tell where an assistant turn lies
    ├── RunStateError             4   a run directory or store belongs to another configuration
    ├── EnvironmentFaultError     5   an environment crashed, hung or answered nonsense
    ├── MissingExtraError         6   an optional dependency is not installed
    ├── TrainingError             7   training cannot go on (a non-finite loss, for example)
    └── AgentFaultError           8   a server that plays is out of reach, refuses or answers nonsense
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "AgentFaultError",
    "ConfigError",
    "DataError",
    "EnvironmentFaultError",
    "FaultKind",
    "LayoutError",
    "MissingExtraError",
    "MultiturnError",
    "RunStateError",
    "TemplateError",
    "TrainingError",
]

FaultKind = Literal["crashed", "hung", "raised", "garbage", "oversized"]


class MultiturnError(Exception):
    """The root of every error that multiturn raises on purpose."""

    exit_code: ClassVar[int] = 1


class ConfigError(MultiturnError):
    """A setting, a command-line option or an argument is not usable."""

    exit_code: ClassVar[int] = 2


class LayoutError(ConfigError):
    """A model cannot take its batches in the layout, or score them in the way, that was asked for."""


class DataError(MultiturnError):
    """The contents of a file or a dataset are not usable.

    Args:
        message: What is wrong and what to do.
        path: The file, when the data came from one.
        line: The 1-based line in that file.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, *, path: Path | str | None = None, line: int | None = None) -> None:
        self.path = path
        self.line = line
        place = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        super().__init__(f"{place}{message}")


class TemplateError(DataError):
    """A chat template does not tell exactly where an assistant turn begins and ends."""


class RunStateError(MultiturnError):
    """A run directory or a store was made with another configuration, model or environment."""

    exit_code: ClassVar[int] = 4


class EnvironmentFaultError(MultiturnError):
    """An environment crashed, hung beyond its deadline or answered something unusable.

    Args:
        message: What happened.
        kind: ``"crashed"`` (its process or simulator died), ``"hung"`` (no answer before the deadline),
            ``"raised"`` (an unexpected exception), ``"garbage"`` (an answer that is none) or ``"oversized"``.
            Faults are counted by it.
    """

    exit_code: ClassVar[int] = 5

    def __init__(self, message: str, *, kind: FaultKind = "raised") -> None:
        self.kind: FaultKind = kind
        super().__init__(message)


class MissingExtraError(MultiturnError):
    """An optional dependency is not installed.

    Args:
        what: What needed it, for example ``"the scienceworld environment"``.
        extra: The name of the extra, for example ``"scienceworld"``.
        missing: The module that could not be imported.
    """

    exit_code: ClassVar[int] = 6

    def __init__(self, what: str, *, extra: str, missing: str) -> None:
        super().__init__(
            f"{what} needs the Python package {missing!r}, which is not installed; "
            f"run: pip install 'multiturn[{extra}]'"
        )


class TrainingError(MultiturnError):
    """Training cannot go on: a non-finite loss, nothing left to train on."""

    exit_code: ClassVar[int] = 7


class AgentFaultError(MultiturnError):
    """An agent elsewhere is out of reach, refuses what it is asked, or answers nonsense again and again.

    Args:
        message: What happened, and what to do.
        url: What was asked; empty where no single request is to blame.
        status: The HTTP status it answered with; None where there was no answer.
    """

    exit_code: ClassVar[int] = 8

    def __init__(self, message: str, *, url: str = "", status: int | None = None) -> None:
        self.url = url
        self.status = status
        super().__init__(message)
