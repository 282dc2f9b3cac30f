"""From what a few steps took to what all of them will take: the formulas, and nothing else."""

from __future__ import annotations

import dataclasses

__all__ = ["MeasuredTraining", "peak_memory", "rollout_seconds", "training_seconds", "widest_pass"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTraining:
    """What a few optimizer steps took.

    Attributes:
        rows: Rows of a step.
        seconds: Of a step; the first, which warms up, is not in it.
        reference_seconds: What the reference took for the rows, once; 0 without one.
        held: Bytes of weights, gradients and optimizer, and of the process around them.
        peak: The most bytes that the process held.
        pass_tokens: Tokens of the widest forward pass, of both sides of its pairs. Shared ones count each
            time, but once where a token budget counts them so.
        row_tokens: Tokens of the longest row, both sides of a pair, counted likewise.
    """

    rows: int
    seconds: float
    reference_seconds: float
    held: float
    peak: float
    pass_tokens: int
    row_tokens: int


def training_seconds(measured: MeasuredTraining, *, rows: int, epochs: float, references: int = 1) -> float:
    """``rows * (epochs * seconds of a step + references * the reference's seconds) / rows of the step``.

    Args:
        measured: What a few steps took.
        rows: Rows of the training.
        epochs: Passes over them.
        references: How often the reference reads them; 0 where an earlier training has had it done.
    """
    seconds = epochs * measured.seconds + references * measured.reference_seconds
    return rows * seconds / measured.rows


def peak_memory(measured: MeasuredTraining, *, pass_tokens: int) -> float:
    """``held + (peak - held) * (tokens of a pass / tokens of the measured pass)``, in bytes.

    Never less than what was measured.

    Args:
        measured: What a few steps took.
        pass_tokens: Tokens that a forward pass of the training may have.
    """
    activations = max(0.0, measured.peak - measured.held)
    return max(measured.peak, measured.held + activations * pass_tokens / measured.pass_tokens)


def widest_pass(*, row_tokens: int, batch_size: int, rows_at_once: int, budget: int | None) -> int:
    """The most tokens that a forward pass of a training may have.

    ``rows_at_once * row_tokens``; with a budget ``min(budget, batch_size * row_tokens)``, but a row that is
    longer than the budget has a pass of its own.

    Args:
        row_tokens: Tokens of the longest row, both sides of a pair.
        batch_size: Rows of a step.
        rows_at_once: Rows of a forward pass, where there is no budget.
        budget: Tokens of a forward pass, where they decide.
    """
    if budget is None:
        return rows_at_once * row_tokens
    return max(row_tokens, min(budget, batch_size * row_tokens))


def rollout_seconds(
    *, episodes: int, turns: float, reply_tokens: float, token_seconds: float, turn_seconds: float
) -> float:
    """``episodes * turns * (reply's tokens * seconds of a token + seconds of the environment)``.

    Args:
        episodes: How many are played.
        turns: Turns of each.
        reply_tokens: Tokens of a reply.
        token_seconds: Seconds for a token where several replies are written side by side, shared among them.
        turn_seconds: Seconds that the environment takes for a turn.
    """
    return episodes * turns * (reply_tokens * token_seconds + turn_seconds)
