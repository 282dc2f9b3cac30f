"""Pairwise objectives: turns are scored, weighted and summed, and a link turns the margin into a loss."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch

from multiturn.objective.batch import ObjectiveOutput, real_turns, working_dtype
from multiturn.objective.links import Link, LinkSettings
from multiturn.objective.scores import Score, SideLogps, log_ratios

if TYPE_CHECKING:
    from torch import Tensor

    from multiturn.objective.batch import PairLogps
    from multiturn.objective.weights import Weighting

__all__ = ["PairObjective"]


@dataclasses.dataclass(frozen=True, slots=True)
class PairObjective:
    """A pairwise objective (M19): the turns' weights, the link from margins to losses, the turns' scores.

    Attributes:
        weighting: How much each turn counts.
        link: How a margin becomes a loss.
        score: What of a turn is counted: its log-ratio to the reference, for most.
        reads_reference: Whether `score` reads the reference. Where it does not, none need be computed.
        label_smoothing: What `link` takes for it unless told otherwise; None where it reads none.
        target_margin: The same for the target margin.
    """

    weighting: Weighting
    link: Link
    score: Score = log_ratios
    reads_reference: bool = True
    label_smoothing: float | None = None
    target_margin: float | None = None

    def __call__(
        self,
        logps: PairLogps,
        *,
        beta: float,
        gamma: float,
        label_smoothing: float | None = None,
        target_margin: float | None = None,
    ) -> ObjectiveOutput:
        """The losses and metrics of a batch of pairs.

        Args:
            logps: The batch.
            beta: The strength of the constraint to the reference; above 0, finite.
            gamma: The discount for one turn, in ``[0, 1]``; a weighting without a discount ignores it.
            label_smoothing: See `link_settings`.
            target_margin: See `link_settings`.

        Returns:
            Losses and metrics in the inputs' dtype, float32 at least.

        Raises:
            ValueError: A setting or a number of turns is out of range, a setting is not read by this
                objective, or the batch lacks what it reads.
        """
        settings = self.link_settings(beta, label_smoothing=label_smoothing, target_margin=target_margin)
        dtype = working_dtype(
            logps.policy_chosen, logps.policy_rejected, logps.reference_chosen, logps.reference_rejected
        )
        chosen = self._side(
            logps.policy_chosen.to(dtype),
            logps.reference_chosen,
            logps.num_turns_chosen,
            logps.num_tokens_chosen,
            beta,
            gamma,
        )
        rejected = self._side(
            logps.policy_rejected.to(dtype),
            logps.reference_rejected,
            logps.num_turns_rejected,
            logps.num_tokens_rejected,
            beta,
            gamma,
        )
        reward_chosen, reward_rejected = chosen.turn_rewards.sum(-1), rejected.turn_rewards.sum(-1)
        margins = reward_chosen - reward_rejected  # M11
        losses = self.link(margins, settings)
        metrics = {
            "rewards/chosen": reward_chosen,
            "rewards/rejected": reward_rejected,
            "rewards/margins": margins,
            "rewards/accuracies": (margins > 0).to(dtype),
            "logps/chosen": chosen.logps.policy.sum(-1),
            "logps/rejected": rejected.logps.policy.sum(-1),
        }
        if logps.reference_chosen is not None:
            metrics["logratios/chosen"] = log_ratios(chosen.logps).sum(-1)
            metrics["logratios/rejected"] = log_ratios(rejected.logps).sum(-1)
        return ObjectiveOutput(
            losses=losses,
            counts=torch.ones_like(losses),
            metrics={name: values.detach() for name, values in metrics.items()},
            turn_rewards_chosen=chosen.turn_rewards.detach(),
            turn_rewards_rejected=rejected.turn_rewards.detach(),
        )

    def link_settings(
        self, beta: float, *, label_smoothing: float | None = None, target_margin: float | None = None
    ) -> LinkSettings:
        """What the link is given.

        Args:
            beta: The strength of the constraint to the reference; above 0, finite.
            label_smoothing: The share of swapped pairs, in ``[0, 0.5)``; None takes the objective's own.
            target_margin: The lead in reward that is aimed at, 0 or more; None takes the objective's own.

        Raises:
            ValueError: A value is out of range, or given although the objective reads none.
        """
        if not (math.isfinite(beta) and beta > 0.0):
            raise ValueError(f"beta is {beta}; it must be a finite number above 0")
        smoothing = _own("label_smoothing", label_smoothing, self.label_smoothing)
        if not 0.0 <= smoothing < 0.5:
            raise ValueError(f"label_smoothing is {smoothing}; it must be in [0, 0.5)")
        target = _own("target_margin", target_margin, self.target_margin)
        if not 0.0 <= target < math.inf:
            raise ValueError(f"target_margin is {target}; it must be a finite number, 0 or more")
        return LinkSettings(beta=beta, label_smoothing=smoothing, target_margin=target)

    def _side(
        self,
        policy: Tensor,
        reference: Tensor | None,
        num_turns: Tensor,
        num_tokens: Tensor | None,
        beta: float,
        gamma: float,
    ) -> _Side:
        """One side without its padding, and the implicit rewards (M10, M19) of its turns."""
        # The weights are made on the CPU: float64 exists there whatever the accelerator.
        counts = num_turns.cpu()
        weights = self.weighting(counts, gamma, max_turns=policy.shape[1]).to(policy.device, policy.dtype)
        real = real_turns(counts, policy)
        # Padding is replaced before the subtraction and the product: 0 * nan would still be nan, and so would
        # its gradient.
        logps = SideLogps(
            policy=torch.where(real, policy, 0.0),
            reference=None if reference is None else torch.where(real, reference.to(policy.dtype), 0.0),
            num_tokens=None if num_tokens is None else num_tokens.to(policy.device, policy.dtype),
        )
        return _Side(logps=logps, turn_rewards=beta * weights * self.score(logps))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Side:
    """One side of a batch of pairs and its ``[B, T]`` implicit rewards, zero beyond a row's turns."""

    logps: SideLogps
    turn_rewards: Tensor


def _own(name: str, given: float | None, own: float | None) -> float:
    """A setting of the link, or what it has by itself."""
    if given is None:
        return 0.0 if own is None else own
    if own is None:
        raise ValueError(f"{name} is {given}, but this objective reads none; leave it out")
    return given
