"""Rows that stand in for those that a run does not have yet."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from multiturn.agents.formats import action_format
from multiturn.trajectory import Message, PreferencePair, Trajectory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiturn.pipeline.config import PromptSettings

__all__ = ["made_up_conversations", "pairs_like"]

_TURNS: Final = (
    ("I should look at what is there.", "look", "You see a table 1. On the table 1, you see an apple 1."),
    ("The apple is on the table.", "take apple 1 from table 1", "You pick up the apple 1."),
    ("Now it has to go into the fridge.", "put apple 1 in fridge 1", "You put the apple 1 in the fridge 1."),
)
_TASK: Final = "You are in the kitchen. Your task is to: put an apple in the fridge."
_INSTRUCTIONS: Final = "You keep house. Say what you do next, one action at a time."
_OWN_WORDS: Final = ("environment", "protocol")


def made_up_conversations(prompt: PromptSettings) -> list[Trajectory]:
    """Conversations as a run's prompt settings make them, in an environment that there is not.

    Args:
        prompt: Which instructions there are, where they stand, and how actions are written.
    """
    form = action_format(prompt.format)
    instructions = "" if prompt.instructions == "none" else prompt.instructions
    if prompt.instructions in _OWN_WORDS:
        instructions = f"{_INSTRUCTIONS}\n\n{form.instructions}"
    first = [Message(role="user", content=_TASK)]
    if instructions and prompt.instructions_role == "system":
        first.insert(0, Message(role="system", content=instructions))
    elif instructions:
        first = [Message(role="user", content=f"{instructions}\n\n{_TASK}")]
    rows = []
    for turns in range(1, len(_TURNS) + 1):
        messages = list(first)
        for thought, action, seen in _TURNS[:turns]:
            messages.append(Message(role="assistant", content=form.compose(thought, action)))
            messages.append(Message(role="user", content=seen))
        name = f"made-up-{turns}"
        rows.append(Trajectory(id=name, task_id=name, messages=tuple(messages), reward=1.0))
    return rows


def pairs_like(trajectories: Sequence[Trajectory]) -> list[PreferencePair]:
    """Pairs that take what pairs of such trajectories may take at most.

    Either side is as long as the trajectory, and they part at the first word, so that nothing is shared but
    the prompt.

    Args:
        trajectories: Each with at least one assistant turn.
    """
    pairs = []
    for trajectory in trajectories:
        chosen = trajectory.messages[len(trajectory.prompt) :]
        # Ids that a model produced would hide that the content is another.
        first = dataclasses.replace(chosen[0], content=f"No. {chosen[0].content}", token_ids=None)
        pairs.append(
            PreferencePair(
                id=trajectory.id,
                task_id=trajectory.task_id,
                prompt=trajectory.prompt,
                chosen=chosen,
                rejected=(first, *chosen[1:]),
                tools=trajectory.tools,
            )
        )
    return pairs
