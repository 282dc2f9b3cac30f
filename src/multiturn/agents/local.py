"""An agent that is a model in this process: continuous batching over many conversations.

Every call of `LocalAgent.poll` is one forward pass over all conversations that have something to compute: one
token for each reply that is being written, and the new part of each conversation that has just been
submitted. Nothing waits for anything else, and what was computed in earlier turns is kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

import torch

from multiturn.agents.base import Reply, Request
from multiturn.agents.decoder import make_decoder
from multiturn.agents.sampling import sample
from multiturn.agents.snapshot import decoding_copy, decoding_dtype
from multiturn.errors import ConfigError
from multiturn.tokens.render import Renderer
from multiturn.trajectory import Message

if TYPE_CHECKING:
    from multiturn.models.load import Policy

__all__ = ["LocalAgent"]

_PASS_TOKENS: Final = 512
"""New conversation tokens in one pass at most, so that replies being written are not held up for long."""
_WORTH_COPYING: Final = 16
"""A prefix that another row holds is copied when it saves at least so many tokens."""


@dataclasses.dataclass(slots=True)
class _Writing:
    """A reply in the making.

    Attributes:
        slot: Who asked.
        prompt: The conversation's ids.
        limit: The number of tokens at which the reply is cut off.
        generator: Draws this reply's tokens.
        pending: Ids that the row does not hold yet.
        written: The reply so far.
        started: Whether a pass has taken up this request.
    """

    slot: int
    prompt: list[int]
    limit: int
    generator: torch.Generator
    pending: list[int] = dataclasses.field(default_factory=list)
    written: list[int] = dataclasses.field(default_factory=list)
    started: bool = False


class LocalAgent:
    """A model in this process as an agent.

    A reply depends on its conversation, its seed and the settings. Which other conversations are decoded
    beside it, and by how many threads, changes its logits by rounding only (matrix products are summed up in
    another order), which may tip a close decision: exactly reproducible replies need float64, or one
    conversation and one thread at a time.

    A reply ends with an end-of-turn token, which is part of its `token_ids` but not of its text. Other
    special tokens that the model produces stay in `token_ids` and are left out of the text.

    The weights are those of the moment of construction, converted and adapters merged; training the policy
    further changes nothing here.

    Args:
        policy: The model with its tokenizer.
        capacity: Conversations at once.
        max_new_tokens: Tokens of a reply at most, the end-of-turn token counted.
        temperature: 0 is greedy.
        top_p: Nucleus sampling, in (0, 1].
        chat_template: See `multiturn.tokens.template.resolve_template`.
        max_context: Tokens of a conversation at most; None takes the model's own limit. Keys and values are
            allocated as conversations grow, ``capacity`` times the longest one's length.
        dtype: What to compute in; None takes bfloat16 on a CPU that is fast at it, else the model's own
            dtype.

    Raises:
        ConfigError: A setting makes no sense.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        capacity: int,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        chat_template: str = "model",
        max_context: int | None = None,
        dtype: str | None = None,
    ) -> None:
        _check(capacity, max_new_tokens, temperature, top_p, max_context)
        self.capacity = capacity
        self._tokenizer = policy.tokenizer
        self._renderer = Renderer(policy.tokenizer, chat_template=chat_template)
        self._max_new_tokens = max_new_tokens
        self._temperature = temperature
        self._top_p = top_p
        self._stops = self._renderer.stop_ids | _eos_ids(policy.model)
        self._max_context = _context(policy.model, max_context)
        compute = decoding_dtype(policy.model, dtype)
        self._decoder = make_decoder(
            decoding_copy(policy.model, compute), rows=capacity, max_length=self._max_context
        )
        self.fingerprint = _digest(
            {
                "policy": policy.fingerprint,
                "template": self._renderer.template_source,
                "temperature": temperature,
                "top_p": top_p,
                "max_new_tokens": max_new_tokens,
                "max_context": self._max_context,
                "dtype": str(compute),
                "stops": sorted(self._stops),
            }
        )
        self._rows: dict[int, int] = {}
        self._open: dict[int, _Writing] = {}
        self._overflown: list[int] = []

    @property
    def cache_bytes(self) -> int:
        """The memory that keys and values take at the moment."""
        return self._decoder.nbytes

    def submit(self, request: Request) -> None:
        """Take a request.

        Raises:
            ValueError: There is no such slot, or it has a request open.
            TemplateError: The chat template refuses the conversation.
        """
        slot = request.slot
        if not 0 <= slot < self.capacity:
            raise ValueError(f"slot {slot} is not in [0, {self.capacity})")
        if slot in self._open or slot in self._overflown:
            raise ValueError(f"slot {slot} has a request open already")
        prompt = self._renderer.prompt_ids(request.messages)
        limit = min(self._max_new_tokens, self._max_context - len(prompt))
        if limit <= 0:
            self._overflown.append(slot)
            return
        if slot not in self._rows:
            taken = set(self._rows.values())
            self._rows[slot] = next(row for row in range(self.capacity) if row not in taken)
        generator = torch.Generator().manual_seed(request.seed % 2**63)
        self._open[slot] = _Writing(slot=slot, prompt=prompt, limit=limit, generator=generator)

    def poll(self) -> list[Reply]:
        """Run one forward pass.

        Raises:
            RuntimeError: Nothing was submitted.
        """
        if not self._open and not self._overflown:
            raise RuntimeError("no request is open; submit one before polling")
        replies = [Reply(slot=slot, message=None) for slot in self._overflown]
        self._overflown.clear()
        if not self._open:
            return replies
        self._close_ranks()
        work = self._plan()
        logits = self._decoder.step([(self._rows[w.slot], w.pending[:count]) for w, count in work])
        ready = []
        for i, (writing, count) in enumerate(work):
            del writing.pending[:count]
            if not writing.pending:
                ready.append((i, writing))
        if ready:
            tokens = sample(
                logits[[i for i, _ in ready]],
                temperature=self._temperature,
                top_p=self._top_p,
                generators=[writing.generator for _, writing in ready],
            )
            for (_, writing), token in zip(ready, tokens, strict=True):
                replies += self._append(writing, token)
        return replies

    def release(self, slot: int) -> None:
        """Forget a conversation; an open request is dropped."""
        self._open.pop(slot, None)
        self._rows.pop(slot, None)
        if slot in self._overflown:
            self._overflown.remove(slot)

    def close(self) -> None:
        """Free the memory."""
        self._open.clear()
        self._rows.clear()
        self._overflown.clear()
        self._decoder.free()

    def _plan(self) -> list[tuple[_Writing, int]]:
        """What the next pass computes: each open reply and how many of its pending tokens."""
        work = []
        budget = _PASS_TOKENS
        for writing in self._open.values():
            if not writing.started:
                if budget <= 0:
                    continue
                self._start(writing)
            count = len(writing.pending)
            if count > 1 or not writing.written:
                count = min(count, budget)
                budget -= count
            if count:
                work.append((writing, count))
        return work

    def _start(self, writing: _Writing) -> None:
        """Find out what of the conversation is computed already, in its own row or in another."""
        row, prompt = self._rows[writing.slot], writing.prompt
        ids = self._decoder.ids
        # The last token is always computed: its logits are wanted.
        known = [min(_common(held, prompt), len(prompt) - 1) for held in ids[: self.capacity]]
        best = max(range(len(known)), key=known.__getitem__)
        if known[best] >= known[row] + _WORTH_COPYING:
            self._decoder.copy(best, row, known[best])
        else:
            self._decoder.keep(row, known[row])
        writing.pending = prompt[len(ids[row]) :]
        writing.started = True

    def _append(self, writing: _Writing, token: int) -> list[Reply]:
        writing.written.append(token)
        stopped = token in self._stops
        if not stopped and len(writing.written) < writing.limit:
            writing.pending = [token]
            return []
        del self._open[writing.slot]
        text = writing.written[:-1] if stopped else writing.written
        content = self._tokenizer.decode(text, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        message = Message(role="assistant", content=str(content), token_ids=tuple(writing.written))
        return [Reply(slot=writing.slot, message=message, truncated=not stopped)]

    def _close_ranks(self) -> None:
        """Move the last rows into the gaps that ended conversations left: attention runs over a span."""
        slots = {row: slot for slot, row in self._rows.items()}
        for gap in range(len(slots)):
            if gap in slots:
                continue
            last = max(slots)
            self._decoder.copy(last, gap, len(self._decoder.ids[last]))
            slots[gap] = slots.pop(last)
            self._rows[slots[gap]] = gap


def _common(a: list[int], b: list[int]) -> int:
    """The length of the longest common prefix."""
    shorter = min(len(a), len(b))
    if a[:shorter] == b[:shorter]:
        return shorter
    return next(i for i in range(shorter) if a[i] != b[i])


def _check(
    capacity: int, max_new_tokens: int, temperature: float, top_p: float, max_context: int | None
) -> None:
    if capacity < 1:
        raise ConfigError(f"capacity is {capacity}; it must be at least 1")
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    if not 0.0 <= temperature < float("inf"):
        raise ConfigError(f"temperature is {temperature}; it must be 0 (greedy) or a positive number")
    if not 0.0 < top_p <= 1.0:
        raise ConfigError(f"top_p is {top_p}; it must be in (0, 1]")
    if max_context is not None and max_context < 2:
        raise ConfigError(f"max_context is {max_context}; it must be at least 2")


def _context(model: Any, wanted: int | None) -> int:
    """The longest conversation: what is asked for, as far as the model can."""
    config = model.config.get_text_config()
    own = getattr(config, "max_position_embeddings", None)
    known = [limit for limit in (wanted, own) if isinstance(limit, int)]
    if not known:
        raise ConfigError("the model does not say how long a conversation it can read; set max_context")
    return min(known)


def _eos_ids(model: Any) -> frozenset[int]:
    """The end-of-sequence ids of the model's generation settings."""
    eos = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return frozenset([eos] if isinstance(eos, int) else eos or [])


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
