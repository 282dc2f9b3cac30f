"""Slots: places where episodes are played, one call at a time, in this process or in one of their own.

A rollout starts a call on many slots and polls them, so that nothing waits for the slowest. A slot survives
its environment: after any fault the environment is made anew, and the slot is ready for the next ``reset``.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from multiturn.envs import _wire, registry
from multiturn.envs._process import wait_readable
from multiturn.envs._ray import RayWorker, connect
from multiturn.envs._wire import EnvironmentFacts, SlotAnswer
from multiturn.envs.isolation import ProcessSlot, require_idle, require_open, same_facts
from multiturn.errors import ConfigError, EnvironmentFaultError, MultiturnError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from multiturn.envs.base import Environment, Task

__all__ = [
    "Call",
    "EnvironmentFacts",
    "EnvironmentSlot",
    "LocalSlot",
    "ProcessSlot",
    "SlotAnswer",
    "make_slots",
    "wait_any",
]

Call = Literal["reset", "step", "expert"]

_NAP_SECONDS = 0.001
_LOOK_SECONDS = 0.5


@runtime_checkable
class EnvironmentSlot(Protocol):
    """A place where episodes are played, one call at a time."""

    @property
    def facts(self) -> EnvironmentFacts:
        """What the environment is. Waits for the environment to be made.

        Raises:
            EnvironmentFaultError: It could not be made.
        """
        ...

    def tasks(self, split: str) -> list[Task]:
        """The tasks of a split; waits for the answer.

        Raises:
            ConfigError: There is no such split.
            EnvironmentFaultError: The environment failed.
        """
        ...

    def start(self, call: Call, argument: str = "") -> None:
        """Start a call; its answer comes from `poll`.

        Args:
            call: What to call.
            argument: The task's id for ``reset``, the action for ``step``, nothing for ``expert``.

        Raises:
            RuntimeError: The answer to the previous call has not been fetched.
        """
        ...

    def poll(self, timeout: float = 0.0) -> SlotAnswer | None:
        """The answer to the call that was started; None while it is not ready.

        Args:
            timeout: Seconds to wait for it.

        Raises:
            EnvironmentFaultError: The environment crashed, hung, raised or answered nonsense. It has been
                replaced: the episode is lost, the slot is ready for another ``reset``.
            ConfigError: The environment says that the argument is a mistake, an unknown task for example.
            RuntimeError: No call was started.
        """
        ...

    def close(self) -> None:
        """Free what the slot holds. May be called twice."""
        ...


class LocalSlot:
    """A slot whose environment lives in this process; a call is executed when it is polled.

    There is no deadline: an environment that may hang belongs into a `ProcessSlot`.

    Args:
        factory: Makes the environment.
    """

    def __init__(self, factory: Callable[[], Environment]) -> None:
        self._factory = factory
        self._env: Environment | None = None
        self._facts: EnvironmentFacts | None = None
        self._open: tuple[str, str] | None = None
        self._closed = False

    @property
    def facts(self) -> EnvironmentFacts:
        """What the environment is."""
        if self._facts is None:
            self._facts = _wire.facts_of(self._environment())
        return self._facts

    def tasks(self, split: str) -> list[Task]:
        """The tasks of a split."""
        return _wire.decode_tasks(_wire.encode_tasks(self._environment().tasks(split)))

    def start(self, call: Call, argument: str = "") -> None:
        """Note the call; it is executed by `poll`."""
        require_idle(self._open, closed=self._closed)
        self._open = (call, argument)

    def poll(self, timeout: float = 0.0) -> SlotAnswer | None:  # noqa: ARG002 - the protocol's signature
        """Execute the call that was started."""
        call, argument = require_open(self._open)
        self._open = None
        try:
            answer = _wire.answer_call(self._environment(), call, argument)
            # Strict JSON, as in an isolated slot: what is stored does not depend on the kind of slot.
            _wire.dump(_wire.encode_answer(answer))
        except EnvironmentFaultError as fault:
            self._discard()
            name = self._facts.name if self._facts else "being made"
            what = _wire.describe_call(call, argument)
            raise EnvironmentFaultError(f"environment {name!r}, {what}: {fault}", kind=fault.kind) from fault
        return answer

    def close(self) -> None:
        """Close the environment."""
        self._closed = True
        self._discard()

    def _environment(self) -> Environment:
        if self._env is None:
            try:
                self._env = self._factory()
            except MultiturnError:
                raise
            except Exception as error:
                raise EnvironmentFaultError(
                    f"the environment could not be made: {type(error).__name__}: {error}", kind="raised"
                ) from error
            self._facts = same_facts(self._facts, _wire.facts_of(self._env))
        return self._env

    def _discard(self) -> None:
        env, self._env = self._env, None
        if env is None:
            return
        try:
            env.close()
        except Exception as error:
            # A broken environment may fail to close as well; only a wanted close is worth an error.
            if self._closed:
                raise EnvironmentFaultError(f"close() raised {type(error).__name__}: {error}") from error


def make_slots(
    name: str,
    options: Mapping[str, object],
    count: int,
    *,
    isolate: bool | None = None,
    deadline: float = 60.0,
    ray: str | None = None,
) -> list[EnvironmentSlot]:
    """Open slots for an environment. Isolated ones are all started at once and made side by side.

    Args:
        name: A registered environment, or ``module:factory``.
        options: The options of its factory.
        count: How many slots.
        isolate: Whether each environment lives in a process of its own; None leaves it to the registry.
        deadline: Seconds that a call to an isolated environment may take.
        ray: The Ray cluster whose machines hold the environments' processes: ``local`` (started here),
            ``auto`` or an address; None for this machine without Ray. Environments on a cluster are isolated.

    Raises:
        ConfigError: There is no such environment or option, it cannot be isolated, or there is no such
            cluster.
        MissingExtraError: Ray is not installed.
    """
    if count < 1:
        raise ConfigError(f"{count} slots make no rollout; at least one is needed")
    entry = registry.find(name)
    registry.check_options(name, options)
    if ray is not None:
        if isolate is False:
            raise ConfigError("an environment on a Ray cluster is isolated; leave one of the two out")
        connect(ray)
        target = entry.importable()
        return [ProcessSlot(target, options, deadline=deadline, worker=RayWorker) for _ in range(count)]
    if isolate if isolate is not None else entry.isolated(options):
        target = entry.importable()
        return [ProcessSlot(target, options, deadline=deadline) for _ in range(count)]
    return [LocalSlot(partial(registry.make, name, **options)) for _ in range(count)]


def wait_any(slots: Iterable[EnvironmentSlot], timeout: float) -> bool:
    """Wait until `poll` of one of the slots would not return None.

    Args:
        slots: Slots with an open call.
        timeout: Seconds to wait at most.

    Returns:
        Whether there is such a slot. Slots of other kinds than `ProcessSlot` always count as such; those that
        are not from here, which may need time all the same, after a millisecond.
    """
    until = time.monotonic() + timeout
    watched = list(slots)
    processes = [slot for slot in watched if isinstance(slot, ProcessSlot)]

    if len(processes) < len(watched):
        if not any(isinstance(slot, LocalSlot) for slot in watched) and not any(p.ready for p in processes):
            # Whoever asks in a loop shall leave them some of the processor.
            time.sleep(min(timeout, _NAP_SECONDS))
        return True

    while not any(slot.ready for slot in processes):
        left = until - time.monotonic()
        if left <= 0.0:
            return False
        # Deadlines pass without notice, so look again from time to time.
        wait_readable([slot.fileno() for slot in processes], min(left, _LOOK_SECONDS))
    return True
