"""An environment that fails on demand: the action says how. Imported by name in worker processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from multiturn.envs import ExpertAction, Step, Task
from multiturn.errors import ConfigError, EnvironmentFaultError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

IDS = ("t0", "t1", "t2")


class Faulty:
    """Says back what it is told, unless told to fail."""

    name = "faulty"
    instructions = "Say something."
    invalid_observation = "Nothing happens."

    def __init__(self, *, fail: str = "", changing: bool = False, pid_file: str = "") -> None:
        self.fingerprint = f"faulty/{os.getpid()}" if changing else "faulty/1"
        self.max_turns = 7
        self.said = 0
        _fail_to_start(fail)
        if fail == "facts":
            self.instructions = cast("str", None)
        if pid_file:
            # Stands for a simulator that the environment starts: it must not survive either.
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            Path(pid_file).write_text(f"{os.getpid()} {child.pid}", encoding="utf-8")

    def tasks(self, split: str) -> Sequence[Task]:
        if split != "train":
            raise ConfigError(f"there is no split {split!r}; there is 'train'")
        return [Task(id=task_id, split="train", type="talk") for task_id in IDS]

    def reset(self, task_id: str) -> Step:
        if task_id not in IDS:
            raise ConfigError(f"there is no task {task_id!r}")
        self.said = 0
        return Step(observation=f"This is {task_id}.")

    def step(self, action: str) -> Step:
        if action == "limit":
            self.max_turns = 0
        failure = FAILURES.get(action)
        answer = Step(observation=f"You said: {action}", reward=0.25, info={"pid": os.getpid()})
        return answer if failure is None else cast("Step", failure() or answer)

    def expert_action(self) -> ExpertAction | None:
        self.said += 1
        return ExpertAction(action=f"word {self.said}", thought="Why not.") if self.said < 3 else None

    def close(self) -> None:
        pass


def _fail_to_start(fail: str) -> None:
    if fail == "missing":
        raise MissingExtraError("the faulty environment", extra="faulty", missing="nowhere")
    if fail == "config":
        raise ConfigError("fail is 'config'")
    if fail == "raise":
        raise RuntimeError("no such luck")
    if fail == "exit":
        os._exit(3)
    if fail == "hang":
        time.sleep(600)


def _crash() -> None:
    sys.stderr.write("the end is near\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def _exit() -> None:
    sys.exit(9)


def _raise() -> None:
    raise ValueError("I was told to")


def _raise_fault() -> None:
    raise EnvironmentFaultError("the simulator is gone", kind="crashed")


def _noise() -> None:
    sys.stdout.write("noise " * 20_000)
    sys.stdout.flush()
    os.write(1, b'{"step": null}\n')
    subprocess.run([sys.executable, "-c", "print('noise from a child')"], check=True)
    assert sys.stdin.read() == ""


def _half() -> None:
    """Die in the middle of a line, as an environment does whose memory runs out while it answers."""
    for file in range(3, 10):
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(os.fstat(file).st_mode) and fcntl.fcntl(file, fcntl.F_GETFL) & os.O_WRONLY:
                os.write(file, b'{"step": ')
    os.kill(os.getpid(), signal.SIGKILL)


FAILURES: dict[str, Callable[[], Any]] = {
    "hang": lambda: time.sleep(600),
    "nap": lambda: time.sleep(0.5),
    "crash": _crash,
    "exit": _exit,
    "half": _half,
    "long": lambda: Step(observation="\u20ac" * (1 << 20)),
    "raise": _raise,
    "raise a fault": _raise_fault,
    "noise": _noise,
    "big": lambda: Step(observation="x" * 10_000_000),
    "big info": lambda: Step(observation="", info={"x": "x" * 20_000_000}),
    "not a step": lambda: ("observation", 0.0, False),
    "no text": lambda: Step(observation=cast("str", 3)),
    "nan": lambda: Step(observation="", reward=float("nan")),
    "text reward": lambda: Step(observation="", reward=cast("float", "1")),
    "not a flag": lambda: Step(observation="", terminated=cast("bool", "no")),
    "not a success": lambda: Step(observation="", success=cast("bool", "no")),
    "no info": lambda: Step(observation="", info=cast("dict[str, str]", None)),
    "info": lambda: Step(observation="", info={"what": cast("str", object())}),
    "odd text": lambda: Step(observation="\ud800 \x00 \u2028 \U0001f600 <|im_end|>\n", info={"a": [1, None]}),
}

not_callable = 3
