"""Every objective by name, and DMPO, trajectory DPO and SFT as functions of per-turn log-probability sums.

The interface between a model and an objective is one tensor per side: ``logps[b, t]``, the sum of the
log-probabilities (nats) of the tokens of turn `t`. Everything here is a pure function of such tensors: it
works under autograd, on any device, on padded batches. What lies beyond a row's number of turns is never
looked at, be it NaN. Labels (M1, M2, ...) refer to the equations in ``docs/method.md``.

A pairwise objective is a weighting of turns, a score of turns and a link from margins to losses. To add one,
write the part that is new and enter it in `PAIR_OBJECTIVES`.
"""

from __future__ import annotations

import dataclasses
import math
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from multiturn.objective import links
from multiturn.objective.batch import (
    ObjectiveOutput,
    PairLogps,
    check_counts,
    check_logps,
    real_turns,
    working_dtype,
)
from multiturn.objective.pairwise import PairObjective
from multiturn.objective.scores import token_shares
from multiturn.objective.weights import WEIGHTINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["PAIR_OBJECTIVES", "dmpo", "dpo", "sft", "with_chosen_nll"]

PAIR_OBJECTIVES: Mapping[str, PairObjective] = MappingProxyType(
    {
        "dmpo": PairObjective(WEIGHTINGS["phi"], links.logistic),  # M6
        "dpo": PairObjective(WEIGHTINGS["uniform"], links.logistic),  # M8
        "ipo": PairObjective(WEIGHTINGS["uniform"], links.squared),  # M21
        "hinge": PairObjective(WEIGHTINGS["uniform"], links.hinge),  # M22
        "cdpo": PairObjective(WEIGHTINGS["uniform"], links.conservative, label_smoothing=0.1),  # M23
        "robust": PairObjective(WEIGHTINGS["uniform"], links.robust, label_smoothing=0.1),  # M24
        "simpo": PairObjective(  # M25
            WEIGHTINGS["uniform"],
            links.logistic_beyond,
            score=token_shares,
            reads_reference=False,
            target_margin=0.5,
        ),
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
    check_logps("turn_logps", turn_logps, num_tokens)
    check_counts("num_tokens", num_tokens)
    logps = turn_logps.to(working_dtype(turn_logps))
    if num_turns is not None:
        check_logps("turn_logps", turn_logps, num_turns)
        logps = torch.where(real_turns(num_turns.cpu(), logps), logps, 0.0)
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
