"""The driver's end of an environment on a Ray cluster.

An actor on some machine holds the same child process that isolates an environment on this one, and passes its
lines on. So `multiturn.envs.isolation.ProcessSlot` knows of no difference: deadlines, faults and restarts are
its own, and an actor or machine that is lost is a process that ended.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from multiturn.envs._process import WorkerProcess, wait_readable
from multiturn.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["HERE", "RayWorker", "connect"]

HERE: Final = "local"
"""Stands for a Ray of this machine's own, started where it is needed."""

_STORE_BYTES: Final = 100 * 2**20
"""Shared memory of a Ray that is started here; lines are small."""
_SECONDS: Final = 5.0
"""For a last word, or a gentle end."""
_CPUS: Final = 1.0
"""Cores that Ray sets aside for an environment."""


def connect(cluster: str) -> None:
    """Connect this process to a Ray cluster; once is enough.

    Args:
        cluster: `HERE`, ``auto`` (the cluster that this machine is part of), or an address as Ray takes it.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: The cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("an environment on a cluster", extra="ray", missing="ray") from error
    if ray.is_initialized():
        return
    quietly: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if cluster == HERE:
            ray.init(
                _node_ip_address="127.0.0.1",
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                **quietly,
            )
        else:
            ray.init(address=cluster, **quietly)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        raise ConfigError(
            f"there is no Ray cluster at {cluster!r} ({error}); start one with `ray start --head`, or set "
            f"environment.ray to {HERE}"
        ) from error


class _Host:
    """What runs on the cluster: the child process, and its lines one at a time."""

    def __init__(self, target: str, options: Mapping[str, object]) -> None:
        self._worker = WorkerProcess(target, options)

    def pid(self) -> int:
        """The child process's id, on its machine."""
        return self._worker.pid

    def next_line(self) -> bytes:
        """Wait for the next line; ``b""`` once the process has ended."""
        line = None
        while line is None:
            line = self._worker.read_line(1.0)
        return line

    def exchange(self, name: str, argument: str) -> bytes:
        """Send a call and wait for its answer."""
        self._worker.call(name, argument)
        return self.next_line()

    def last_words(self) -> str:
        """See `WorkerProcess.last_words`."""
        return self._worker.last_words()

    def close(self) -> None:
        """End the process, gently at first."""
        self._worker.close()


class RayWorker:
    """A worker process on a Ray cluster, with what `WorkerProcess` offers.

    Should this process be killed, Ray ends its actors, and each child notices that its stdin is closed.

    Args:
        target: The environment's factory, as ``module:factory``; importable on every machine of the cluster.
        options: Its options, as JSON.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, target: str, options: Mapping[str, object]) -> None:
        import ray

        self._ray = ray
        self._lines: deque[bytes] = deque()
        # Ray answers in a thread of its own, which rings for each line that it adds.
        self._bell, self._ring = socket.socketpair()
        self._lost = ""
        host: Any = ray.remote(_Host)
        # A lost episode is begun again by whoever plays it, so nothing is restarted or repeated here.
        self._host = host.options(num_cpus=_CPUS, max_restarts=0, max_task_retries=0).remote(
            target, dict(options)
        )
        self._await(self._host.next_line.remote())

    @property
    def pid(self) -> int:
        """The id of the environment's process on its own machine; waits for it to be there."""
        return int(self._ray.get(self._host.pid.remote()))

    @property
    def has_line(self) -> bool:
        """Whether `read_line` would return at once with something."""
        return bool(self._lines)

    def fileno(self) -> int:
        """What becomes readable when there is a line."""
        return self._bell.fileno()

    def call(self, name: str, argument: str) -> None:
        """Send a call. An actor that is gone is noticed by `read_line`."""
        self._await(self._host.exchange.remote(name, argument))

    def read_line(self, timeout: float) -> bytes | None:
        """The next line; None if there is none in time, and ``b""`` for ever once the process has ended.

        Args:
            timeout: Seconds to wait.
        """
        if not wait_readable([self._bell.fileno()], timeout):
            return None
        if not self._lines[0]:
            return b""
        self._bell.recv(1)
        return self._lines.popleft()

    def last_words(self) -> str:
        """How the process or its actor ended, for an error message."""
        if self._lost:
            return self._lost
        try:
            return str(self._ray.get(self._host.last_words.remote(), timeout=_SECONDS))
        except Exception as error:  # noqa: BLE001 - a cluster may fail in any way, and this is about a failure
            return f"its actor is lost ({_first_line(error)})"

    def kill(self) -> None:
        """Kill the actor; its child ends with it."""
        with contextlib.suppress(Exception):  # it may be gone, with its machine or the cluster
            self._ray.kill(self._host)
        self._bell.close()
        self._ring.close()

    def close(self) -> None:
        """Let the environment close itself for a few seconds, then kill what is left."""
        until = time.monotonic() + _SECONDS
        with contextlib.suppress(Exception):
            self._ray.get(self._host.close.remote(), timeout=max(0.0, until - time.monotonic()))
        self.kill()

    def _await(self, reference: Any) -> None:
        """Have the line that a reference stands for put with the others once it is there."""
        reference.future().add_done_callback(self._receive)

    def _receive(self, future: Any) -> None:
        error = future.exception()
        if error is not None:
            self._lost = f"its actor is lost ({_first_line(error)})"
        self._lines.append(b"" if error is not None else future.result())
        with contextlib.suppress(OSError):  # closed: nobody waits any more
            self._ring.send(b"\0")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
