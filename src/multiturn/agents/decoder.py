"""Next-token logits for many conversations side by side, whose prefixes are computed once."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
from typing import TYPE_CHECKING, Any, Protocol

import torch

from multiturn.agents.kv_cache import ATTENTION, RowCache, plan_pass
from multiturn.agents.snapshot import count_weights
from multiturn.agents.threads import PassThreads
from multiturn.models.rope import each_by_its_length, length_limit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from multiturn.agents.kv_cache import RaggedPass

__all__ = ["CachedDecoder", "Decoder", "PlainDecoder", "make_decoder"]

logger = logging.getLogger(__name__)


class Decoder(Protocol):
    """Rows of token ids that grow, and the logits after each.

    Attributes:
        ids: For each row the token ids that it holds.
    """

    ids: list[list[int]]

    @property
    def nbytes(self) -> int:
        """The memory of what is kept of the rows, in bytes."""
        ...

    def step(self, work: Sequence[tuple[int, Sequence[int]]]) -> torch.Tensor:
        """Append tokens to rows.

        Args:
            work: ``(row, new ids)``; every row once, with at least one id.

        Returns:
            ``[len(work), vocabulary]`` the logits after the last token of each, in the order of `work`.
        """
        ...

    def keep(self, row: int, length: int) -> None:
        """Forget all of a row but its first `length` tokens."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Make row `target` begin, and end, with the first `length` tokens of row `source`."""
        ...

    def free(self) -> None:
        """Free the memory."""
        ...


class CachedDecoder:
    """Keeps every row's keys and values; a pass computes the new tokens of all rows and nothing else.

    Args:
        model: A `multiturn.agents.snapshot.decoding_copy`; its attention is replaced.
        rows: The number of rows.
        max_length: Tokens in a row at most.
    """

    def __init__(self, model: PreTrainedModel, *, rows: int, max_length: int) -> None:
        self._model = model
        self._cache = RowCache(rows, max_length)
        self._limit = length_limit(model)
        self._long = [False] * rows  # whether a row's keys are turned as those of long conversations are
        self._device = next(model.parameters()).device
        self._keeps_last = "logits_to_keep" in inspect.signature(type(model).forward).parameters
        on_cpu = self._device.type == "cpu"
        self._threads = PassThreads(2 * count_weights(model)) if on_cpu else None
        self.ids: list[list[int]] = [[] for _ in range(rows)]
        model.set_attn_implementation(ATTENTION)

    @torch.inference_mode()
    def step(self, work: Sequence[tuple[int, Sequence[int]]]) -> torch.Tensor:
        """Append tokens to rows; see `Decoder.step`."""
        grown = [[*self.ids[row], *ids] for row, ids in work]
        long = [self._limit is not None and len(ids) > self._limit for ids in grown]
        # A row whose positions turn in another way from here on is computed anew.
        starts = [
            len(self.ids[row]) * (self._long[row] == now) for (row, _), now in zip(work, long, strict=True)
        ]
        plan = [
            (row, start, len(ids) - start) for (row, _), start, ids in zip(work, starts, grown, strict=True)
        ]
        ragged = plan_pass(plan, self._device)
        tokens = [token for i in ragged.order for token in grown[i][starts[i] :]]
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor([tokens], device=self._device),
            "position_ids": ragged.positions[None],
            "past_key_values": self._cache,
            "use_cache": True,
        }
        if self._keeps_last:
            inputs["logits_to_keep"] = ragged.last
        threads = contextlib.nullcontext() if self._threads is None else self._threads.running(len(tokens))
        with self._cache.running(ragged, max(map(len, self.ids))), self._turning(ragged, long), threads:
            logits: torch.Tensor = self._model(**inputs).logits[0]
        if not self._keeps_last:
            logits = logits[ragged.last]
        for (row, _), ids, now in zip(work, grown, long, strict=True):
            self.ids[row], self._long[row] = ids, now
        back = torch.empty(len(work), dtype=torch.long)
        back[list(ragged.order)] = torch.arange(len(work))
        return logits[back.to(self._device)]

    def _turning(self, ragged: RaggedPass, long: Sequence[bool]) -> contextlib.AbstractContextManager[None]:
        """Positions turned by the length of their row: of each entry of the work whether it is a long one."""
        if not any(long):
            return contextlib.nullcontext()
        ends = [-1, *ragged.last.tolist()]
        counts = torch.tensor([end - before for before, end in itertools.pairwise(ends)])
        each = torch.tensor([long[i] for i in ragged.order]).repeat_interleave(counts)
        return each_by_its_length(self._model, each[None].to(self._device))

    def keep(self, row: int, length: int) -> None:
        """Forget all of a row but its first `length` tokens."""
        del self.ids[row][length:]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the beginning of a row."""
        self._long[target] = self._long[source]
        with torch.inference_mode():
            self._cache.copy_prefix(source, target, length)
        self.ids[target] = self.ids[source][:length]

    def free(self) -> None:
        """Free the keys and values."""
        self._cache.free()
        self.ids = [[] for _ in self.ids]

    @property
    def nbytes(self) -> int:
        """The memory of the keys and values, in bytes."""
        return self._cache.nbytes


class PlainDecoder:
    """Computes every row anew at every step: slow, for models whose state is not a cache of keys and values.

    Args:
        model: Any causal language model.
        rows: The number of rows.
    """

    def __init__(self, model: PreTrainedModel, *, rows: int) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self.ids: list[list[int]] = [[] for _ in range(rows)]

    @torch.inference_mode()
    def step(self, work: Sequence[tuple[int, Sequence[int]]]) -> torch.Tensor:
        """Append tokens to rows; see `Decoder.step`."""
        for row, ids in work:
            self.ids[row] += ids
        lengths = [len(self.ids[row]) for row, _ in work]
        # The padding stands on the right, where a causal model does not see it. An attention mask would only
        # do harm: padding that sees nothing at all becomes NaN in some models, and spreads from there.
        input_ids = torch.zeros(len(work), max(lengths), dtype=torch.long)
        for i, (row, _) in enumerate(work):
            input_ids[i, : lengths[i]] = torch.tensor(self.ids[row])
        limit = length_limit(self._model)
        long = torch.tensor(lengths, device=self._device)[:, None] > (
            max(lengths) if limit is None else limit
        )
        with each_by_its_length(self._model, long):
            logits: torch.Tensor = self._model(input_ids=input_ids.to(self._device), use_cache=False).logits
        return logits[torch.arange(len(work)), torch.tensor(lengths) - 1]

    def keep(self, row: int, length: int) -> None:
        """Forget all of a row but its first `length` tokens."""
        del self.ids[row][length:]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the beginning of a row."""
        self.ids[target] = self.ids[source][:length]

    def free(self) -> None:
        """Forget the rows."""
        self.ids = [[] for _ in self.ids]

    @property
    def nbytes(self) -> int:
        """Nothing is kept."""
        return 0


