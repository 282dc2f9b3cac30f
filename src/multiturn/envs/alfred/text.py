"""The sentences and commands of the ALFRED text domain, in its two published wordings."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ANSWERS",
    "BANNER",
    "COMMANDS",
    "GRAMMARS",
    "MOVE",
    "NOTHING_HAPPENS",
    "PUT",
    "Grammar",
    "describe_object",
    "listing",
]

BANNER = "-= Welcome to TextWorld, ALFRED! =-"
NOTHING_HAPPENS = "Nothing happens."

COMMANDS = {
    "look": "look",
    "inventory": "inventory",
    "help": "help",
    "goto": "go to {receptacle}",
    "open": "open {receptacle}",
    "close": "close {receptacle}",
    "take": "take {object} from {receptacle}",
    "examine_receptacle": "examine {receptacle}",
    "examine_object": "examine {object}",
    "use": "use {object}",
    "heat": "heat {object} with {receptacle}",
    "clean": "clean {object} with {receptacle}",
    "cool": "cool {object} with {receptacle}",
    "slice": "slice {object} with {receptacle}",
}
"""Verb -> its command; ``put`` differs between the wordings. What slices stands where receptacles do."""

ANSWERS = {
    "close": "You close the {receptacle}.",
    "take": "You pick up the {object} from the {receptacle}.",
    "use": "You turn on the {object}.",  # the domain never says that something was turned off
    "heat": "You heat the {object} using the {receptacle}.",
    "clean": "You clean the {object} using the {receptacle}.",
    "cool": "You cool the {object} using the {receptacle}.",
    "slice": "You sliced the {object} with the {receptacle}.",
}
"""Verb -> the answer, for those where it depends on nothing but the names."""

_HELP = """\
Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """Where the published wordings of the domain differ.

    Attributes:
        name: How options call it.
        put: The command that puts an object down, with ``{object}`` and ``{receptacle}``.
        put_done: The answer to it.
        arrives_at_receptacle: Whether one arrives "at fridge 1" or "at loc 7".
        cleans_in_any_sink: Whether receptacles of type Sink clean, or only those of type SinkBasin.
        help: The answer to the command ``help``; None where there is no such command.
    """

    name: str
    put: str
    put_done: str
    arrives_at_receptacle: bool
    cleans_in_any_sink: bool
    help: str | None


PUT = Grammar(
    name="put",
    put="put {object} in/on {receptacle}",
    put_done="You put the {object} in/on the {receptacle}.",
    arrives_at_receptacle=False,
    cleans_in_any_sink=True,
    help=None,
)
"""The wording of 2020, which published results on ALFWorld use."""

MOVE = Grammar(
    name="move",
    put="move {object} to {receptacle}",
    put_done="You move the {object} to the {receptacle}.",
    arrives_at_receptacle=True,
    cleans_in_any_sink=False,
    help=_HELP,
)
"""The newer wording."""

GRAMMARS = {grammar.name: grammar for grammar in (PUT, MOVE)}


def listing(names: Sequence[str]) -> str:
    """Names without article to an enumeration with the domain's own punctuation.

    >>> listing([]), listing(["a mug 1"]), listing(["a mug 2", "a mug 1"])
    ('nothing', 'a mug 1', 'a mug 2, and a mug 1')
    """
    if not names:
        return "nothing"
    if len(names) == 1:
        return names[0]
    return ", ".join(names[:-1]) + ", and " + names[-1]


def describe_object(name: str, properties: frozenset[str]) -> str:
    """What ``examine`` says of an object that holds no other objects.

    Args:
        name: ``"apple 1"``.
        properties: Those of isclean, ishot, iscool, issliced, toggleable, istoggled, not_istoggled and
            sliceable that are known of it.
    """
    clean, sliced = "isclean" in properties, "issliced" in properties
    warmth = "hot" if "ishot" in properties else "cool" if "iscool" in properties else ""
    if warmth or clean:
        if warmth and clean:
            state = f"{warmth} and clean"
        elif warmth == "cool" and not sliced:
            state = "cold"  # the one place where the domain says "cold"
        else:
            state = warmth or "clean"
        return f"This is a {state} {'sliced ' if sliced else ''}{name}."
    if {"toggleable", "istoggled"} <= properties:
        return f"This {name} is on."
    if {"toggleable", "not_istoggled"} <= properties:
        return f"This {name} is off."
    if {"sliceable", "issliced"} <= properties:
        return f"This is a sliced {name}."
    return f"There's nothing special about {name}."
