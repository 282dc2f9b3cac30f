"""Progress with an ETA: a live bar on a terminal, a plain line now and then in a log.

Use::

    with progress("SFT", total=120) as bar:
        for batch in batches:
            ...
            bar.advance(note="loss 0.21")

The first line shows at once, so that nobody wonders whether anything happens. Set ``MULTITURN_PROGRESS``
to ``plain`` (lines even on a terminal) or ``off`` (nothing); the default is ``auto``. Of several processes
that work together only the first shows anything.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as EtaColumn

from multiturn.launch import process_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Bar", "duration", "progress", "tell"]

PLAIN_INTERVAL: Final = 10.0
"""Seconds between two plain lines."""
FIRST_INTERVAL: Final = 3.0
"""Seconds until the first plain line that holds an ETA."""


class Bar(Protocol):
    """What the work reports to. Thread-safe."""

    def advance(self, count: int = 1, *, note: str | None = None) -> None:
        """Count `count` more units as done; `note` replaces the text shown behind the bar."""

    def resize(self, total: int) -> None:
        """Set the number of units that is now expected in all."""


def progress(
    label: str, *, total: int | None, done: int = 0, quiet: bool = False
) -> contextlib.AbstractContextManager[Bar]:
    """Show the progress of a piece of work until the context ends.

    Args:
        label: What is being done, in a word or three.
        total: The number of units of work; None when unknown (no ETA is shown then).
        done: The units that an earlier, interrupted attempt already did; they do not count in the ETA's rate.
        quiet: Show nothing, for work that is too small to mention.

    Returns:
        A context manager that yields the bar.
    """
    mode = os.environ.get("MULTITURN_PROGRESS", "auto")
    if quiet or mode == "off" or process_index() > 0:
        return contextlib.nullcontext(_Silent())
    if mode != "plain" and sys.stderr.isatty():
        return _live(label, total, done)
    return _plain(label, total, done)


def duration(seconds: float) -> str:
    """A duration as people say it: ``8 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def tell(line: str, *, quiet: bool = False) -> None:
    """Write a line where progress is shown, unless that is off.

    Args:
        line: The line.
        quiet: Write nothing.
    """
    off = quiet or os.environ.get("MULTITURN_PROGRESS", "auto") == "off" or process_index() > 0
    if not off:
        sys.stderr.write(f"{line}\n")


class _Silent:
    """A bar that shows nothing."""

    def advance(self, count: int = 1, *, note: str | None = None) -> None:
        """Do nothing."""

    def resize(self, total: int) -> None:
        """Do nothing."""


class _PlainBar:
    """Writes a line every few seconds; made for logs.

    Args:
        label: What is being done.
        total: The units of work, None when unknown.
        done: The units done before.
        write: Takes each line.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        done: int,
        *,
        write: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        self._total = total
        self._before = self._done = done
        self._note = ""
        self._write = write
        self._clock = clock
        self._lock = threading.Lock()
        self._started = clock()
        self._next = self._started + FIRST_INTERVAL
        counted = "" if total is None else f" {done}/{total}"
        self._write(f"{label}:{counted} started")

    def advance(self, count: int = 1, *, note: str | None = None) -> None:
        """Count units; write a line when the last one is old enough."""
        with self._lock:
            self._done += count
            if note is not None:
                self._note = note
            now = self._clock()
            if now >= self._next:
                self._next = now + PLAIN_INTERVAL
                self._write(self._line(now - self._started))

    def resize(self, total: int) -> None:
        """Set the expected number of units."""
        with self._lock:
            self._total = total

    def close(self, *, finished: bool) -> None:
        """Write the last line."""
        with self._lock:
            counted = str(self._done) if self._total is None else f"{self._done}/{self._total}"
            verb = "done in" if finished else "stopped after"
            note = f", {self._note}" if self._note else ""
            self._write(f"{self._label}: {counted} {verb} {duration(self._clock() - self._started)}{note}")

    def _line(self, elapsed: float) -> str:
        parts = [f"{duration(elapsed)} elapsed"]
        counted = str(self._done)
        if self._total is not None:
            counted = f"{self._done}/{self._total}"
            fresh = self._done - self._before
            if fresh > 0:
                parts.append(f"ETA {duration((self._total - self._done) * elapsed / fresh)}")
        if self._note:
            parts.append(self._note)
        return f"{self._label}: {counted}, {', '.join(parts)}"


@contextlib.contextmanager
def _plain(label: str, total: int | None, done: int) -> Iterator[Bar]:
    def write(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    bar = _PlainBar(label, total, done, write=write)
    finished = False
    try:
        yield bar
        finished = True
    finally:
        bar.close(finished=finished)


class _LiveBar:
    """One row of the live display."""

    def __init__(self, display: Progress, label: str, total: int | None, done: int) -> None:
        self._display = display
        self.task = display.add_task(label, total=total, completed=done, note="")

    def advance(self, count: int = 1, *, note: str | None = None) -> None:
        """Count units."""
        if note is None:
            self._display.advance(self.task, count)
        else:
            self._display.update(self.task, advance=count, note=note)

    def resize(self, total: int) -> None:
        """Set the expected number of units."""
        self._display.update(self.task, total=total)


class _Display:
    """The one live display of the process: rich allows a single one at a time, so nested bars share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._progress: Progress | None = None

    def acquire(self) -> Progress:
        """The display, started with its first user."""
        with self._lock:
            if self._progress is None:
                self._progress = Progress(
                    TextColumn("{task.description}", markup=False),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeElapsedColumn(),
                    TextColumn("ETA"),
                    EtaColumn(),
                    TextColumn("{task.fields[note]}", markup=False),
                    console=Console(stderr=True),
                )
                self._progress.start()
            self._users += 1
            return self._progress

    def release(self) -> None:
        """Stop the display with its last user."""
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._progress is not None:
                self._progress.stop()
                self._progress = None


_DISPLAY = _Display()


@contextlib.contextmanager
def _live(label: str, total: int | None, done: int) -> Iterator[Bar]:
    display = _DISPLAY.acquire()
    try:
        bar = _LiveBar(display, label, total, done)
        yield bar
    finally:
        _DISPLAY.release()
