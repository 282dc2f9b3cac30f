"""The process of an isolated environment: reads calls from stdin, answers on stdout, dies with its parent.

Whatever the environment itself prints goes to stderr, of which the parent keeps the last lines for its error
messages. The process leads its own group, so that killing the group takes along whatever the environment has
started: a Java machine, for example.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from multiturn.envs import _wire, registry

if TYPE_CHECKING:
    from multiturn.envs.base import Environment

__all__ = ["main"]

_GRACE_SECONDS = 2.0


def main() -> None:
    """Serve one environment until the parent closes the pipe of the calls or is gone."""
    calls, answers = _take_over_standard_streams()
    setup = _wire.load(calls.readline())
    threading.Thread(target=_end_with_parent, args=(calls.fileno(),), daemon=True).start()
    try:
        env = registry.make(setup["target"], **setup["options"])
        hello = _wire.facts_of(env)
        hello_line = _wire.dump({field: getattr(hello, field) for field in hello.__slots__})
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        _send(answers, _wire.dump(_wire.encode_error(error)))
        return
    _send(answers, hello_line)
    try:
        for line in calls:
            request = _wire.load(line)
            _send(answers, _answer(env, str(request["call"]), str(request["argument"])))
    finally:
        env.close()
    _end_group()


def _answer(env: Environment, call: str, argument: str) -> bytes:
    try:
        if call == "tasks":
            return _wire.dump({"tasks": _wire.encode_tasks(env.tasks(argument))})
        return _wire.dump(_wire.encode_answer(_wire.answer_call(env, call, argument)))
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        return _wire.dump(_wire.encode_error(error))


def _take_over_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """Keep stdin and stdout for the protocol; the environment gets nothing and stderr."""
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=partial(_let_go, calls.fileno(), answers.fileno()))
    return calls, answers


def _let_go(*pipes: int) -> None:
    """In a child that the environment has forked: it must neither answer calls nor hold the pipes open.

    The numbers stay taken, so that nothing else is written into what is opened under them later.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for pipe in pipes:
        os.dup2(nothing, pipe, inheritable=False)
    os.close(nothing)


def _end_with_parent(calls: int) -> None:
    """End this process once the pipe's other end is closed, whatever the environment is doing."""
    poller = select.poll()
    poller.register(calls, 0)  # no data is waited for: that the other end is closed is always reported
    while not poller.poll():
        pass
    # The environment may be hanging in a call: give it a moment to be closed properly.
    time.sleep(_GRACE_SECONDS)
    _end_group()


def _end_group() -> NoReturn:
    """End this process and all that the environment has started, which no parent may be there to do."""
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def _send(answers: BinaryIO, line: bytes) -> None:
    try:
        answers.write(line)
        answers.flush()
    except BrokenPipeError:
        _end_group()
