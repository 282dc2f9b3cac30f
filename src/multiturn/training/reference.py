"""Where the reference's log-probabilities come from: a cache filled before the first step, or a model."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence

from multiturn.errors import ConfigError
from multiturn.models import ReferenceCache, adapter_off, evaluating

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from multiturn.tokens import Rendered
    from multiturn.training.data import RenderedRows
    from multiturn.training.forwards import Forwards

__all__ = ["AdapterOff", "Cached", "Live", "Reference"]

Logps: TypeAlias = "Callable[[torch.nn.Module], Tensor]"


class Reference(Protocol):
    """A source of the reference's per-turn log-probabilities; one of `stored` and `live` answers."""

    def keep(self, policy: PreTrainedModel) -> None:
        """Keep what will be needed of the initial policy; called before an engine may shard it."""

    def prepare(
        self,
        model: PreTrainedModel,
        rows: RenderedRows[Any],
        forwards: Forwards,
        *,
        initial: bool,
    ) -> None:
        """Make ready for the rows of a dataset.

        Args:
            model: The policy.
            rows: The rows.
            forwards: How models are run.
            initial: Whether the policy still has its initial weights.

        Raises:
            ConfigError: The reference is needed for rows that were not known before the first step, and it is
                gone.
        """

    def stored(self, sequences: Sequence[Rendered]) -> Tensor | None:
        """Per-turn sums ``[S, T]`` in nats, zero beyond a sequence's turns; None where `live` answers."""

    def live(self, model: PreTrainedModel, logps: Logps) -> Tensor | None:
        """The same for a batch of S sequences, computed now; None where `stored` answers.

        Args:
            model: The policy, unwrapped.
            logps: The batch's sums under the model it is given.
        """


class Live:
    """A second, frozen model that runs at every step.

    Args:
        model: The reference model; None takes a copy of the policy before its first step.
    """

    def __init__(self, model: PreTrainedModel | None = None) -> None:
        self._model: Any = None if model is None else _frozen(model)

    def keep(self, policy: PreTrainedModel) -> None:
        """Copy the policy, once."""
        if self._model is None:
            self._model = _frozen(copy.deepcopy(policy))

    def prepare(
        self, model: PreTrainedModel, rows: RenderedRows[Any], forwards: Forwards, *, initial: bool
    ) -> None:
        """Bring the reference to where the policy is."""
        del rows
        if self._model is None:
            if not initial:
                raise ConfigError("the live reference must be made before the first step; pass ref_model")
            self.keep(model)
        self._model = forwards.place(self._model)

    def stored(self, sequences: Sequence[Rendered]) -> Tensor | None:
        """None: nothing is stored."""

    def live(self, model: PreTrainedModel, logps: Logps) -> Tensor | None:
        """The frozen model's sums."""
        del model
        if self._model is None:
            raise ConfigError("the live reference is not there yet; call train() or evaluate()")
        with torch.no_grad():
            return logps(self._model)


class AdapterOff:
    """The policy itself with its adapter off, at every step."""

    def keep(self, policy: PreTrainedModel) -> None:
        """Nothing to do."""

    def prepare(
        self, model: PreTrainedModel, rows: RenderedRows[Any], forwards: Forwards, *, initial: bool
    ) -> None:
        """Nothing to do."""

    def stored(self, sequences: Sequence[Rendered]) -> Tensor | None:
        """None: nothing is stored."""

    def live(self, model: PreTrainedModel, logps: Logps) -> Tensor | None:
        """The sums of the model without its adapter."""
        with torch.no_grad(), adapter_off(model), evaluating(model):
            return logps(model)


class Cached:
    """Sums that were computed once, by the initial policy, and are kept on disk.

    Args:
        folder: The cache's folder; it may serve many references.
        autocast: The dtype that the policy computes in, where that is not its weights'.
        fingerprint: Of the reference's weights; the initial policy's are those without an adapter.
        model: A reference other than the initial policy.
    """

    def __init__(
        self,
        folder: Path,
        *,
        autocast: torch.dtype | None = None,
        fingerprint: str,
        model: PreTrainedModel | None = None,
    ) -> None:
        self._folder = folder
        self._autocast = autocast
        self._fingerprint = fingerprint
        self._model: Any = None if model is None else _frozen(model)
        self._cache: ReferenceCache | None = None
        self._known: dict[Rendered, Tensor] = {}
        self._layout: str | None = None

    def keep(self, policy: PreTrainedModel) -> None:
        """Nothing to do."""

    def prepare(
        self, model: PreTrainedModel, rows: RenderedRows[Any], forwards: Forwards, *, initial: bool
    ) -> None:
        """Compute what neither memory nor disk holds; each process its part of it."""
        if self._layout != forwards.layout:
            # The one before may have been found not to compute what it should.
            self._cache, self._known, self._layout = None, {}, forwards.layout
        wanted = {sequence: None for row in rows.rows for sequence in row.sequences}
        missing = [sequence for sequence in wanted if sequence not in self._known]
        if not missing:
            return
        if self._model is not None:
            self._model = forwards.place(self._model)
        runner: Any = model if self._model is None else self._model
        if self._cache is None:
            self._cache = ReferenceCache.of(
                self._folder,
                runner,
                autocast=self._autocast,
                fingerprint=self._fingerprint,
                layout=forwards.layout,
            )
        own_adapter = self._model is None and any(isinstance(m, PeftModel) for m in model.modules())
        gone = not initial and self._model is None and not own_adapter
        with adapter_off(model) if own_adapter else nullcontext():
            found = forwards.reference_logps(
                None if gone else runner, missing, self._cache, autocast=self._autocast
            )
        if len(found) < len(missing):
            raise ConfigError(
                "these rows were not known before the first step, and the reference's weights are gone; give "
                "them to the trainer as eval_dataset, or use reference='live'"
            )
        self._known |= found

    def stored(self, sequences: Sequence[Rendered]) -> Tensor | None:
        """The kept sums."""
        return pad_sequence([self._known[sequence] for sequence in sequences], batch_first=True)

    def live(self, model: PreTrainedModel, logps: Logps) -> Tensor | None:
        """None: `stored` answers."""


def _frozen(model: PreTrainedModel) -> PreTrainedModel:
    """The model, in evaluation mode and without gradients."""
    model.requires_grad_(requires_grad=False)
    model.train(mode=False)
    return model
