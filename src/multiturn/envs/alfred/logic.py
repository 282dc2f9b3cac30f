"""The domain and the grammar that the official engine plays: its own files, in the two published wordings."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

from multiturn.envs.alfred.text import MOVE, PUT, Grammar
from multiturn.errors import DataError, MissingExtraError

__all__ = ["Logic", "published_logic", "wording_of"]

_ARRIVAL = "You arrive at {"
_ARRIVES = "You arrive at {r.name}."
_GRAMMAR_OF_2020 = (
    (_ARRIVES, "You arrive at {lend.name}."),
    ("You move the {o.name} to the {r.name}.", "You put the {o.name} in/on the {r.name}."),
    ('"move {o} to {r}"', '"put {o} in/on {r}"'),
)
"""What the grammar of the present package says -> what that of 2020 said."""

_SINK = "(receptacleType ?r SinkType)"
_COMMENTED_SINK = f";{_SINK}"
_CLEANING = "(:action cleanobject"
_COMMENT = re.compile(r";[^\n]*")
_UNKNOWN_TASK = "UNKNOWN GOAL"
_HELP_COMMAND = re.compile(r"\naction help \{.*?^\}\n", flags=re.MULTILINE | re.DOTALL)
_HELP_ACTION = re.compile(r"\n\(:action help\b.*?^\)\n", flags=re.MULTILINE | re.DOTALL)
_HELP_ANSWER = re.compile(r'"help\.feedback".*?"rhs":\s*("(?:[^"\\]|\\.)*")', flags=re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Logic:
    """The rules and the sentences of a game, as ALFWorld's files have them.

    Attributes:
        domain: The rules (PDDL).
        grammar: The commands and sentences (twl2); the task is one of them.
    """

    domain: str
    grammar: str


def published_logic(wording: Grammar, task: str) -> Logic:
    """The files of the installed package ``alfworld``, in a wording, for a task.

    The package has the newer wording. That of 2020 differs in four sentences, in one line of the domain and
    in having no ``help``, and is made from it.

    Args:
        wording: ``PUT`` or ``MOVE``.
        task: The goal as a sentence.

    Raises:
        MissingExtraError: The package is not installed.
        DataError: Its files are not as expected.
    """
    found = importlib.util.find_spec("alfworld")
    if found is None or found.origin is None:
        raise MissingExtraError("the official engine of ALFWorld", extra="alfworld", missing="alfworld")
    folder = Path(found.origin).parent / "data"
    domain = (folder / "alfred.pddl").read_text(encoding="utf-8")
    grammar = (folder / "alfred.twl2").read_text(encoding="utf-8")
    if wording_of(domain, grammar) != MOVE or _UNKNOWN_TASK not in grammar:
        raise DataError(
            "is not the grammar that is expected of the package alfworld; install the version 0.4.2",
            path=folder / "alfred.twl2",
        )
    if wording == PUT:
        domain, grammar = _of_2020(domain, grammar)
    sentence = json.dumps(task.rstrip("."))[1:-1]
    return Logic(domain=domain, grammar=grammar.replace(_UNKNOWN_TASK, sentence))


def _of_2020(domain: str, grammar: str) -> tuple[str, str]:
    for new, old in _GRAMMAR_OF_2020:
        grammar = grammar.replace(new, old)
    domain = domain.replace(_COMMENTED_SINK, _SINK)
    return _HELP_ACTION.sub("", domain), _HELP_COMMAND.sub("", grammar)


def wording_of(domain: str, grammar: str) -> Grammar:
    """How a game is worded that brings its own domain and grammar.

    Returns:
        ``PUT`` or ``MOVE`` if it is one of these, else what it shares with each. What the files do not
        mention is taken to be as in the nearer one.
    """
    nearest = MOVE if '"move {o} to {r}"' in grammar else PUT
    arrives, cleans = nearest.arrives_at_receptacle, nearest.cleans_in_any_sink
    if _ARRIVAL in grammar:
        arrives = _ARRIVES in grammar
    if _CLEANING in domain.lower():
        cleans = _SINK.lower() in _COMMENT.sub("", domain).lower()
    answer = _HELP_ANSWER.search(grammar)
    return dataclasses.replace(
        nearest,
        arrives_at_receptacle=arrives,
        cleans_in_any_sink=cleans,
        # TextWorld's parser skips the blanks that a sentence begins with.
        help=_unquoted(answer[1]).lstrip() if answer is not None else None,
    )


def _unquoted(text: str) -> str:
    """A sentence as a grammar has it, in quotation marks; what no reader of JSON takes stays as it is."""
    try:
        return str(json.loads(text, strict=False))
    except ValueError:
        return text[1:-1]
