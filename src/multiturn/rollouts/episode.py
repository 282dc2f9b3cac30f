"""One episode: the conversation as it grows, and when it ends. It asks nobody anything."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from multiturn.trajectory import Message, Outcome, Trajectory

if TYPE_CHECKING:
    from multiturn.envs.base import Step
    from multiturn.envs.slots import EnvironmentFacts, SlotAnswer
    from multiturn.rollouts.jobs import Job
    from multiturn.rollouts.settings import CollectSettings

__all__ = ["Episode"]


class Episode:
    """An episode being played.

    Args:
        job: What is played.
        number: The job's place in the list of jobs; files are read back in this order.
        facts: The environment.
        settings: How it is played.
        agent: The fingerprint of who plays.
        faults: How often the environment failed in this job before.

    Attributes:
        messages: The conversation; it ends with a user message while the episode goes on, with the
            assistant's last one once it is over.
        outcome: How it ended; None while it goes on.
        turns: The assistant's messages so far.
        tokens: The ids that the agent produced so far; 0 where it does not say.
        abandoned: Why the agent could not be asked any more; None while it can.
    """

    def __init__(
        self,
        job: Job,
        *,
        number: int,
        facts: EnvironmentFacts,
        settings: CollectSettings,
        agent: str,
        faults: int = 0,
    ) -> None:
        self.job = job
        self.number = number
        self.faults = faults
        self.messages: list[Message] = []
        self.outcome: Outcome | None = None
        self.abandoned: str | None = None
        self.turns = 0
        self.tokens = 0
        self._facts = facts
        self._settings = settings
        self._agent = agent
        self._max_turns = settings.max_turns or 1
        self._reward = 0.0
        self._success: bool | None = None
        self._final_observation = ""
        self._environment_info: dict[str, Any] = {}
        self._unusable_in_a_row = 0
        self._counts = {"invalid_actions": 0, "unusable_replies": 0, "truncated_replies": 0}
        self._notes: dict[str, Any] = {}
        self._started = time.monotonic()

    def begin(self, answer: SlotAnswer, first: Step) -> None:
        """Take the first observation.

        Args:
            answer: The answer to ``reset``.
            first: Its step.
        """
        self._max_turns = self._settings.max_turns or answer.max_turns
        preamble = self._settings.preamble(self._facts.instructions)
        content = first.observation
        if preamble and self._settings.instructions_role == "system":
            self.messages.append(Message(role="system", content=preamble))
        elif preamble:
            content = f"{preamble}\n\n{content}"
        self._observe(first, content)

    def act(self, message: Message, *, truncated: bool = False) -> str | None:
        """Take the assistant's message.

        Returns:
            The action for the environment; None when none can be read out of it: then the environment is not
            stepped, and the observation is the environment's ``invalid_observation``.
        """
        self.messages.append(message)
        self.turns += 1
        self.tokens += len(message.token_ids or ())
        self._counts["truncated_replies"] += truncated
        action = self._settings.format.parse(message.content)
        if action is not None:
            self._unusable_in_a_row = 0
            return action
        self._counts["unusable_replies"] += 1
        self._unusable_in_a_row += 1
        if self._unusable_in_a_row >= self._settings.max_unusable:
            self._end(Outcome.INVALID, "")
        else:
            self._next(self._facts.invalid_observation)
        return None

    def observe(self, step: Step) -> None:
        """Take what the environment answered to the action."""
        self._counts["invalid_actions"] += not step.valid
        self._observe(step, step.observation)

    def abandon(self, why: str) -> None:
        """Give the episode up: its agent cannot be asked. Nothing of it is to be kept."""
        self.abandoned = why

    def stop(self, outcome: Outcome, **notes: object) -> None:
        """End the episode before its time; an observation that the agent did not answer is taken back.

        Args:
            outcome: Why.
            **notes: For the trajectory's `info`.
        """
        self._notes |= notes
        answered = self.turns == 0 or self.messages[-1].role == "assistant"
        self._end(outcome, "" if answered else self.messages.pop().content)

    def trajectory(self) -> Trajectory:
        """The episode as it is kept; its reward is unknown when the environment failed."""
        failed = self.outcome is Outcome.ENVIRONMENT_ERROR
        info: dict[str, Any] = {"job": self.number, "sample": self.job.sample, **self._counts}
        info["faults"] = self.faults
        info["seconds"] = round(time.monotonic() - self._started, 3)
        info["final_observation"] = self._final_observation
        if self._environment_info:
            info["environment"] = self._environment_info
        return Trajectory(
            id=self.job.id,
            task_id=self.job.task_id,
            task_type=self.job.task_type,
            split=self.job.split,
            messages=tuple(self.messages),
            outcome=self.outcome or Outcome.TRUNCATED,
            reward=None if failed else self._reward,
            success=None if failed else self._success,
            environment=self._facts.fingerprint,
            agent=self._agent,
            info=info | self._notes,
        )

    def _observe(self, step: Step, content: str) -> None:
        self._reward += step.reward
        self._success = self._success if step.success is None else step.success
        self._environment_info = dict(step.info) or self._environment_info
        if not (step.terminated or step.truncated):
            self._next(content)
            return
        if not self.turns:
            # Over before the agent could do anything; what it would have seen is still the prompt.
            self.messages.append(Message(role="user", content=content))
        self._end(Outcome.COMPLETED if step.terminated else Outcome.TRUNCATED, content if self.turns else "")

    def _next(self, observation: str) -> None:
        if self.turns >= self._max_turns:
            self._end(Outcome.TRUNCATED, observation)
        else:
            self.messages.append(Message(role="user", content=observation))

    def _end(self, outcome: Outcome, observation: str) -> None:
        self.outcome = outcome
        self._final_observation = observation
