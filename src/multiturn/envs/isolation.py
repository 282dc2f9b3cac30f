"""A slot whose environment lives in a process of its own."""

from __future__ import annotations

import contextlib
import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from multiturn.envs import _wire
from multiturn.envs._process import WorkerProcess
from multiturn.envs._wire import EnvironmentFacts, SlotAnswer
from multiturn.errors import ConfigError, EnvironmentFaultError, MultiturnError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from multiturn.envs._ray import RayWorker
    from multiturn.envs.base import Task
    from multiturn.envs.slots import Call

__all__ = ["ProcessSlot", "require_idle", "require_open", "same_facts"]

START_SECONDS = 120.0
"""An environment may take this long to be made, whatever the deadline of its calls."""


class ProcessSlot:
    """A slot whose environment lives in a process of its own, with a deadline for every call.

    The process is started at once and replaced whenever it dies, hangs, or its environment raises or answers
    something unusable. It ends with this process, however that ends.

    Args:
        target: The environment's factory, as ``module:factory``.
        options: Its options; they travel as JSON.
        deadline: Seconds that a call may take.
        start_deadline: Seconds that making the environment may take.
        worker: Starts the process: on this machine, or on a Ray cluster.
    """

    def __init__(
        self,
        target: str,
        options: Mapping[str, object],
        *,
        deadline: float = 60.0,
        start_deadline: float = START_SECONDS,
        worker: Callable[[str, Mapping[str, object]], WorkerProcess | RayWorker] = WorkerProcess,
    ) -> None:
        if not deadline > 0.0:
            raise ConfigError(f"the deadline of an environment's calls is {deadline}; it must be positive")
        self._target = target
        self._spawn = partial(worker, target, dict(options))
        self._deadline = deadline
        self._start_deadline = max(start_deadline, deadline)
        self._facts: EnvironmentFacts | None = None
        self._open: tuple[str, str] | None = None
        self._closed = False
        self._process: WorkerProcess | RayWorker | None = None
        self._greeted = False
        self._due = 0.0
        self._revive()

    @property
    def facts(self) -> EnvironmentFacts:
        """What the environment is."""
        with self._guarded():
            while self._facts is None:
                self._greet(math.inf)
        return self._facts

    @property
    def pid(self) -> int | None:
        """The id of the environment's process; None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def ready(self) -> bool:
        """Whether `poll` would return or raise at once."""
        return self._process is None or self._process.has_line or time.monotonic() > self._due

    def fileno(self) -> int:
        """What becomes readable when the process has sent something. Not `ready`, it must have a process."""
        assert self._process is not None  # noqa: S101 - asked for above
        return self._process.fileno()

    def tasks(self, split: str) -> list[Task]:
        """The tasks of a split; waits for as long as making the environment may take."""
        require_idle(self._open, closed=self._closed)
        with self._guarded():
            while not self._greet(math.inf):
                pass
            self._send("tasks", split, self._start_deadline)
            record = None
            while record is None:
                record = self._next_record(math.inf)
            return _wire.decode_tasks(record.get("tasks"))

    def start(self, call: Call, argument: str = "") -> None:
        """Send the call to the environment's process."""
        require_idle(self._open, closed=self._closed)
        self._revive()
        self._send(call, argument, self._deadline)
        self._open = (call, argument)

    def poll(self, timeout: float = 0.0) -> SlotAnswer | None:
        """The answer to the call that was started; None while it is not ready."""
        call, argument = require_open(self._open)
        if timeout <= 0.0 and not self.ready:
            return None
        until = time.monotonic() + timeout
        try:
            with self._guarded(_wire.describe_call(call, argument)):
                if not self._greet(timeout):
                    return None
                record = self._next_record(until - time.monotonic())
                if record is None:
                    return None
                answer = _wire.decode_answer(record)
        except MultiturnError:
            self._open = None
            raise
        self._open = None
        return answer

    def close(self) -> None:
        """End the process, gently at first."""
        self._closed = True
        self._open = None
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def _revive(self) -> None:
        if self._process is None:
            self._process = self._spawn()
            self._greeted = False
            self._due = time.monotonic() + self._start_deadline

    def _greet(self, timeout: float) -> bool:
        """Whether the environment has been made; its facts arrive before any answer."""
        if self._greeted:
            return True
        self._revive()
        record = self._next_record(timeout)
        if record is None:
            return False
        try:
            facts = EnvironmentFacts(**record)
        except TypeError as error:
            raise EnvironmentFaultError(
                f"the environment's facts are none: {error}", kind="garbage"
            ) from error
        self._facts = same_facts(self._facts, facts)
        self._greeted = True
        # A call that was sent meanwhile has its whole time from now on.
        self._due = time.monotonic() + self._deadline
        return True

    def _send(self, call: str, argument: str, seconds: float) -> None:
        assert self._process is not None  # noqa: S101 - revived by every caller
        self._process.call(call, argument)
        if self._greeted:
            self._due = time.monotonic() + seconds

    def _next_record(self, timeout: float) -> dict[str, Any] | None:
        """What the process says next; None while it says nothing and has time left."""
        assert self._process is not None  # noqa: S101 - revived by every caller
        now = time.monotonic()
        line = self._process.read_line(max(0.0, min(timeout, self._due - now)))
        if line is None:
            if time.monotonic() < self._due:
                return None
            limit = self._deadline if self._greeted else self._start_deadline
            raise EnvironmentFaultError(f"no answer within {limit:g} s", kind="hung")
        if not line:
            raise EnvironmentFaultError(f"its process ended: {self._process.last_words()}", kind="crashed")
        record = _wire.load(line)
        if "error" in record:
            raise _wire.decode_error(record)
        return record

    @contextlib.contextmanager
    def _guarded(self, doing: str = "") -> Iterator[None]:
        """Replace the process after a fault, and say in the message what was being done."""
        try:
            yield
        except EnvironmentFaultError as fault:
            what = (doing or "the call") if self._greeted else "being made"
            self._discard(again=self._greeted)
            name = self._facts.name if self._facts else self._target
            raise EnvironmentFaultError(f"environment {name!r}, {what}: {fault}", kind=fault.kind) from fault
        except MultiturnError:
            # A mistake of the user's. An environment that could not be made for it has left no process.
            if not self._greeted:
                self._discard(again=False)
            raise

    def _discard(self, *, again: bool) -> None:
        """Kill the process; start another at once, so that it is there when it is wanted, if `again`."""
        process, self._process, self._greeted = self._process, None, False
        if process is not None:
            process.kill()
        if again and not self._closed:
            self._revive()


def same_facts(known: EnvironmentFacts | None, new: EnvironmentFacts) -> EnvironmentFacts:
    """The facts of an environment that was made again.

    Raises:
        EnvironmentFaultError: They are not those it had before.
    """
    if known is not None and known != new:
        raise EnvironmentFaultError(
            f"the environment is not what it was before it was made again: fingerprint {new.fingerprint!r} "
            f"instead of {known.fingerprint!r}; its files or packages have changed under the run",
            kind="garbage",
        )
    return new


def require_idle(call: tuple[str, str] | None, *, closed: bool) -> None:
    """Make sure that a call can be started.

    Raises:
        RuntimeError: It cannot.
    """
    if closed:
        raise RuntimeError("the slot is closed")
    if call is not None:
        raise RuntimeError(f"the answer to {call[0]}({call[1]!r}) has not been fetched")


def require_open(call: tuple[str, str] | None) -> tuple[str, str]:
    """The call that was started.

    Raises:
        RuntimeError: None was.
    """
    if call is None:
        raise RuntimeError("no call was started")
    return call
