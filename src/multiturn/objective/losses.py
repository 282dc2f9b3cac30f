"""DMPO, trajectory DPO and SFT as functions of per-turn log-probability sums.

The interface between a model and an objective is one tensor per side: ``logps[b, t]``, the sum of the
log-probabilities (nats) of the tokens of turn `t`. Everything here is a pure function of such tensors: it
works under autograd, on any device, on padded batches. What lies beyond a row's number of turns is never
looked at, be it NaN. Labels (M1, M2, ...) refer to the equations in ``docs/method.md``.

A pairwise objective is a weighting of turns and a link from margins to losses. To add one, write its link (or
its weighting) and enter it in `PAIR_OBJECTIVES`.
"""

from __future__ import annotations

import dataclasses
import math
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch.nn import functional

from multiturn.objective.weights import WEIGHTINGS, Weighting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

__all__ = ["PAIR_OBJECTIVES", "Link", "ObjectiveOutput", "PairLogps", "PairObjective", "dmpo", "dpo", "sft"]

Link: TypeAlias = "Callable[[Tensor, float], Tensor]"
"""From reward margins ``[B]`` (nats, beta already in them) and beta to losses ``[B]``."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairLogps:
    """The log-probabilities of a batch of preference pairs, turn by turn.

    The two sides may have different numbers of columns; entries beyond a row's number of turns are ignored.

    Attributes:
        policy_chosen: ``[B, Tw]`` nats, each turn's sum under the policy, for the chosen trajectories.
        policy_rejected: ``[B, Tl]`` the same for the rejected ones.
        reference_chosen: ``[B, Tw]`` nats under the reference.
        reference_rejected: ``[B, Tl]`` the same for the rejected ones.
        num_turns_chosen: ``[B]`` integers of at least 1: the scored turns of each chosen trajectory. Best
            kept on the CPU, where reading them does not wait for an accelerator.
        num_turns_rejected: ``[B]`` the same for the rejected ones.

    Raises:
        ValueError: The shapes do not agree, or log-probabilities are not floating-point numbers.
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    num_turns_chosen: Tensor
    num_turns_rejected: Tensor

    def __post_init__(self) -> None:
        for side, policy, reference, num_turns in (
            ("chosen", self.policy_chosen, self.reference_chosen, self.num_turns_chosen),
            ("rejected", self.policy_rejected, self.reference_rejected, self.num_turns_rejected),
        ):
            _check_logps(f"policy_{side}", policy, num_turns)
            _check_logps(f"reference_{side}", reference, num_turns)
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObjectiveOutput:
    """What an objective says about a batch.

    Attributes:
        losses: ``[B]`` nats, differentiable.
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


@dataclasses.dataclass(frozen=True, slots=True)
class PairObjective:
    """A pairwise objective: the turns' weights and the link from margins to losses.

    Attributes:
        weighting: How much each turn counts.
        link: How a margin becomes a loss.
    """

    weighting: Weighting
    link: Link

    def __call__(self, logps: PairLogps, *, beta: float, gamma: float) -> ObjectiveOutput:
        """The losses and metrics of a batch of pairs.

        Args:
            logps: The batch.
            beta: The strength of the constraint to the reference; above 0, finite.
            gamma: The discount for one turn, in ``[0, 1]``; a weighting without a discount ignores it.

        Returns:
            Losses and metrics in the inputs' dtype, float32 at least.

        Raises:
            ValueError: `beta`, `gamma` or a number of turns is out of range.
        """
        if not (math.isfinite(beta) and beta > 0.0):
            raise ValueError(f"beta is {beta}; it must be a finite number above 0")
        dtype = _working_dtype(
            logps.policy_chosen, logps.policy_rejected, logps.reference_chosen, logps.reference_rejected
        )
        chosen = self._score(
            logps.policy_chosen.to(dtype), logps.reference_chosen, logps.num_turns_chosen, beta, gamma
        )
        rejected = self._score(
            logps.policy_rejected.to(dtype), logps.reference_rejected, logps.num_turns_rejected, beta, gamma
        )
        reward_chosen, reward_rejected = chosen.turn_rewards.sum(-1), rejected.turn_rewards.sum(-1)
        margins = reward_chosen - reward_rejected  # M11
        losses = self.link(margins, beta)
        metrics = {
            "rewards/chosen": reward_chosen,
            "rewards/rejected": reward_rejected,
            "rewards/margins": margins,
            "rewards/accuracies": (margins > 0).to(dtype),
            "logps/chosen": chosen.logps.sum(-1),
            "logps/rejected": rejected.logps.sum(-1),
            "logratios/chosen": chosen.logratios.sum(-1),
            "logratios/rejected": rejected.logratios.sum(-1),
        }
        return ObjectiveOutput(
            losses=losses,
            counts=torch.ones_like(losses),
            metrics={name: values.detach() for name, values in metrics.items()},
            turn_rewards_chosen=chosen.turn_rewards.detach(),
            turn_rewards_rejected=rejected.turn_rewards.detach(),
        )

    def _score(
        self, policy: Tensor, reference: Tensor, num_turns: Tensor, beta: float, gamma: float
    ) -> _Side:
        """One side's log-probabilities, log-ratios (M4) and implicit rewards (M10), all ``[B, T]``."""
        # The weights are made on the CPU: float64 exists there whatever the accelerator.
        counts = num_turns.cpu()
        weights = self.weighting(counts, gamma, max_turns=policy.shape[1]).to(policy.device, policy.dtype)
        real = _real_turns(counts, policy)
        logps = torch.where(real, policy, 0.0)
        # Padding is replaced before the subtraction and the product: 0 * nan would still be nan, and so would
        # its gradient.
        logratios = logps - torch.where(real, reference.to(policy.dtype), 0.0)
        return _Side(logps=logps, logratios=logratios, turn_rewards=beta * weights * logratios)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Side:
    """One side of a batch of pairs, all ``[B, T]``, zero beyond a row's turns."""

    logps: Tensor
    logratios: Tensor
    turn_rewards: Tensor


