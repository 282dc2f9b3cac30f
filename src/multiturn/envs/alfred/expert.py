"""An expert that knows no more than the agent: it reads what the game says and remembers it.

It looks for things, where they usually are or in the order in which the room lists its receptacles, opens
what is closed, and puts down what it does not need. So what it does can be imitated. It can take over in any
state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from multiturn.envs.alfred.catalogue import FITS, TOOLS, USUAL_PLACES
from multiturn.envs.alfred.games import parse_goal
from multiturn.envs.alfred.memory import Memory, kind_of, number_of
from multiturn.envs.alfred.text import NOTHING_HAPPENS
from multiturn.envs.base import ExpertAction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from multiturn.envs.alfred.text import Grammar

__all__ = ["LIKELY", "LISTED", "SEARCHES", "Expert"]

LIKELY = "likely"
LISTED = "listed"
SEARCHES = (LIKELY, LISTED)
"""The orders in which an expert may look for things."""

_UNUSUAL = 0.3  # percent: what any receptacle gets that USUAL_PLACES does not name
_RESULTS = {"clean": "clean", "heat": "hot", "cool": "cool"}


class Expert:
    """Decides from a memory of what the game has said.

    Args:
        intro: The first observation.
        grammar: The wording of the game.
        search: ``LIKELY`` looks where a thing usually is first; ``LISTED`` looks into the receptacles in the
            order of the first observation. That takes more turns, but leaves nothing to guess: a policy that
            goes elsewhere has made a mistake, not another guess.
    """

    def __init__(self, intro: str, grammar: Grammar, *, search: str = LIKELY) -> None:
        self.memory = Memory(intro)
        self._search_order = search
        self._goal = parse_goal(self.memory.task)
        self._grammar = grammar
        self._suggested = ""
        # What was tried when it should have worked. That an agent tried it at the wrong time says nothing.
        self._refused: set[str] = set()

    def observe(self, action: str, observation: str) -> None:
        """Tell the expert what the agent did and what the game answered."""
        self.memory.observe(action, observation)
        if observation == NOTHING_HAPPENS and action.strip() == self._suggested:
            self._refused.add(self._suggested)
        self._suggested = ""

    def act(self) -> ExpertAction | None:
        """The next action.

        Returns:
            An action with a sentence of thought; None if the goal is worded in a way that is not
            understood, or nothing is left to try.
        """
        decision = self._decide()
        self._suggested = decision.action if decision is not None else ""
        return decision

    def _decide(self) -> ExpertAction | None:
        goal, held = self._goal, self.memory.held
        if goal is None:
            return None
        if held is None:
            return self._fetch(goal.object)
        if kind_of(held) != goal.object:
            return self._put_away(held)
        if goal.light:
            return self._light(held)
        if goal.treatment and goal.treatment not in self.memory.treatments.get(held, ()):
            return self._treat(held, goal.treatment)
        return self._deliver(held)

    def _fetch(self, kind: str) -> ExpertAction | None:
        """Take an object of a kind, or look for one."""
        done = self._goal_receptacle() if self._goal is not None and self._goal.count > 1 else None
        for item, receptacle in self.memory.where(kind):
            take = f"take {item} from {receptacle}"
            if receptacle == done or take in self._refused:
                continue
            return self._reach(receptacle, f"the {item} is there") or ExpertAction(
                action=take, thought=f"The {item} is here, so I take it."
            )
        return self._search(kind)

    def _treat(self, item: str, treatment: str) -> ExpertAction | None:
        """Clean, heat or cool the object in hand. The receptacle that does it may stay closed."""
        tool = self._nearest(self._of_kind(TOOLS[treatment]))
        if tool is None:
            return None
        if tool not in self.memory.here:
            return ExpertAction(
                action=f"go to {tool}", thought=f"I need the {item} {_RESULTS[treatment]}, so I go to {tool}."
            )
        thought = f"The {item} has to be {_RESULTS[treatment]}, so I use the {tool}."
        return self._unless_refused(f"{treatment} {item} with {tool}", thought)

    def _deliver(self, item: str) -> ExpertAction | None:
        """Put the object in hand where the goal wants it."""
        receptacle = self._goal_receptacle()
        if receptacle is None:
            return None
        return self._reach(receptacle, f"the {item} belongs there", searching=False) or self._unless_refused(
            self._put(item, receptacle), f"The {item} belongs here, so I put it down."
        )

    def _goal_receptacle(self) -> str | None:
        """The one receptacle to which wanted objects go: one that has some already, or else the nearest."""
        if self._goal is None:
            return None
        targets = self._of_kind(self._goal.target)
        held = self.memory.held
        if held is not None:
            targets = [target for target in targets if self._put(held, target) not in self._refused]
        wanted = self._goal.object
        for target in targets:
            if any(kind_of(item) == wanted for item in self.memory.contents.get(target, ())):
                return target
        return self._nearest(targets)

    def _light(self, item: str) -> ExpertAction | None:
        """Hold the object under a lamp that is on."""
        lamp_kind = self._goal.target if self._goal is not None else ""
        for lamp, receptacle in self.memory.where(lamp_kind):
            if receptacle not in self.memory.here:
                return ExpertAction(
                    action=f"go to {receptacle}", thought=f"I saw the {lamp} there, so I go to {receptacle}."
                )
            use = f"use {lamp}"
            if use not in self._refused:
                return ExpertAction(action=use, thought=f"I hold the {item}, so I turn on the {lamp}.")
        return self._search(lamp_kind)

    def _put_away(self, item: str) -> ExpertAction | None:
        """Put down an object that the goal does not ask for, as near as possible."""
        places = [place for place in self.memory.receptacles if self._put(item, place) not in self._refused]
        # Usual places first, then whatever has not refused it; here before elsewhere.
        place = min(
            places,
            key=lambda name: (
                kind_of(item) not in FITS.get(kind_of(name), ()),
                name not in self.memory.here,
                self.memory.needs_opening(name),
            ),
            default=None,
        )
        if place is None:
            return None
        return self._reach(place, f"the {item} can stay there", searching=False) or ExpertAction(
            action=self._put(item, place), thought=f"I do not need the {item}, so I put it down."
        )

    def _search(self, kind: str) -> ExpertAction | None:
        """Look into the next receptacle: the first of the list, or the most probable one for its cost."""
        unseen = [receptacle for receptacle in self.memory.receptacles if not self.memory.seen(receptacle)]
        if not unseen:
            return None
        if self._search_order == LISTED:
            place = unseen[0]
        else:
            place = max(unseen, key=lambda receptacle: self._promise(kind, receptacle))
        return self._reach(place, f"a {kind} may be there")

    def _promise(self, kind: str, receptacle: str) -> tuple[float, int]:
        """How probable it is that an object lies in a receptacle, per action that looking takes."""
        place = kind_of(receptacle)
        usual = USUAL_PLACES.get(kind, {}).get(place, 0) + _UNUSUAL
        here, closed = receptacle in self.memory.here, self.memory.needs_opening(receptacle)
        actions = max(1, (not here) + closed)
        return usual / len(self._of_kind(place)) / actions, -number_of(receptacle)

    def _reach(self, receptacle: str, reason: str, *, searching: bool = True) -> ExpertAction | None:
        """Go to a receptacle, or open it; None when one can reach into it already."""
        if receptacle not in self.memory.here:
            thought = f"I go to {receptacle}, because {reason}."
            return ExpertAction(action=f"go to {receptacle}", thought=thought)
        if receptacle in self.memory.closed:
            thought = f"The {receptacle} is closed, so I open it."
            return ExpertAction(action=f"open {receptacle}", thought=thought)
        if self.memory.unsure(receptacle) or (searching and not self.memory.seen(receptacle)):
            return ExpertAction(action=f"examine {receptacle}", thought=f"I look at the {receptacle}.")
        return None

    def _of_kind(self, kind: str) -> list[str]:
        return [receptacle for receptacle in self.memory.receptacles if kind_of(receptacle) == kind]

    def _nearest(self, receptacles: Iterable[str]) -> str | None:
        """Here, or open, or with the lowest number."""
        memory = self.memory
        return min(
            receptacles,
            key=lambda name: (name not in memory.here, memory.needs_opening(name), number_of(name)),
            default=None,
        )

    def _put(self, item: str, receptacle: str) -> str:
        return self._grammar.put.format(object=item, receptacle=receptacle)

    def _unless_refused(self, action: str, thought: str) -> ExpertAction | None:
        return None if action in self._refused else ExpertAction(action=action, thought=thought)
