"""What an agent knows from the sentences that it has read so far."""

from __future__ import annotations

import re

from multiturn.envs.alfred.catalogue import OPENABLE
from multiturn.envs.alfred.text import NOTHING_HAPPENS

__all__ = ["Memory", "kind_of", "number_of"]

_INTRO = re.compile(r"Looking quickly around you, you see (.*?)\.\n")
_TASK = re.compile(r"Your task is to: (.*)")
_ARRIVED = re.compile(r"You arrive at (.+?)\. ")
_FACING = re.compile(r"You are facing the (.*?)\. Next to it")
_CONTENTS = re.compile(r"(?:On the (\w+ \d+)|The (\w+ \d+) is open\. In it), you see (.*?)\.$")
_CLOSED = re.compile(r"The (\w+ \d+) is closed\.$|You close the (\w+ \d+)\.$")
_TAKEN = re.compile(r"You pick up the (\w+ \d+) from the (\w+ \d+)\.")
_PUT = re.compile(r"You (?:put|move) the (\w+ \d+) (?:in/on|to) the (\w+ \d+)\.")
_TREATED = re.compile(r"You (heat|clean|cool) the (\w+ \d+) using the ")
_TURNED_ON = re.compile(r"You turn on the (\w+ \d+)\.")
_CARRYING = re.compile(r"You are carrying: a (\w+ \d+)\.")


def kind_of(name: str) -> str:
    """``"mug"`` for ``"mug 2"``."""
    return name.rpartition(" ")[0]


def number_of(name: str) -> int:
    """``2`` for ``"mug 2"``."""
    return int(name.rpartition(" ")[2])


def _names(text: str) -> list[str]:
    if text == "nothing":
        return []
    return [part.removeprefix("and ").removeprefix("a ") for part in text.split(", ")]


class Memory:
    """Everything that follows from what the game has said.

    Args:
        intro: The first observation: what there is in the room, and the task.

    Attributes:
        task: The goal sentence; ``""`` if the first observation has none.
        receptacles: The receptacles of the room, as the first observation lists them.
        here: The receptacles that are known to be at the agent's location.
        contents: Receptacle -> the objects that were last seen there, or put there since.
        closed: The receptacles that are known to be closed now.
        held: The object in the agent's hand.
        treatments: Object -> which of clean, heat and cool now hold of it.
        lit: The lamps that have been turned on.
    """

    def __init__(self, intro: str) -> None:
        seen, task = _INTRO.search(intro), _TASK.search(intro)
        self.task = task[1].strip() if task else ""
        self.receptacles = _names(seen[1]) if seen else []
        self.here: set[str] = set()
        self.contents: dict[str, list[str]] = {}
        self.closed: set[str] = set()
        self.held: str | None = None
        self.treatments: dict[str, set[str]] = {}
        self.lit: set[str] = set()
        self._together: dict[str, set[str]] = {}

    def observe(self, action: str, observation: str) -> None:
        """Take in one action and the answer to it."""
        action = action.strip()
        if observation == NOTHING_HAPPENS:
            self._learn_refusal(action)
            return
        if arrived := _ARRIVED.match(observation):
            self._arrive(action.removeprefix("go to "), arrived[1])
        elif facing := _FACING.match(observation):
            self.here = set(_names(facing[1]))
        if match := _CONTENTS.search(observation):
            receptacle = match[1] or match[2]
            self.contents[receptacle] = _names(match[3])
            self.closed.discard(receptacle)
        elif match := _CLOSED.search(observation):
            self.closed.add(match[1] or match[2])
        else:
            self._observe_objects(observation)

    def _observe_objects(self, observation: str) -> None:
        if match := _TAKEN.match(observation):
            self.held = match[1]
            # It may have been listed in two receptacles, which share it: then it is in neither now.
            for contents in self.contents.values():
                if match[1] in contents:
                    contents.remove(match[1])
        elif match := _PUT.match(observation):
            self.held = None
            self.contents.setdefault(match[2], []).append(match[1])
        elif match := _TREATED.match(observation):
            treatments = self.treatments.setdefault(match[2], set())
            treatments.add(match[1])
            treatments -= {"heat": {"cool"}, "cool": {"heat"}}.get(match[1], set())
        elif match := _TURNED_ON.match(observation):
            self.lit.add(match[1])
        elif match := _CARRYING.match(observation):
            self.held = match[1]

    def _arrive(self, receptacle: str, place: str) -> None:
        """Receptacles that were reached at the same location are all here."""
        together = self._together.setdefault(place, set())
        together.add(receptacle)
        self.here = set(together)

    def _learn_refusal(self, action: str) -> None:
        destination = action.removeprefix("go to ")
        if destination != action and destination in self.receptacles:
            self.here.add(destination)  # one cannot go to where one is

    def seen(self, receptacle: str) -> bool:
        """Whether the contents of a receptacle are known."""
        return receptacle in self.contents

    def unsure(self, receptacle: str) -> bool:
        """Whether a receptacle may be open or closed, for all that is known."""
        return receptacle not in self.closed and not self.seen(receptacle) and kind_of(receptacle) in OPENABLE

    def needs_opening(self, receptacle: str) -> bool:
        """Whether a receptacle is closed, as far as is known or to be expected."""
        return receptacle in self.closed or self.unsure(receptacle)

    def where(self, kind: str) -> list[tuple[str, str]]:
        """All (object, receptacle) that are known of a kind of object."""
        return [
            (item, receptacle)
            for receptacle, contents in self.contents.items()
            for item in contents
            if kind_of(item) == kind
        ]
