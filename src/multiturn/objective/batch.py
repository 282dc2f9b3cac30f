"""What an objective is given and what it answers: per-turn sums of a batch, losses and metrics."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from multiturn.objective.weights import uniform_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["ObjectiveOutput", "PairLogps", "check_counts", "check_logps", "real_turns", "working_dtype"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairLogps:
    """The log-probabilities of a batch of preference pairs, turn by turn.

    The two sides may have different numbers of columns; entries beyond a row's number of turns are ignored.

    Attributes:
        policy_chosen: ``[B, Tw]`` nats, each turn's sum under the policy, for the chosen trajectories.
        policy_rejected: ``[B, Tl]`` the same for the rejected ones.
        reference_chosen: ``[B, Tw]`` nats under the reference; None for objectives that read none.
        reference_rejected: ``[B, Tl]`` the same for the rejected ones.
        num_turns_chosen: ``[B]`` integers of at least 1: the scored turns of each chosen trajectory. Best
            kept on the CPU, where reading them does not wait for an accelerator.
        num_turns_rejected: ``[B]`` the same for the rejected ones.
        num_tokens_chosen: ``[B]`` integers of at least 1: the scored tokens of each chosen trajectory; None
            for objectives that do not count tokens.
        num_tokens_rejected: ``[B]`` the same for the rejected ones.

    Raises:
        ValueError: The shapes do not agree, log-probabilities are not floating-point numbers, only one side
            has a reference, or a trajectory has no scored token.
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None
    num_turns_chosen: Tensor
    num_turns_rejected: Tensor
    num_tokens_chosen: Tensor | None = None
    num_tokens_rejected: Tensor | None = None

    def __post_init__(self) -> None:
        for side, policy, reference, num_turns, num_tokens in (
            (
                "chosen",
                self.policy_chosen,
                self.reference_chosen,
                self.num_turns_chosen,
                self.num_tokens_chosen,
            ),
            (
                "rejected",
                self.policy_rejected,
                self.reference_rejected,
                self.num_turns_rejected,
                self.num_tokens_rejected,
            ),
        ):
            check_logps(f"policy_{side}", policy, num_turns)
            if num_tokens is not None:
                check_logps(f"policy_{side}", policy, num_tokens)
                check_counts(f"num_tokens_{side}", num_tokens)
            if reference is None:
                continue
            check_logps(f"reference_{side}", reference, num_turns)
            if policy.shape != reference.shape:
                raise ValueError(
                    f"policy_{side} has shape {list(policy.shape)} and reference_{side} "
                    f"{list(reference.shape)}; they must be the same"
                )
        if self.policy_chosen.shape[0] != self.policy_rejected.shape[0]:
            raise ValueError(
                f"there are {self.policy_chosen.shape[0]} chosen trajectories and "
                f"{self.policy_rejected.shape[0]} rejected ones; a pair has one of each"
            )
        if (self.reference_chosen is None) != (self.reference_rejected is None):
            raise ValueError("one side has reference log-probabilities and the other has none")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObjectiveOutput:
    """What an objective says about a batch.

    Attributes:
        losses: ``[B]``, differentiable; nats for the likelihoods among the losses.
        counts: ``[B]`` what each loss counts for in the mean over a batch: 1 for a pair, the number of scored
            tokens for SFT. With gradient accumulation, divide by the sum over the whole accumulated batch.
        metrics: Name to ``[B]``, detached; ``docs/metrics.md`` defines each name.
        turn_rewards_chosen: ``[B, Tw]`` implicit reward of each turn (M10), detached, 0 beyond a row's turns;
            None for objectives without pairs.
        turn_rewards_rejected: ``[B, Tl]`` the same for the rejected side.
    """

    losses: Tensor
    counts: Tensor
    metrics: Mapping[str, Tensor]
    turn_rewards_chosen: Tensor | None = None
    turn_rewards_rejected: Tensor | None = None

    @property
    def loss(self) -> Tensor:
        """The mean of `losses` over the batch, each counted `counts` times: a scalar."""
        return (self.losses * self.counts).sum() / self.counts.sum()


def check_logps(name: str, logps: Tensor, per_row: Tensor) -> None:
    """Refuse log-probabilities that are not floating-point ``[B, T]`` with a number for each row.

    Args:
        name: What the message calls them.
        logps: The log-probabilities.
        per_row: What there must be ``[B]`` of.

    Raises:
        ValueError: They are refused.
    """
    if logps.ndim != 2 or not logps.is_floating_point():
        raise ValueError(
            f"{name} has shape {list(logps.shape)} and dtype {logps.dtype}; "
            "it must be [B, T], a floating-point sum for each turn"
        )
    if per_row.shape != logps.shape[:1]:
        raise ValueError(
            f"{name} has {logps.shape[0]} rows, but the numbers that go with it have shape "
            f"{list(per_row.shape)}; there must be one for each row"
        )


def check_counts(name: str, num_tokens: Tensor) -> None:
    """Refuse numbers of tokens that are not integers of at least 1.

    Args:
        name: What the message calls them.
        num_tokens: ``[B]``.

    Raises:
        ValueError: They are refused.
    """
    if num_tokens.is_floating_point() or (num_tokens.numel() and int(num_tokens.min()) < 1):
        raise ValueError(f"{name} must hold integers of at least 1: a trajectory needs a scored token")


def real_turns(num_turns: Tensor, logps: Tensor) -> Tensor:
    """Where ``logps`` ``[B, T]`` holds a turn and not padding, on its device; `num_turns` is on the CPU."""
    return uniform_weights(num_turns, max_turns=logps.shape[1]).bool().to(logps.device)


def working_dtype(*logps: Tensor | None) -> torch.dtype:
    """The widest dtype of the inputs, float32 at least: bfloat16 cannot hold sums over a trajectory."""
    dtype = torch.float32
    for tensor in logps:
        if tensor is not None:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
