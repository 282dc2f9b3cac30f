"""Play one game of the ALFRED text domain, worded exactly as the original simulator words it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from multiturn.envs.alfred.text import (
    ANSWERS,
    BANNER,
    COMMANDS,
    NOTHING_HAPPENS,
    PUT,
    describe_object,
    listing,
)
from multiturn.envs.alfred.world import Action, World

if TYPE_CHECKING:
    from multiturn.envs.alfred.pddl import Problem
    from multiturn.envs.alfred.text import Grammar

__all__ = ["Engine", "Outcome"]


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What the game answers.

    Attributes:
        observation: The text.
        valid: False exactly when the text is "Nothing happens.".
        won: Whether the goal holds.
        done: Whether the game is over, which it is when it is won.
    """

    observation: str
    valid: bool = True
    won: bool = False
    done: bool = False

    @property
    def score(self) -> int:
        """1 when the game is won, else 0."""
        return int(self.won)


class Engine:
    """A game from its first sentence to the win.

    Commands match exactly after ``strip()``: case and inner blanks matter, and anything that is not
    admissible gets "Nothing happens.". After the end a command changes nothing and gets the last answer
    again.

    Args:
        problem: The room and the goal.
        task: The goal as a sentence, ``"put a mug in cabinet."``.
        grammar: The wording.

    Raises:
        DataError: The problem does not say where the agent is.
    """

    def __init__(self, problem: Problem, task: str, grammar: Grammar = PUT) -> None:
        self._problem = problem
        self._grammar = grammar
        self._templates = COMMANDS | {"put": grammar.put}
        self._answers = ANSWERS | {"put": grammar.put_done} | ({"help": grammar.help} if grammar.help else {})
        self.task = task.rstrip(".") + "."
        self.reset()

    def reset(self) -> Outcome:
        """Begin anew.

        Returns:
            The welcome, what there is in the room, and the task.
        """
        self.world = World(self._problem, cleans_in_any_sink=self._grammar.cleans_in_any_sink)
        self._commands: dict[str, Action] | None = None
        intro = self._look(at_start=True)
        text = f"{BANNER}\n\n{intro}\n\nYour task is to: {self.task}"
        self.last = Outcome(text, won=self.world.won())
        return self.last

    def admissible_commands(self) -> list[str]:
        """All commands that would do something now, sorted, without duplicates."""
        return sorted(self._admissible())

    def step(self, command: str) -> Outcome:
        """Enter one command.

        Returns:
            The answer; the previous one again if the game is over.
        """
        if self.last.done:
            return self.last
        action = self._admissible().get(command.strip())
        if action is None:
            won = self.last.won
            self.last = Outcome(NOTHING_HAPPENS, valid=False, won=won, done=won)
            return self.last
        self.world.apply(action)
        self._commands = None
        won = self.world.won()
        self.last = Outcome(self._answer(action), won=won, done=won)
        return self.last

    def _admissible(self) -> dict[str, Action]:
        if self._commands is None:
            self._commands = {}
            for action in self.world.actions():
                self._commands.setdefault(self._filled(self._templates[action.verb], action), action)
            if self._grammar.help is not None:
                self._commands["help"] = Action("help")
        return self._commands

    def _filled(self, template: str, action: Action) -> str:
        names = self.world.names
        return template.format(
            object=names.get(action.object, ""), receptacle=names.get(action.receptacle, "")
        )

    def _answer(self, action: Action) -> str:
        if action.verb in self._answers:
            return self._filled(self._answers[action.verb], action)
        match action.verb:
            case "look":
                return self._look(at_start=False)
            case "inventory":
                return self._inventory()
            case "examine_object":
                return self._describe_object(action.object)
            case "open":
                introduction = f"You open the {self.world.names[action.receptacle]}. "
            case "goto":
                by_receptacle = self._grammar.arrives_at_receptacle
                place = action.receptacle if by_receptacle else action.location
                introduction = f"You arrive at {self.world.names[place]}. "
            case _:
                introduction = ""
        return introduction + self._describe_receptacle(action.receptacle)

    def _look(self, *, at_start: bool) -> str:
        world = self.world
        if here := world.receptacles_here:
            facing = listing([world.names[receptacle] for receptacle in here])
            beside = listing(self._with_article(world.beside_receptacles(world.location)))
            return f"You are facing the {facing}. Next to it, you see {beside}."
        # Only the very first look takes in the whole room. Later ones list what is at the agent's own
        # location, which is nothing.
        around = [receptacle for receptacle, _ in world.places] if at_start else []
        seen = listing(self._with_article(around))
        return f"You are in the middle of a room. Looking quickly around you, you see {seen}."

    def _inventory(self) -> str:
        held = self.world.held
        if held is None:
            return "You are not carrying anything."
        return f"You are carrying: {listing(self._with_article([held]))}."

    def _describe_receptacle(self, receptacle: str) -> str:
        name = self.world.names[receptacle]
        openable = self.world.holds("openable", receptacle)
        if openable and not self.world.holds("opened", receptacle):
            return f"The {name} is closed."
        contents = listing(self._with_article(self.world.contents(receptacle)))
        if openable:
            return f"The {name} is open. In it, you see {contents}."
        return f"On the {name}, you see {contents}."

    def _describe_object(self, item: str) -> str:
        name = self.world.names[item]
        if self.world.holds("isreceptacleobject", item):
            inside = listing(self._with_article(self.world.inner_objects(item)))
            return f"This is a normal {name}. In it, you see {inside}."
        return describe_object(name, self.world.properties(item))

    def _with_article(self, entities: list[str]) -> list[str]:
        return [f"a {self.world.names[entity]}" for entity in entities]
