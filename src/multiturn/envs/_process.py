"""The parent's end of an isolated environment: one child process, its lines, and its end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from typing import IO, TYPE_CHECKING

from multiturn.envs import _wire
from multiturn.errors import ConfigError, EnvironmentFaultError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["WorkerProcess", "wait_readable"]

_CLOSE_SECONDS = 5.0
_UNDER_WAY_SECONDS = 1.0
"""How long the rest of a line is waited for whose beginning is there."""
_CHUNK_BYTES = 1 << 20
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
        assert self._popen.stdout is not None  # noqa: S101 - asked for above
        self._answers = self._popen.stdout.fileno()
        # Answers are read where they are wanted. A thread that waits for them would cost more than most
        # environments take to answer: it has to be woken, and then to wake whoever waits for the line.
        os.set_blocking(self._answers, False)
        self._lines: deque[bytes] = deque()
        self._part = bytearray()
        self._ended = False
        self._last_words: deque[bytes] = deque(maxlen=50)
        self._end = weakref.finalize(self, _kill, self._popen)
        self._listener = threading.Thread(
            target=_read_noise, args=(self._popen.stderr, self._last_words), daemon=True
        )
        self._listener.start()
        self._write(line)

    @property
    def pid(self) -> int:
        """The process's id, which is also its group's."""
        return self._popen.pid

    @property
    def has_line(self) -> bool:
        """Whether `read_line` would return at once with something."""
        return self._take_in()

    def fileno(self) -> int:
        """What becomes readable when there may be a line; see `wait_readable`."""
        return self._answers

    def call(self, name: str, argument: str) -> None:
        """Send a call. A process that is gone is noticed by `read_line`."""
        self._write(_wire.dump({"call": name, "argument": argument}))

    def read_line(self, timeout: float) -> bytes | None:
        """The next line; None if there is none in time, and ``b""`` for ever once the process has ended.

        Args:
            timeout: Seconds to wait.
        """
        until = time.monotonic() + timeout
        while not self._take_in():
            left = until - time.monotonic()
            if left <= 0.0:
                return None
            wait_readable([self._answers], left)
        return self._lines.popleft() if self._lines else b""

    def last_words(self) -> str:
        """How the process ended and the last that it printed, for an error message."""
        if self._popen.returncode is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(1.0)
                # At once: from now on the number may go to another group, so `kill` leaves it alone. And
                # whatever it has started may hold its stderr open, so that there would be no last word.
                _kill_group(self._popen.pid)
        self._listener.join(1.0)
        code = self._popen.returncode
        how = "is still there" if code is None else f"exit code {code}" if code >= 0 else _signal_name(-code)
        words = b"".join(list(self._last_words)).decode("utf-8", "replace")[-_LAST_WORDS_CHARS:].strip()
        return f"{how}; its last words: {words}" if words else f"{how}; it printed nothing"

    def kill(self) -> None:
        """Kill the process and all that it started."""
        self._end()

    def close(self) -> None:
        """Let the environment close itself for a few seconds, then kill what is left."""
        _close(self._popen.stdin)
        until = time.monotonic() + _CLOSE_SECONDS
        while self.read_line(until - time.monotonic()):
            pass  # answers that nobody has fetched
        self._end()

    def _take_in(self) -> bool:
        """Take in what the process has sent; whether there is a line now, or its end."""
        while not self._lines and not self._ended:
            try:
                chunk = os.read(self._answers, _CHUNK_BYTES)
            except BlockingIOError:
                # A pipe holds little, and the process is stuck with the rest of its line until it is read.
                if not self._part or not wait_readable([self._answers], _UNDER_WAY_SECONDS):
                    return False
                continue
            self._part += chunk
            if b"\n" in chunk:
                *lines, self._part = self._part.split(b"\n")
                self._lines.extend(map(bytes, lines))
            elif len(self._part) > _wire.MAX_LINE_BYTES:
                self._lines.append(bytes(self._part))
                self._ended = True
            elif not chunk:
                self._ended = True
        return True

    def _write(self, line: bytes) -> None:
        stdin = self._popen.stdin
        assert stdin is not None  # noqa: S101 - asked for above
        with contextlib.suppress(OSError, ValueError):  # a closed pipe: `read_line` tells
            stdin.write(line)
            stdin.flush()


def wait_readable(files: Iterable[int], timeout: float) -> bool:
    """Wait until one of some pipes or sockets has something to read, or has ended.

    Args:
        files: Their descriptors.
        timeout: Seconds to wait at most.

    Returns:
        Whether one has.
    """
    poller = select.poll()
    for file in files:
        poller.register(file, select.POLLIN)
    return bool(poller.poll(max(0.0, timeout) * 1000.0))


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
    _close(popen.stdin)
    _close(popen.stdout)


def _close(stream: IO[bytes] | None) -> None:
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.close()


def _kill_group(number: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # it is empty, or the system has no groups
        os.killpg(number, signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"
