"""All checks of a run, one after the other; one that fails is a finding, and the others go on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from multiturn.doctor import checks, measures
from multiturn.doctor.finding import Finding, problem
from multiturn.doctor.patient import Patient
from multiturn.errors import MultiturnError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from multiturn.pipeline.config import Config

__all__ = ["examine"]

_LOG = logging.getLogger(__name__)

_CHECKS: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
    checks.folder,
    checks.packages,
    checks.tasks,
    checks.template,
    checks.lengths,
    checks.pairs,
)
_MEASURES: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
    measures.training,
    measures.decoding,
    measures.disk,
)


def examine(config: Config, *, quick: bool = False) -> Iterator[Finding]:
    """Look a run over before it costs anything.

    Args:
        config: What is to be run.
        quick: Leaves out what loads the model and measures it.

    Yields:
        The findings, as they come.
    """
    patient = Patient(config)
    for check in (*_CHECKS, *(() if quick else _MEASURES)):
        try:
            yield from check(patient)
        except MultiturnError as error:
            yield problem(f"{_named(check)}: {error}", "see the message; the run would end with it")
        except Exception as error:  # noqa: BLE001 - whatever it is, the other checks are worth making
            _LOG.debug("%s", check.__name__, exc_info=error)
            yield problem(
                f"{_named(check)}: {type(error).__name__}: {error}",
                "the run is likely to end like this; `multiturn --verbose doctor` shows where it comes from",
            )


def _named(check: Callable[[Patient], Iterator[Finding]]) -> str:
    return check.__name__
