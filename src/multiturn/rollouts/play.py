"""Playing many episodes side by side: every slot goes on as soon as whatever it waits for is there."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from multiturn.envs.slots import wait_any
from multiturn.errors import AgentFaultError, EnvironmentFaultError, RunStateError
from multiturn.progress import progress
from multiturn.rollouts.episode import Episode
from multiturn.rollouts.jobs import check_jobs
from multiturn.rollouts.report import CollectReport, report_on
from multiturn.rollouts.store import RolloutStore, StoreHeader
from multiturn.trajectory import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from multiturn.envs.slots import EnvironmentSlot, SlotAnswer
    from multiturn.progress import Bar
    from multiturn.rollouts.jobs import Job
    from multiturn.rollouts.settings import CollectSettings
    from multiturn.trajectory import Trajectory

__all__ = ["Player", "play"]

_FAILED_IN_A_ROW: Final = 8
"""So many episodes in a row that the environment did not survive, and it is given up; so is an agent that
could not be asked in so many."""
_WAIT_SECONDS: Final = 0.2


class Player(Protocol):
    """Who decides what an episode does next.

    Attributes:
        fingerprint: Stored with every episode.
        capacity: Episodes at once.
    """

    fingerprint: str
    capacity: int

    def ask(self, index: int, episode: Episode, slot: EnvironmentSlot) -> bool:
        """It is this episode's turn.

        Returns:
            Whether the slot was given a call; otherwise the answer comes from `poll`.
        """
        ...

    def advise(self, index: int, episode: Episode, answer: SlotAnswer) -> str | None:
        """Turn the slot's answer to the call given by `ask` into an action, None for none."""
        ...

    def poll(self) -> list[tuple[int, str | None]]:
        """The actions that are ready; episodes that ended without one are among them, with None."""
        ...

    @property
    def busy(self) -> bool:
        """Whether `poll` has anything to wait for."""
        ...

    def release(self, index: int) -> None:
        """The episode in this place is over."""
        ...


def play(
    player: Player,
    slots: Sequence[EnvironmentSlot],
    jobs: Sequence[Job],
    path: Path | str,
    settings: CollectSettings,
    *,
    title: str,
) -> CollectReport:
    """Play all jobs that the file does not hold yet.

    Episodes are begun in the order of the jobs and stored as they end. Interrupted at any moment, the same
    call goes on where it was: an episode is in the file as a whole or not at all.

    Args:
        player: Who plays.
        slots: Where. After an exception they may have calls open, and should be closed.
        jobs: What.
        path: The file of the episodes.
        settings: How.
        title: What the progress bar says.

    Returns:
        The report on all jobs.

    Raises:
        ConfigError: Two jobs are the same, or there is no such task.
        RunStateError: The file holds episodes of another agent, environment or setting.
        EnvironmentFaultError: The environment fails again and again.
        AgentFaultError: The agent could not be asked: in too many episodes in a row, or in some, which is
            told when all others are played. These are not in the file.
    """
    jobs = list(jobs)
    check_jobs(jobs)
    if not slots:
        raise ValueError("there are no slots to play in")
    facts = slots[0].facts
    preamble = settings.preamble(facts.instructions)
    header = StoreHeader(
        environment=facts.fingerprint, agent=player.fingerprint, settings=settings.to_json(preamble)
    )
    started = time.monotonic()
    with RolloutStore(path, header) as store:
        todo = [(number, job) for number, job in enumerate(jobs) if job.id not in store.done_ids]
        with progress(title, total=len(jobs), done=len(jobs) - len(todo)) as bar:
            table = _Table(player, slots, store, settings, bar)
            table.run(deque(todo))
        wanted = {job.id for job in jobs}
        kept = [t for t in store.trajectories() if t.id in wanted]
    seconds = time.monotonic() - started
    return report_on(kept, played=len(todo), tokens=table.tokens, seconds=seconds)


