"""Environments by name: those that ship, those of installed packages, and those registered in a program.

A name is one of

- a registered one, such as ``household``: built in, announced by an installed package through the entry-point
  group ``multiturn.environments``, or given to `register`;
- ``module:factory``, anything that can be imported.

Nothing is imported before an environment is made, so that listing them is cheap and needs no extra.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from multiturn.envs.base import Environment
from multiturn.errors import ConfigError

__all__ = [
    "ENTRY_POINT_GROUP",
    "Entry",
    "EnvironmentFactory",
    "Option",
    "available",
    "check_options",
    "find",
    "make",
    "options_of",
    "register",
    "unregister",
]

ENTRY_POINT_GROUP = "multiturn.environments"

EnvironmentFactory: TypeAlias = Callable[..., Environment]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A registered environment.

    Attributes:
        name: Its name.
        target: Its factory, or ``module:factory`` to import it from when it is first needed.
        summary: One line for lists.
        isolate: Whether it lives in a process of its own unless the user says otherwise: for environments
            that can hang or crash. A factory can also say so itself, by an attribute ``isolate = True``.
        isolate_with: Options, with their values, any of which makes it live in a process of its own too.
    """

    name: str
    target: EnvironmentFactory | str
    summary: str = ""
    isolate: bool = False
    isolate_with: tuple[tuple[str, str], ...] = ()

    def factory(self) -> EnvironmentFactory:
        """The factory itself, imported if need be.

        Raises:
            ConfigError: It cannot be imported.
        """
        return self.target if callable(self.target) else _import(self.target)

    def isolated(self, options: Mapping[str, object] | None = None) -> bool:
        """Whether it lives in a process of its own by default.

        Args:
            options: The options that it is made with.

        Raises:
            ConfigError: Its factory, which is asked where the entry does not say, cannot be imported.
        """
        if any((options or {}).get(option) == value for option, value in self.isolate_with):
            return True
        if self.isolate or self.name in _BUILT_IN:
            return self.isolate
        return getattr(self.factory(), "isolate", False) is True

    def importable(self) -> str:
        """The factory as ``module:factory``, for another process to import.

        Raises:
            ConfigError: Another process could not import it.
        """
        if isinstance(self.target, str):
            return self.target
        module = getattr(self.target, "__module__", None)
        path = getattr(self.target, "__qualname__", "<locals>")
        if module is None or module == "__main__" or "<" in path:
            raise ConfigError(
                f"the environment {self.name!r} cannot live in a process of its own: that process would have "
                f"to import its factory, which is {module or '?'}.{path}. Put the factory into a module, at "
                "its top level, or do without isolation."
            )
        return f"{module}:{path}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option of an environment.

    Attributes:
        name: Its name.
        type: Its type as written in the factory's signature; may be empty.
        default: Its default as Python writes it, or None where it must be given.
        summary: What the factory's docstring says about it; may be empty.
    """

    name: str
    type: str
    default: str | None
    summary: str


_BUILT_IN = {
    entry.name: entry
    for entry in (
        Entry(
            name="household",
            target="multiturn.envs.alfred:household",
            summary="generated household games in the text world of ALFRED; pure Python, seeded, any number",
            # TextWorld's planner is C++ that ends its process on some errors.
            isolate_with=(("engine", "textworld"),),
        ),
        Entry(
            name="alfworld",
            target="multiturn.envs.alfred:alfworld",
            summary="the real ALFWorld text games, played by the same engine; needs their files",
            isolate_with=(("engine", "textworld"),),
        ),
        Entry(
            name="webshop",
            target="multiturn.envs.webshop:webshop",
            summary="WebShop, re-implemented to the letter; needs the original's data files",
        ),
        Entry(
            name="webshop-generated",
            target="multiturn.envs.webshop:webshop_generated",
            summary="a shop with made-up products in WebShop's pages and rules; pure Python, seeded",
        ),
        Entry(
            name="scienceworld",
            target="multiturn.envs.scienceworld:scienceworld",
            summary="the real ScienceWorld simulator (Java); needs the extra multiturn[scienceworld]",
            isolate=True,
        ),
    )
}
_registered: dict[str, Entry] = {}


def register(
    name: str, factory: EnvironmentFactory | str, *, summary: str = "", isolate: bool = False
) -> None:
    """Make an environment known in this program. A name registered before is replaced.

    Args:
        name: Its name: letters, digits, ``_``, ``.`` and ``-``.
        factory: What makes it: called with the options as keyword arguments. Or ``module:factory``.
        summary: One line for lists; by default the first line of the factory's docstring.
        isolate: Whether it lives in a process of its own by default. Its factory must then be importable.

    Raises:
        ConfigError: The name is not usable, or belongs to an environment that ships with multiturn.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ConfigError(f"{name!r} is not a name for an environment; use letters, digits, '_', '.' and '-'")
    if name in _BUILT_IN:
        raise ConfigError(f"{name!r} is an environment that ships with multiturn; choose another name")
    if not summary and not isinstance(factory, str):
        summary = (inspect.getdoc(factory) or "").partition("\n")[0]
    _registered[name] = Entry(name=name, target=factory, summary=summary, isolate=isolate)


