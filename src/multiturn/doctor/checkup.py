"""All checks of a run, one after the other; one that fails is a finding, and the others go on."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

from multiturn.doctor import (
    checks,
    decoding_measures,
    precision_measures,
    surroundings,
    training_measures,
)
from multiturn.doctor.finding import Finding, problem
from multiturn.doctor.patient import Patient
from multiturn.errors import MultiturnError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from multiturn.pipeline.config import Config

__all__ = ["examine"]

_LOG = logging.getLogger(__name__)

_CHECKS: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
    surroundings.folder,
    surroundings.packages,
    surroundings.machine,
    surroundings.disk,
    surroundings.java,
    surroundings.environment,
    surroundings.expert,
    checks.template,
    checks.lengths,
    checks.replies,
    checks.pairs,
)
_MEASURES: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
    precision_measures.precision,
    training_measures.sft_training,
    training_measures.pair_training,
    decoding_measures.decoding,
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
        for finding in _findings(check, patient):
            yield dataclasses.replace(finding, check=check.__name__)


def _findings(check: Callable[[Patient], Iterator[Finding]], patient: Patient) -> Iterator[Finding]:
    """What a check finds; that it fails is a finding, too."""
    try:
        yield from check(patient)
    except MultiturnError as error:
        yield problem(str(error), "see the message; the run would end with it")
    except Exception as error:  # noqa: BLE001 - whatever it is, the other checks are worth making
        _LOG.debug("%s", check.__name__, exc_info=error)
        yield problem(
            f"{check.__name__}: {type(error).__name__}: {error}",
            "the run is likely to end like this; `multiturn --verbose doctor` shows where it comes from",
        )
