"""The parent's end of an isolated environment: one child process, its lines, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from typing import IO, TYPE_CHECKING

from multiturn.envs import _wire
from multiturn.errors import ConfigError, EnvironmentFaultError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ANSWERED", "WorkerProcess"]

ANSWERED = threading.Condition()
"""Notified whenever any worker has sent a line or ended."""

_CLOSE_SECONDS = 5.0
_LAST_WORDS_CHARS = 2000


class WorkerProcess:
    """A child process that serves one environment; see `multiturn.envs._worker`.

    It leads a process group of its own, which is killed as a whole: with `kill`, with `close`, when this
    object is forgotten, and at the end of this process. Should this process be killed, the child notices that
    its stdin is closed and kills the group itself.

    Args:
        target: The environment's factory, as ``module:factory``.
        options: Its options, as JSON.

    Raises:
        ConfigError: The options are not JSON.
    """

    def __init__(self, target: str, options: Mapping[str, object]) -> None:
        try:
            line = _wire.dump({"target": target, "options": dict(options)})
        except EnvironmentFaultError as error:
            raise ConfigError(
                f"the options of {target!r} go to another process and must be plain JSON values: {options!r}"
            ) from error
        # What multiprocessing's spawn does as well, but without importing the user's __main__ again.
        code = f"import sys; sys.path[:] = {sys.path!r}; from multiturn.envs._worker import main; main()"
        self._popen = subprocess.Popen(  # noqa: S603 - our own interpreter running our own code
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._lines: deque[bytes] = deque()
        self._last_words: deque[bytes] = deque(maxlen=50)
        self._end = weakref.finalize(self, _kill, self._popen)
        self._readers = [
            threading.Thread(target=_read_lines, args=(self._popen.stdout, self._lines), daemon=True),
            threading.Thread(target=_read_noise, args=(self._popen.stderr, self._last_words), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        self._write(line)

    @property
    def pid(self) -> int:
        """The process's id, which is also its group's."""
        return self._popen.pid

    @property
    def has_line(self) -> bool:
        """Whether `read_line` would return at once with something."""
        return bool(self._lines)

    def call(self, name: str, argument: str) -> None:
        """Send a call. A process that is gone is noticed by `read_line`."""
        self._write(_wire.dump({"call": name, "argument": argument}))

    def read_line(self, timeout: float) -> bytes | None:
        """The next line; None if there is none in time, and ``b""`` for ever once the process has ended.

        Args:
            timeout: Seconds to wait.
        """
        with ANSWERED:
            if timeout > 0.0:  # a rollout polls many slots again and again, most of them without waiting
                ANSWERED.wait_for(lambda: self._lines, timeout)
            if not self._lines:
                return None
            return self._lines.popleft() if self._lines[0] else b""

    def last_words(self) -> str:
        """How the process ended and the last that it printed, for an error message."""
        if self._popen.returncode is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(1.0)
                # At once: from now on the number may go to another group, so `kill` leaves it alone. And
                # whatever it has started may hold its stderr open, so that there would be no last word.
                _kill_group(self._popen.pid)
        self._readers[1].join(1.0)
        code = self._popen.returncode
        how = "is still there" if code is None else f"exit code {code}" if code >= 0 else _signal_name(-code)
        words = b"".join(list(self._last_words)).decode("utf-8", "replace")[-_LAST_WORDS_CHARS:].strip()
        return f"{how}; its last words: {words}" if words else f"{how}; it printed nothing"

    def kill(self) -> None:
        """Kill the process and all that it started."""
        self._end()

    def close(self) -> None:
        """Let the environment close itself for a few seconds, then kill what is left."""
        self._write(_wire.dump({"call": "close", "argument": ""}))
        self._readers[0].join(_CLOSE_SECONDS)
        self._end()

    def _write(self, line: bytes) -> None:
        stdin = self._popen.stdin
        assert stdin is not None  # noqa: S101 - asked for above
        with contextlib.suppress(OSError, ValueError):  # a closed pipe: `read_line` tells
            stdin.write(line)
            stdin.flush()


def _read_lines(stream: IO[bytes], lines: deque[bytes]) -> None:
    with stream:
        while True:
            line = stream.readline(_wire.MAX_LINE_BYTES + 1)
            with ANSWERED:
                lines.append(line)
                ANSWERED.notify_all()
            if not line.endswith(b"\n"):
                return


def _read_noise(stream: IO[bytes], last_words: deque[bytes]) -> None:
    with stream:
        while chunk := stream.readline(1 << 12):
            last_words.append(chunk)


def _kill(popen: subprocess.Popen[bytes]) -> None:
    # The group first: while its leader has not been waited for, its number cannot belong to anyone else.
    if popen.returncode is None:
        _kill_group(popen.pid)
    popen.kill()
    popen.wait()
    if popen.stdin is not None:
        with contextlib.suppress(OSError):
            popen.stdin.close()


def _kill_group(number: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # it is empty, or the system has no groups
        os.killpg(number, signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"
