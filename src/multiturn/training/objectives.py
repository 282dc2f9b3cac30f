"""What the trainer asks of an objective: SFT, DMPO and trajectory DPO behind one small interface."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol

from multiturn.objective import PAIR_OBJECTIVES, PairLogps, sft, with_chosen_nll

if TYPE_CHECKING:
    from torch import Tensor

    from multiturn.objective import ObjectiveOutput
    from multiturn.training.data import RenderedRow

__all__ = ["PairTask", "SftTask", "Task"]


class Task(Protocol):
    """An objective as the trainer sees it: rows in, losses out.

    The sequences of a batch are ordered by side: all first sequences of its rows, then all second ones.
    """

    @property
    def name(self) -> str:
        """What people call it: ``SFT``, ``DMPO``."""

    def count(self, row: RenderedRow) -> int:
        """What a row counts for in the mean over a batch; known before the forward pass."""

    def score(
        self, policy: Tensor, reference: Tensor | None, num_turns: Tensor, num_tokens: Tensor
    ) -> ObjectiveOutput:
        """Losses and metrics of a batch.

        Args:
            policy: ``[S, T]`` nats, per-turn sums of the batch's sequences under the policy.
            reference: ``[S, T]`` the same under the reference, or None where it is not needed.
            num_turns: ``[S]`` scored turns, on the CPU.
            num_tokens: ``[S]`` scored tokens, on the CPU.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class SftTask:
    """Supervised fine-tuning; every scored token of a step counts alike (M9)."""

    name: str = "SFT"

    def count(self, row: RenderedRow) -> int:
        """The row's scored tokens."""
        return sum(sequence.scored_tokens for sequence in row.sequences)

    def score(
        self,
        policy: Tensor,
        reference: Tensor | None,
        num_turns: Tensor,
        num_tokens: Tensor,
    ) -> ObjectiveOutput:
        """The negative log-likelihood per scored token."""
        del reference
        return sft(policy, num_tokens, num_turns=num_turns)


@dataclasses.dataclass(frozen=True, slots=True)
class PairTask:
    """A pairwise objective; every pair of a step counts alike (M6, M8).

    Attributes:
        objective: A name in `PAIR_OBJECTIVES`.
        beta: The strength of the constraint to the reference.
        gamma: The discount of a turn.
        chosen_nll: The weight of the chosen side's negative log-likelihood (M15); 0 leaves it out.
    """

    objective: str
    beta: float
    gamma: float
    chosen_nll: float = 0.0

    @property
    def name(self) -> str:
        """The objective's name in capitals."""
        return self.objective.upper()

    def count(self, row: RenderedRow) -> int:
        """One."""
        del row
        return 1

    def score(
        self, policy: Tensor, reference: Tensor | None, num_turns: Tensor, num_tokens: Tensor
    ) -> ObjectiveOutput:
        """Losses of the pairs whose chosen sequences come first and whose rejected ones follow."""
        if reference is None:
            raise ValueError(f"{self.name} needs the reference's log-probabilities")
        pairs = policy.shape[0] // 2
        logps = PairLogps(
            policy_chosen=policy[:pairs],
            policy_rejected=policy[pairs:],
            reference_chosen=reference[:pairs],
            reference_rejected=reference[pairs:],
            num_turns_chosen=num_turns[:pairs],
            num_turns_rejected=num_turns[pairs:],
        )
        output = PAIR_OBJECTIVES[self.objective](logps, beta=self.beta, gamma=self.gamma)
        if not self.chosen_nll:
            return output
        return with_chosen_nll(
            output, policy[:pairs], num_tokens[:pairs], num_turns[:pairs], weight=self.chosen_nll
        )