def _logistic(margins: Tensor, _beta: float) -> Tensor:
    """The Bradley-Terry negative log-likelihood, ``-log sigmoid(margin)``."""
    return -functional.logsigmoid(margins)


PAIR_OBJECTIVES: Mapping[str, PairObjective] = MappingProxyType(
    {
        "dmpo": PairObjective(WEIGHTINGS["dmpo"], _logistic),  # M6
        "dpo": PairObjective(WEIGHTINGS["uniform"], _logistic),  # M8
    }
)
"""Every pairwise objective by name."""


def dmpo(logps: PairLogps, *, beta: float, gamma: float) -> ObjectiveOutput:
    """Direct Multi-turn Preference Optimization (M6).

    Args:
        logps: The batch of pairs.
        beta: The strength of the constraint to the reference; above 0, finite.
        gamma: The discount for one turn, in ``[0, 1]``; 0 scores the first turns only.

    Returns:
        Losses ``[B]`` in nats, metrics and the implicit rewards of the turns.

    Raises:
        ValueError: `beta`, `gamma` or a number of turns is out of range.
    """
    return PAIR_OBJECTIVES["dmpo"](logps, beta=beta, gamma=gamma)


def dpo(logps: PairLogps, *, beta: float) -> ObjectiveOutput:
    """Trajectory DPO: every turn counts alike (M8).

    Args:
        logps: The batch of pairs.
        beta: The strength of the constraint to the reference; above 0, finite.

    Returns:
        Losses ``[B]`` in nats, metrics and the implicit rewards of the turns.

    Raises:
        ValueError: `beta` or a number of turns is out of range.
    """
    return PAIR_OBJECTIVES["dpo"](logps, beta=beta, gamma=1.0)


def sft(turn_logps: Tensor, num_tokens: Tensor, *, num_turns: Tensor | None = None) -> ObjectiveOutput:
    """Supervised fine-tuning: the negative log-likelihood per scored token (M9).

    Every token of a batch counts alike: `ObjectiveOutput.loss` weighs each trajectory by its tokens.

    Args:
        turn_logps: ``[B, T]`` nats, each turn's sum under the policy.
        num_tokens: ``[B]`` integers of at least 1: the scored tokens of each trajectory.
        num_turns: ``[B]`` integers of at least 1: the scored turns of each trajectory, beyond which
            `turn_logps` is ignored. Without it every column is summed, so padding must be zero.

    Returns:
        Losses ``[B]`` in nats per token, counted by tokens, in the input's dtype, float32 at least.

    Raises:
        ValueError: The shapes do not agree, or a trajectory has no scored token or turn.
    """
    _check_logps("turn_logps", turn_logps, num_tokens)
    if num_tokens.is_floating_point() or (num_tokens.numel() and int(num_tokens.min()) < 1):
        raise ValueError("num_tokens must hold integers of at least 1: a trajectory needs a scored token")
    logps = turn_logps.to(_working_dtype(turn_logps))
    if num_turns is not None:
        _check_logps("turn_logps", turn_logps, num_turns)
        logps = torch.where(_real_turns(num_turns.cpu(), logps), logps, 0.0)
    counts = num_tokens.to(logps.device, logps.dtype)
    total = logps.sum(-1)
    losses = -total / counts
    return ObjectiveOutput(losses=losses, counts=counts, metrics={"nll/token": losses.detach()})


def with_chosen_nll(
    output: ObjectiveOutput, chosen: Tensor, num_tokens: Tensor, num_turns: Tensor, *, weight: float
) -> ObjectiveOutput:
    """Add the chosen side's negative log-likelihood per token to a pairwise objective (M15).

    It keeps what is preferred likely: a pairwise loss alone is content when both sides become less likely.

    Args:
        output: What the pairwise objective gives for ``B`` pairs.
        chosen: ``[B, T]`` nats, per-turn sums of the chosen side under the policy.
        num_tokens: ``[B]`` integers of at least 1, the chosen side's scored tokens.
        num_turns: ``[B]`` integers of at least 1, the chosen side's scored turns.
        weight: How much it counts beside the pairwise loss; 0 or more, finite.

    Returns:
        The sum of the losses, and one metric more, ``nll/token``.

    Raises:
        ValueError: `weight` is out of range, or the shapes do not agree.
    """
    if not (math.isfinite(weight) and weight >= 0.0):
        raise ValueError(f"the weight of the chosen NLL is {weight}; it must be a finite number, 0 or more")
    likelihood = sft(chosen, num_tokens, num_turns=num_turns)
    return dataclasses.replace(
        output,
        losses=output.losses + weight * likelihood.losses.to(output.losses.dtype),
        metrics={**output.metrics, **likelihood.metrics},
    )


def _check_logps(name: str, logps: Tensor, per_row: Tensor) -> None:
    """Refuse log-probabilities that are not floating-point ``[B, T]`` with a number for each row."""
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


def _real_turns(num_turns: Tensor, logps: Tensor) -> Tensor:
    """Where ``logps`` ``[B, T]`` holds a turn and not padding, on its device; `num_turns` is on the CPU."""
    return WEIGHTINGS["uniform"](num_turns, 1.0, max_turns=logps.shape[1]).bool().to(logps.device)


def _working_dtype(*logps: Tensor) -> torch.dtype:
    """The widest dtype of the inputs, float32 at least: bfloat16 cannot hold sums over a trajectory."""
    dtype = torch.float32
    for tensor in logps:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
