"""Many conversations as the rows of one padded batch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from multiturn.tokens.rendered import NO_TURN, Rendered, require_scorable

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PaddedBatch", "collate"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PaddedBatch:
    """A batch of conversations, one a row, padded on the right.

    Attributes:
        input_ids: Token ids, ``[B, L]`` int64. What stands at padded places means nothing.
        attention_mask: 1 for tokens, 0 for padding, ``[B, L]`` int64.
        turns: The assistant turn of each token or `NO_TURN`, ``[B, L]`` int64.
        num_turns: The number of turns of each row, ``[B]`` int64.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    turns: torch.Tensor
    num_turns: torch.Tensor

    def to(self, device: torch.device | str) -> PaddedBatch:
        """The same batch on `device`."""
        tensors = {f.name: getattr(self, f.name).to(device) for f in dataclasses.fields(self)}
        return PaddedBatch(**tensors)


def collate(rendered: Sequence[Rendered], *, pad_id: int = 0) -> PaddedBatch:
    """Lay conversations out as rows.

    What stands after a row's last scored token is left out: it cannot change any score.

    Args:
        rendered: The conversations, at least one, each with at least one turn.
        pad_id: Any id of the vocabulary; it is masked.

    Raises:
        ValueError: There is no conversation, one has no turn, or a first token belongs to a turn (nothing
            precedes it that could predict it).
    """
    require_scorable(rendered)
    lengths = [row.scored_length for row in rendered]
    shape = (len(rendered), max(lengths))
    input_ids = torch.full(shape, pad_id, dtype=torch.int64)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    turns = torch.full(shape, NO_TURN, dtype=torch.int64)
    for index, (row, length) in enumerate(zip(rendered, lengths, strict=True)):
        input_ids[index, :length] = torch.tensor(row.token_ids[:length])
        attention_mask[index, :length] = 1
        turns[index, :length] = torch.tensor(row.turns[:length])
    num_turns = torch.tensor([row.num_turns for row in rendered])
    return PaddedBatch(input_ids=input_ids, attention_mask=attention_mask, turns=turns, num_turns=num_turns)
