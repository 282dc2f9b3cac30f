"""An environment whose tasks say what befalls it in them. Imported by name in worker processes."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, cast

from multiturn.envs import ExpertAction, Step, Task
from multiturn.errors import ConfigError, EnvironmentFaultError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STEPS = 4
"""So many steps make an episode; in the second one, it happens."""


class Failing:
    """Counts the steps and pays a quarter for each. A task is what befalls the environment, and a number.

    Args:
        simulator: Whether it starts another process, without which it cannot answer.
    """

    name = "failing"
    fingerprint = "failing/1"
    instructions = ""
    invalid_observation = "Nothing happens."
    max_turns = STEPS + 1

    def __init__(self, *, simulator: bool = False) -> None:
        self.befalls, self.count = "", 0
        self.simulator: subprocess.Popen[bytes] | None = None
        if simulator:
            self.simulator = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    def tasks(self, split: str) -> Sequence[Task]:
        return [Task(id=f"{what}/0", split=split, type=what) for what in ("nothing", *HARMLESS, *FAULTS)]

    def reset(self, task_id: str) -> Step:
        self.befalls, self.count = task_id.partition("/")[0], 0
        if self.befalls.endswith(" at once"):
            FAILURES[self.befalls.removesuffix(" at once")]()
        return Step(observation=f"This is {task_id}.", info=self.info())

    def step(self, action: str) -> Step:
        self.count += 1
        if self.simulator is not None and self.simulator.poll() is not None:
            raise EnvironmentFaultError("the simulator is gone", kind="crashed")
        if self.count == 2 and self.befalls in FAILURES and (answer := FAILURES[self.befalls]()) is not None:
            return cast("Step", answer)
        over = self.count >= STEPS
        return Step(observation=f"{self.count}", reward=0.25, terminated=over, success=over, info=self.info())

    def info(self) -> dict[str, int]:
        return {} if self.simulator is None else {"simulator": self.simulator.pid}

    def expert_action(self) -> ExpertAction | None:
        return None

    def close(self) -> None:
        pass


def _raise() -> None:
    raise ValueError("I was told to")


def _raise_as_if_misused() -> None:
    raise ConfigError("as if the user had been wrong")


def _crash() -> None:
    ctypes.string_at(0)


def _print() -> None:
    sys.stdout.write("noise\n" * 20_000)
    sys.stdout.flush()
    os.write(1, b'{"step": null, "expert": null, "max_turns": 1}\n')


def _scribble() -> None:
    """Into everything that is open, among it what the answers are written to."""
    for number in range(3, 32):
        try:
            os.write(number, b"garbage\n")
        except OSError:
            continue


def _fork_hanging() -> None:
    if os.fork() == 0:
        time.sleep(600)


def _fork_returning() -> None:
    """Now two processes go on and answer."""
    os.fork()


def _fork_and_exit() -> None:
    _fork_hanging()
    os._exit(3)


FAILURES: dict[str, Callable[[], object]] = {
    "hang": lambda: time.sleep(600),
    "exit": lambda: os._exit(3),
    "crash": _crash,
    "raise": _raise,
    "misuse": _raise_as_if_misused,
    "big": lambda: Step(observation="x" * 10_000_000),
    "tuple": lambda: ("an observation", 0.0, False),
    "bytes": lambda: Step(observation=cast("str", b"bytes")),
    "scribble": _scribble,
    "fork and exit": _fork_and_exit,
    "print": _print,
    "fork hanging": _fork_hanging,
    "fork returning": _fork_returning,
}
FAULTS = {
    "hang": "hung",
    "hang at once": "hung",
    "exit": "crashed",
    "exit at once": "crashed",
    "crash": "crashed",
    "raise": "raised",
    "raise at once": "raised",
    "misuse": "raised",
    "big": "oversized",
    "tuple": "garbage",
    "bytes": "garbage",
    "scribble": "garbage",
    "fork and exit": "crashed",
}
"""What a rollout does not survive in one process, and the kind of fault it is."""
HARMLESS = ("print", "fork hanging", "fork returning")
"""What does no harm to an isolated environment."""
