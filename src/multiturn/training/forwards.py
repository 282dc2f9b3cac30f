"""How a training runs its model: the layout of its batches, the check of that layout, the head."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from accelerate.utils import fsdp2_prepare_model

from multiturn.errors import ConfigError, LayoutError
from multiturn.models import evaluating, forest_attention, recomputing, reference_turn_logps, turn_logps
from multiturn.models.reference import reference_passes
from multiturn.models.rope import require_length
from multiturn.progress import progress
from multiturn.tokens import fill_passes, lay_out
from multiturn.tokens.rendered import cut
from multiturn.training.batch import length_groups, logps_by_length, micro_batch
from multiturn.training.processes import gathered, gradient_norm, in_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from accelerate import Accelerator
    from torch import Tensor, nn

    from multiturn.models import Head, ReferenceCache
    from multiturn.tokens import Layout, PaddedBatch, Rendered
    from multiturn.training.batch import MicroBatch
    from multiturn.training.data import RenderedRow, RenderedRows

__all__ = ["LOSS_TOLERANCE", "NORM_TOLERANCE", "Forwards"]

logger = logging.getLogger(__name__)

LOSS_TOLERANCE: Final = {torch.float64: 1e-6, torch.float32: 1e-4}
"""How far, relatively, the loss of a packed pass may be from that of padded ones, by dtype of computation."""
NORM_TOLERANCE: Final = {torch.float64: 1e-4, torch.float32: 1e-2}
"""The same for the norm of the gradient."""
REFERENCE_TOKENS: Final = 8192
"""Tokens of a pass that fills the reference cache, at least: without a backward pass more of them fit."""
CHECKED_TOKENS: Final = 2048
"""Of the sequences that a layout is checked on, at most, if a turn ends within them."""
SHOW_PROGRESS_FROM: Final = 32
"""Sequences from which on filling the cache shows a progress bar."""
LOW_PRECISION_TOLERANCE: Final = 0.05
"""Both in bfloat16 and float16."""


class Forwards:
    """Lays rows out and runs models on them.

    Args:
        layout: ``"forest"``, ``"packed"``, ``"padded"``, or ``"auto"``: a forest where the model takes one.
        head: How tokens are scored; see `multiturn.models.turn_logps`.
        max_tokens: Tokens of a pass at most; None lets rows decide.
        accelerator: Runs the processes.

    Attributes:
        layout: The layout in use, once `settle` has been called.
        head: As given.
        max_tokens: As given.
        settled: Whether `settle` has made a model ready that `release` has not given back.
    """

    def __init__(self, layout: str, head: str, max_tokens: int | None, accelerator: Accelerator) -> None:
        self._wanted = layout
        self.layout: Layout = "padded" if layout == "auto" else cast("Layout", layout)
        self.head = cast("Head", head)
        self.max_tokens = max_tokens
        self._accelerator = accelerator
        # An accelerator prefers one large forward pass, and wrappers that reduce gradients want exactly one.
        self._by_length = accelerator.device.type == "cpu" and accelerator.num_processes == 1
        self._context = contextlib.ExitStack()
        self.settled = False

    @property
    def share(self) -> bool:
        """Whether sequences of a pass share their prefixes."""
        return self.layout == "forest"

    def settle(
        self, model: nn.Module, rows: RenderedRows[Any] | None, *, longest: int, gradients: bool
    ) -> str | None:
        """Decide on the layout, make the model ready for it, and check it on a few sequences.

        Args:
            model: The model, as it will be run.
            rows: Rows to check the layout on.
            longest: The tokens of the longest sequence that it is going to be run on.
            gradients: Whether the model is going to be trained, so that the gradient is checked as well.

        Returns:
            What went wrong, where the check made it fall back to padded rows.

        Raises:
            LayoutError: The layout that was asked for is not to be had, or the model has no one value for a
                sequence of that length.
        """
        require_length(model, longest)
        if self.settled or self._wanted == "padded":
            return None
        try:
            self._context.enter_context(forest_attention(model, training=gradients, longest=longest))
        except LayoutError as error:
            if self._wanted != "auto":
                raise
            logger.info("batches are padded: %s", error)
            if gradients:  # for good: an evaluation in between is to compute what the training does
                self._wanted = "padded"
            self.layout = "padded"
            return None
        self.layout = "forest" if self._wanted == "auto" else cast("Layout", self._wanted)
        self.settled = True
        problem = None if rows is None else self._check(model, _kin(rows), gradients=gradients)
        if not self._most(int(problem is not None)):
            return None
        self.release()
        self._wanted = self.layout = "padded"
        return problem or "the check failed in another process"

    def release(self) -> None:
        """Give the model its own attention back."""
        self._context.close()
        self.settled = False

    def passes(self, rows: Sequence[tuple[float, RenderedRow]]) -> list[list[tuple[float, RenderedRow]]]:
        """Split rows, each with its weight, into passes within the token budget: as many in every process."""
        if self.max_tokens is None:
            return [list(rows)]

        def split(at_least: int) -> list[list[tuple[float, RenderedRow]]]:
            return fill_passes(
                rows,
                lambda row: row[1].sequences,
                max_tokens=self.max_tokens or 1,
                share=self.share,
                at_least=at_least,
            )

        passes = split(1)
        most = self._most(len(passes))
        return passes if len(passes) == most else split(most)

    def micro_batch(
        self,
        rows: Sequence[tuple[float, RenderedRow]],
        reference: Callable[[Sequence[Rendered]], Tensor | None] | None,
    ) -> MicroBatch:
        """Rows, each with its weight, in the layout in use."""
        return micro_batch(
            [row for _, row in rows],
            self.layout,
            weights=[weight for weight, _ in rows],
            split=length_groups if self._by_length else None,
            reference=reference,
        )

    def logps(self, model: nn.Module, micro: MicroBatch) -> Tensor:
        """The per-turn sums ``[S, T]`` of a batch under a model, be it another than the settled one."""
        columns = int(micro.num_turns.max())

        def run(batch: Any, passes: int) -> Tensor:
            return turn_logps(model, batch, max_turns=columns, head=self.head, passes=passes)

        if self.layout == "padded":
            padded = cast("PaddedBatch", micro.batch)
            whole = [range(len(micro.lengths))]
            return logps_by_length(run, padded, micro.lengths, micro.groups or whole)
        with forest_attention(model):
            return run(micro.batch, 1)

    def place(self, model: Any) -> nn.Module:
        """A frozen model where it can be run at every step: on the device, spread over it where FSDP does so.

        Raises:
            ConfigError: The engine spreads models in a way that is not known here.
        """
        state = self._accelerator.state
        if getattr(state, "fsdp_plugin", None) is not None:
            sharded: nn.Module = fsdp2_prepare_model(self._accelerator, model)
            return sharded
        deepspeed = getattr(state, "deepspeed_plugin", None)
        if deepspeed is not None and deepspeed.zero_stage == 3:
            raise ConfigError(
                "with DeepSpeed ZeRO-3 there is no second model; leave ref_model out and set reference to "
                "'cached' or 'adapter-off'"
            )
        placed: nn.Module = model.to(self._accelerator.device)
        return placed

    def reference_logps(
        self,
        model: nn.Module | None,
        missing: Sequence[Rendered],
        cache: ReferenceCache,
        *,
        autocast: torch.dtype | None,
    ) -> dict[Rendered, Tensor]:
        """The reference's per-turn sums ``[T]`` of sequences; each process computes its part of them.

        Args:
            model: The reference, the same in every process; None leaves out what no cache holds.
            missing: The sequences, the same in every process.
            cache: Where sums are kept. Processes tell each other what they know, so its folder need not be
                the same for all of them.
            autocast: The dtype to compute in, where that is not the weights'.
        """
        processes, own = self._accelerator.num_processes, self._accelerator.process_index
        known = self._known(missing, cache)
        # Kin beside each other.
        lacking = sorted((s for s in missing if s not in known), key=lambda s: s.token_ids)
        if not lacking or model is None:
            return known
        part = lacking[own * len(lacking) // processes : (own + 1) * len(lacking) // processes]
        # Engines that shard a model run it everywhere at once: who has no part repeats another's.
        own_part, part = bool(part), part or lacking[:1]
        budget = max(self.max_tokens or 0, REFERENCE_TOKENS)
        passes = self._most(len(reference_passes(part, budget, self.layout)))
        quiet = len(part) < SHOW_PROGRESS_FROM or not self._accelerator.is_main_process
        with progress("reference", total=len(part), quiet=quiet) as bar:
            counted = 0

            def advance(done: int, _total: int) -> None:
                nonlocal counted
                bar.advance(done - counted)
                counted = done

            sums = reference_turn_logps(
                model,
                part,
                max_tokens=budget,
                layout=self.layout,
                head=self.head,
                at_least=passes,
                cache=cache,
                autocast=autocast,
                progress=advance,
            )
        flat = torch.cat(gathered(torch.cat(sums) if own_part else torch.zeros(0)))
        parts = torch.split(flat, [sequence.num_turns for sequence in lacking])
        return known | dict(zip(lacking, parts, strict=True))

    def _known(self, sequences: Sequence[Rendered], cache: ReferenceCache) -> dict[Rendered, Tensor]:
        """What the cache of any process holds, the same in all of them."""
        found = [cache.get(sequence) for sequence in sequences]
        have = torch.tensor([sums is not None for sums in found], dtype=torch.int32)
        counts = in_all(have.to(self._accelerator.device)).tolist()
        partly = [i for i, count in enumerate(counts) if 0 < count < self._accelerator.num_processes]
        known = {i: sums for i, sums in enumerate(found) if sums is not None}
        if partly:
            for others in gathered({i: known[i] for i in partly if i in known}):
                known |= others
        return {sequences[i]: sums for i, sums in known.items()}

    def _check(self, model: nn.Module, sequences: Sequence[Rendered], *, gradients: bool) -> str | None:
        """Compare the layout with one padded pass for each sequence; None if they agree."""
        gradients = gradients and str(self._accelerator.distributed_type) != "DistributedType.DEEPSPEED"
        # The check is not to take more memory than the training does.
        with evaluating(model), recomputing(model):
            loss, norm = self._loss_and_norm(model, [sequences], self.layout, self.head, gradients=gradients)
            plain = [[sequence] for sequence in sequences]
            expected, expected_norm = self._loss_and_norm(
                model, plain, "padded", "logits", gradients=gradients
            )
        dtype = self._dtype(model)
        pairs = (
            ("loss", loss, expected, LOSS_TOLERANCE.get(dtype, LOW_PRECISION_TOLERANCE)),
            ("gradient norm", norm, expected_norm, NORM_TOLERANCE.get(dtype, LOW_PRECISION_TOLERANCE)),
        )
        for name, got, wanted, tolerance in pairs:
            # Written so that NaN fails.
            if not abs(got - wanted) <= tolerance * abs(wanted):
                return (
                    f"the layout {self.layout!r} does not compute what padded rows compute ({name} {got:.6g} "
                    f"against {wanted:.6g}, which is more than {tolerance:g} of it apart); training goes on "
                    "with padded rows, slower but right. Please report this with the model's name"
                )
        return None

    def _loss_and_norm(
        self,
        model: nn.Module,
        passes: Sequence[Sequence[Rendered]],
        layout: Layout,
        head: Head,
        *,
        gradients: bool,
    ) -> tuple[float, float]:
        """The negative log-likelihood per scored token of all passes, and the norm of its gradient."""
        device = next(model.parameters()).device
        tokens = sum(sequence.scored_tokens for each in passes for sequence in each)
        total = 0.0
        for sequences in passes:
            with torch.set_grad_enabled(gradients), self._accelerator.autocast():
                sums = turn_logps(model, lay_out(sequences, layout).to(device), head=head)
            loss = -sums.sum() / tokens
            total += float(loss.detach())
            if gradients:
                torch.autograd.backward(loss)
        if not gradients:
            return total, 0.0
        norm = gradient_norm(model)
        model.zero_grad()
        return total, norm

    def _dtype(self, model: nn.Module) -> torch.dtype:
        mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self._accelerator.mixed_precision)
        return mixed or next(p.dtype for p in model.parameters() if p.is_floating_point())

    def _most(self, count: int) -> int:
        """The largest count of any process."""
        if self._accelerator.num_processes == 1:
            return count
        most: int = max(gathered(count))
        return most


def _kin(rows: RenderedRows[Any]) -> list[Rendered]:
    """Two sequences to check a layout on: of the task with the most rows, so that they share something.

    Long ones are cut at a turn: the padded side makes the logits of all scored places at once.
    """
    largest = max(rows.tasks, key=len)
    sequences = [sequence for row in largest[:2] for sequence in rows.rows[row].sequences]
    beginnings = [cut(sequence, CHECKED_TOKENS) for sequence in (sequences * 2)[:2]]
    return [
        beginning if beginning.num_turns else whole
        for beginning, whole in zip(beginnings, sequences * 2, strict=False)
    ]