def unregister(name: str) -> None:
    """Forget what `register` was told; unknown names are ignored."""
    _registered.pop(name, None)


def available() -> dict[str, str]:
    """One line on each environment, by name. Nothing is imported for it."""
    return {name: entry.summary for name, entry in sorted(_entries().items())}


def find(name: str) -> Entry:
    """The entry of a name.

    Args:
        name: A registered name, or ``module:factory``.

    Raises:
        ConfigError: There is no such environment; the message suggests the nearest name.
    """
    entries = _entries()
    if name in entries:
        return entries[name]
    if ":" in name:
        return Entry(name=name, target=name)
    raise ConfigError(
        f"there is no environment {name!r}{_suggest(name, entries)}; there are {', '.join(sorted(entries))}, "
        "and anything importable as 'module:factory'"
    )


def check_options(name: str, options: Mapping[str, object]) -> EnvironmentFactory:
    """Make sure that an environment exists and has these options, without making it.

    Args:
        name: A registered name, or ``module:factory``.
        options: The options; only their names are looked at.

    Returns:
        The environment's factory.

    Raises:
        ConfigError: There is no such environment or option, or a required option is missing.
    """
    factory = find(name).factory()
    keywords = _keywords(factory)
    named = {key: value for key, value in keywords.items() if value.kind is not value.VAR_KEYWORD}
    if len(named) == len(keywords):
        for option in options:
            if option not in named:
                known = f"it has {', '.join(sorted(named))}" if named else "it has none"
                raise ConfigError(
                    f"the environment {name!r} has no option {option!r}{_suggest(option, named)}; {known}"
                )
    for option, parameter in named.items():
        if parameter.default is parameter.empty and option not in options:
            raise ConfigError(f"the environment {name!r} needs the option {option!r}")
    return factory


def make(name: str, /, **options: object) -> Environment:
    """Make an environment.

    Args:
        name: A registered name, or ``module:factory``.
        **options: Passed to its factory.

    Raises:
        ConfigError: There is no such environment or option; the message suggests the nearest one.
        MissingExtraError: It needs a package that is not installed.
    """
    return check_options(name, options)(**options)


def options_of(name: str) -> list[Option]:
    """The options of an environment, read from its factory's signature and docstring.

    Raises:
        ConfigError: There is no such environment.
    """
    factory = find(name).factory()
    summaries = _documented_arguments(inspect.getdoc(factory) or "")
    return [
        Option(
            name=parameter.name,
            type=_written(parameter.annotation),
            default=None if parameter.default is parameter.empty else repr(parameter.default),
            summary=summaries.get(parameter.name, ""),
        )
        for parameter in _keywords(factory).values()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]


def _entries() -> dict[str, Entry]:
    entries = dict(_BUILT_IN)
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        package = point.dist.name if point.dist is not None else point.module
        target, _, _ = point.value.partition(" [")
        entries.setdefault(
            point.name, Entry(name=point.name, target=target.strip(), summary=f"from the package {package}")
        )
    return entries | _registered


def _import(target: str) -> EnvironmentFactory:
    module, _, path = target.partition(":")
    if not module or module.startswith("."):
        raise ConfigError(
            f"the environment {target!r} does not name a module; write 'module:factory', with the module's "
            "whole name"
        )
    try:
        found: object = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module that the environment needs, not the one named: its own traceback says more.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"the environment {target!r} needs the module {error.name!r}, which is not installed"
            " or not on the import path"
        ) from error
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ConfigError(f"the module {module!r} has no factory {path!r} to make an environment with")
    return found


def _written(annotation: object) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _keywords(factory: EnvironmentFactory) -> dict[str, inspect.Parameter]:
    passable = (
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
        inspect.Parameter.VAR_KEYWORD,
    )
    parameters = inspect.signature(factory).parameters
    return {name: parameter for name, parameter in parameters.items() if parameter.kind in passable}


def _suggest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _documented_arguments(doc: str) -> dict[str, str]:
    """The arguments that a Google docstring describes, each in one line."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", doc, flags=re.MULTILINE)
    if section is None:
        return {}
    described: dict[str, str] = {}
    # An argument begins at four blanks; its description goes on at eight.
    for item in re.split(
        r"\n(?=    \S)", inspect.cleandoc(section[1]).join(("\n", "")).replace("\n", "\n    ")
    ):
        name, colon, text = item.strip().partition(":")
        if colon:
            described[name.split(" ")[0].lstrip("*")] = " ".join(text.split())
    return described