class _Table:
    """The episodes in play, one for each slot in use."""

    def __init__(
        self,
        player: Player,
        slots: Sequence[EnvironmentSlot],
        store: RolloutStore,
        settings: CollectSettings,
        bar: Bar,
    ) -> None:
        self.tokens = 0
        self._player = player
        self._slots = slots
        self._store = store
        self._settings = settings
        self._bar = bar
        self._facts = slots[0].facts
        self._todo: deque[tuple[int, Job]] = deque()
        self._episodes: dict[int, Episode] = {}
        self._calls: dict[int, str] = {}
        self._failed: list[Trajectory] = []
        self._abandoned = 0
        self._abandoned_in_a_row = 0
        self._last_fault = ""
        self._rewards: list[float] = []
        self._started = time.monotonic()

    def run(self, todo: deque[tuple[int, Job]]) -> None:
        """Play until nothing is left."""
        self._todo = todo
        places = min(len(self._slots), self._player.capacity)
        try:
            for index in range(min(places, len(todo))):
                self._seat(index)
            while self._episodes:
                answered = self._poll_slots()
                if self._player.busy:
                    for index, action in self._player.poll():
                        self._go_on(index, action)
                elif not answered:
                    self._wait()
        finally:
            for index in self._episodes:
                self._player.release(index)
        self._keep_failed()
        if self._abandoned:
            raise AgentFaultError(
                f"{self._abandoned} episodes are missing because the agent could not be asked, lastly: "
                f"{self._last_fault}; the same command plays them, and nothing else"
            )

    def _seat(self, index: int) -> None:
        """Begin the next job in a place."""
        if self._todo:
            self._begin(index, *self._todo.popleft(), faults=0)

    def _begin(self, index: int, number: int, job: Job, *, faults: int) -> None:
        self._episodes[index] = Episode(
            job,
            number=number,
            facts=self._facts,
            settings=self._settings,
            agent=self._player.fingerprint,
            faults=faults,
        )
        self._call(index, "reset", job.task_id)

    def _call(self, index: int, call: str, argument: str = "") -> None:
        self._calls[index] = call
        if call != "asked":
            self._slots[index].start("reset" if call == "reset" else "step", argument)

    def _poll_slots(self) -> bool:
        """Take what the slots have ready; whether there was anything."""
        answered = False
        for index in list(self._calls):
            try:
                answer = self._slots[index].poll()
            except EnvironmentFaultError as fault:
                answered = True
                self._fault(index, fault)
                continue
            if answer is not None:
                answered = True
                self._take(index, answer)
        return answered

    def _take(self, index: int, answer: SlotAnswer) -> None:
        episode, call = self._episodes[index], self._calls.pop(index)
        if call == "asked":
            self._go_on(index, self._player.advise(index, episode, answer))
            return
        if answer.step is None:
            self._fault(index, EnvironmentFaultError(f"{call} gave no step", kind="garbage"))
            return
        if call == "reset":
            self._check_fingerprint(index)
            episode.begin(answer, answer.step)
        else:
            episode.observe(answer.step)
        self._ask_or_end(index)

    def _check_fingerprint(self, index: int) -> None:
        """Refuse a slot that is another environment than the one that the file's header names.

        Raises:
            RunStateError: It is.
        """
        found, wanted = self._slots[index].facts.fingerprint, self._facts.fingerprint
        if found != wanted:
            raise RunStateError(
                f"slot {index} has an environment with fingerprint {found!r}, slot 0 one with {wanted!r}; "
                "their episodes are never mixed: files or packages have changed while the environments were "
                "made, so run again"
            )

    def _go_on(self, index: int, action: str | None) -> None:
        """Take the player's decision: step, or go on without a step, or end."""
        if action is None:
            self._ask_or_end(index)
        else:
            self._call(index, "step", action)

    def _ask_or_end(self, index: int) -> None:
        episode = self._episodes[index]
        if episode.abandoned is not None:
            self._abandon(index, episode.abandoned)
        elif episode.outcome is not None:
            self._end(index)
        elif self._player.ask(index, episode, self._slots[index]):
            self._call(index, "asked")

    def _fault(self, index: int, fault: EnvironmentFaultError) -> None:
        """The environment failed: begin again, or give the job up."""
        self._calls.pop(index, None)
        episode = self._episodes[index]
        episode.faults += 1
        if episode.faults <= self._settings.fault_retries:
            self.tokens += episode.tokens
            self._begin(index, episode.number, episode.job, faults=episode.faults)
            return
        episode.stop(Outcome.ENVIRONMENT_ERROR, fault=str(fault), fault_kind=fault.kind)
        self._end(index)
        if len(self._failed) >= _FAILED_IN_A_ROW:
            raise EnvironmentFaultError(
                f"the environment failed in {len(self._failed)} episodes in a row, lastly with: {fault}; "
                "these episodes are not kept, so the same command plays them again once it works",
                kind=fault.kind,
            ) from fault

    def _abandon(self, index: int, why: str) -> None:
        """The agent cannot be asked: leave the episode to the next run, and try the next job."""
        self.tokens += self._episodes.pop(index).tokens
        self._player.release(index)
        self._abandoned += 1
        self._abandoned_in_a_row += 1
        self._last_fault = why
        if self._abandoned_in_a_row >= _FAILED_IN_A_ROW:
            raise AgentFaultError(
                f"the agent could not be asked in {self._abandoned_in_a_row} episodes in a row, lastly: "
                f"{why}; these episodes are not kept, so the same command plays them again once it works"
            )
        self._seat(index)

    def _end(self, index: int) -> None:
        episode = self._episodes.pop(index)
        self._abandoned_in_a_row = 0
        self._player.release(index)
        self.tokens += episode.tokens
        trajectory = episode.trajectory()
        if episode.outcome is Outcome.ENVIRONMENT_ERROR:
            # Kept back until it is clear that not everything fails: then they shall be played again.
            self._failed.append(trajectory)
        else:
            self._keep_failed()
            self._store.append(trajectory)
        if trajectory.reward is not None:
            self._rewards.append(trajectory.reward)
        self._bar.advance(note=self._note())
        self._seat(index)

    def _keep_failed(self) -> None:
        for trajectory in self._failed:
            self._store.append(trajectory)
        self._failed.clear()

    def _note(self) -> str:
        parts = []
        if self._rewards:
            parts.append(f"average reward {sum(self._rewards) / len(self._rewards):.2f}")
        seconds = time.monotonic() - self._started
        tokens = self.tokens + sum(e.tokens for e in self._episodes.values())
        if tokens and seconds:
            parts.append(f"{tokens / seconds:.0f} tokens/s")
        return ", ".join(parts)

    def _wait(self) -> None:
        """Nothing is ready anywhere: sleep until a slot is."""
        wait_any([self._slots[index] for index in self._calls], _WAIT_SECONDS)