def make_decoder(model: PreTrainedModel, *, rows: int, max_length: int) -> Decoder:
    """The fast decoder, after a test that it gives what the model gives; otherwise the plain one.

    Args:
        model: A `multiturn.agents.snapshot.decoding_copy`.
        rows: The number of rows.
        max_length: Tokens in a row at most.
    """
    own_attention = model.config._attn_implementation
    vocabulary = int(model.config.get_text_config().vocab_size)
    tokens = [(7 * i + 3) % vocabulary for i in range(min(12, max_length))]
    wanted = PlainDecoder(model, rows=1).step([(0, tokens)])
    try:
        decoder = CachedDecoder(model, rows=max(rows, 2), max_length=max_length)
        got = _in_pieces(decoder, tokens)
    except Exception as error:  # noqa: BLE001 - whatever a model does when it meets a cache it does not know
        reason = f"{type(error).__name__}: {error}"
    else:
        # Generous for bfloat16; a model that sees the wrong tokens or positions is off by far more.
        distance = float((got - wanted).float().norm() / wanted.float().norm())
        if distance < (0.1 if got.dtype in (torch.bfloat16, torch.float16) else 1e-3):
            decoder.free()
            return decoder
        reason = f"its logits differ by {distance:.0%}"
    logger.warning(
        "%s cannot decode from the fast cache (%s); every token will cost a pass over its whole conversation",
        type(model).__name__,
        reason,
    )
    model.set_attn_implementation(own_attention)
    return PlainDecoder(model, rows=rows)


def _in_pieces(decoder: CachedDecoder, tokens: list[int]) -> torch.Tensor:
    """The logits after `tokens` in row 1, computed in three passes beside another row."""
    half = len(tokens) // 2
    decoder.step([(1, tokens[:half]), (0, tokens[:1])])
    decoder.step([(0, tokens[1:3]), (1, tokens[half:-1])] if half > 1 else [(1, tokens[half:-1])])
    return decoder.step([(1, tokens[-1:]), (0, tokens[3:4])])[:1]
