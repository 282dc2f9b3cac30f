"""From a YAML file and ``--set`` overrides to a `Config`, with errors that say where and what to do."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import yaml
from pydantic import BaseModel, ValidationError

from multiturn.envs.protocols import PROTOCOL, protocol_for
from multiturn.errors import ConfigError
from multiturn.pipeline.config import NAME_PATTERN, REFERENCE, SFT, Config
from multiturn.pipeline.methods import (
    BEST_OF_N,
    KIND,
    KINDS,
    PREFERENCE,
    RFT,
    BestOfNSettings,
    RftSettings,
)
from multiturn.pipeline.train_settings import PreferenceSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from multiturn.pipeline.section import Section, SettingsT

__all__ = ["assign", "load_config", "parse_override", "validated"]


# A date that is none ends in a ValueError of yaml's, endless nesting in a RecursionError.
_NOT_YAML: Final = (yaml.YAMLError, ValueError, RecursionError)
_SETTINGS: Final[Mapping[str, type[Section]]] = {
    PREFERENCE: PreferenceSettings,
    RFT: RftSettings,
    BEST_OF_N: BestOfNSettings,
}
_LATER_ROUND: Final = r"-round\d+$"


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a run's configuration.

    Args:
        path: The YAML file.
        overrides: Texts like ``"sft.epochs=2"``; values are read as YAML. Later ones win.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or says something unusable.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text ({error.reason}); save it as UTF-8") from None
    try:
        content = yaml.safe_load(text)
    except _NOT_YAML as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise ConfigError(f"{where}: is not YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be a mapping of settings, not {type(content).__name__}")
    elsewhere = {".".join(assign(content, override)): "--set" for override in overrides}
    config = validated(Config, content, where=str(path), elsewhere=elsewhere)
    problems = [f"{_place(problem, str(path), elsewhere)}: {problem}" for problem in _problems(config)]
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def validated(
    section: type[SettingsT],
    content: Mapping[str, Any],
    *,
    where: str,
    elsewhere: Mapping[str, str] | None = None,
) -> SettingsT:
    """Plain data as settings.

    Args:
        section: The settings' class.
        content: The data.
        where: Where it came from, for error messages.
        elsewhere: For keys (``"sft.epochs"``) that came from another place, that place.

    Raises:
        ConfigError: A key is unknown or a value unusable; one line for each.
    """
    try:
        return section.model_validate(content)
    except ValidationError as error:
        problems = [_explain(problem, (), section) for problem in error.errors()]
        places = [_place(problem, where, elsewhere or {}) for problem in problems]
        lines = [f"{place}: {problem}" for place, problem in zip(places, problems, strict=True)]
        raise ConfigError("\n".join(lines)) from None


def _problems(config: Config) -> Iterator[str]:
    """What only the whole of a configuration shows."""
    if config.prompt.instructions == PROTOCOL:
        try:
            protocol_for(config.environment.name)
        except ConfigError as error:
            yield f"prompt.instructions: {error}"
    if config.rounds > 1 and not config.of_kind(PREFERENCE):
        yield "rounds: is more than 1, but no method is trained on pairs; add one, or leave rounds out"
    yield from _file_problems(config)
    for name in config.methods:
        problem = _name_problem(name, config.rounds)
        if problem is not None:
            yield f"methods.{name}: {problem}"
        else:
            yield from _method_problems(config, name)


def _file_problems(config: Config) -> Iterator[str]:
    """Policies and test splits whose evaluations would go to one file: "a" on "b-c" and "a-b" on "c"."""
    owners: dict[str, str] = {}
    for name in (SFT, *(entry.name for entry in config.method_rounds())):
        for split in dict.fromkeys(config.environment.test_splits):
            here = f"{name} on {split}"
            there = owners.setdefault(f"{name}-{split}", here)
            if there != here:
                yield f"methods: {here} and {there} would share a file; call the method otherwise"


def _name_problem(name: str, rounds: int) -> str | None:
    """Why a method may not be called that, if it may not."""
    if name == SFT:
        return "this name belongs to the policy that all methods start from; take another"
    if name == REFERENCE or not re.fullmatch(NAME_PATTERN, name):
        return (
            "cannot be the name of a method's folder; take letters, digits, '.', '_' "
            f"and '-', and not {REFERENCE!r}"
        )
    if rounds > 1 and re.search(_LATER_ROUND, name):
        return "names that end like this belong to the methods' later rounds; take another"
    return None


def _method_problems(config: Config, name: str) -> Iterator[str]:
    kind = config.kind(name)
    if kind not in KINDS:
        close = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(KINDS)}"
        yield f"methods.{name}.{KIND}: {kind!r} is no kind of method; {hint}"
        return
    try:
        if kind == PREFERENCE:
            _import_own(config.method(name))
        elif kind == RFT:
            yield from _rft_problems(config, name)
        else:
            config.best_of_n(name)
    except ValidationError as error:
        for problem in error.errors():
            yield _explain(problem, ("methods", name), _SETTINGS[kind])
    except ConfigError as error:
        yield f"methods.{name}: {error}"


def _rft_problems(config: Config, name: str) -> Iterator[str]:
    wanted, there = config.rft(name).tasks, config.expert.tasks
    if wanted is not None and there is not None and wanted > there:
        yield f"methods.{name}.tasks: {wanted} is more than expert.tasks {there}; raise that"


def _import_own(settings: PreferenceSettings) -> None:
    """Find out now, and not after hours of exploration, whether somebody's own objective can be had."""
    if ":" in f"{settings.objective}{settings.weighting}":
        from multiturn.training.objectives import PairTask

        PairTask(
            settings.objective,
            settings.beta,
            settings.gamma,
            weighting=settings.weighting,
            label_smoothing=settings.label_smoothing,
            target_margin=settings.target_margin,
        )


def parse_override(override: str, *, option: str = "--set") -> tuple[list[str], Any]:
    """Split ``"a.b=c"`` into its keys and its value, read as YAML.

    Args:
        override: The text.
        option: The option it was given with, for error messages.

    Raises:
        ConfigError: There is no ``=``, a key is empty, or the value is not YAML.
    """
    name, equals, value = override.partition("=")
    keys = [key.strip() for key in name.split(".")]
    if not equals or not all(keys):
        raise ConfigError(f"{option} {override!r}: write it as key=value or section.key=value")
    try:
        return keys, yaml.safe_load(value)
    except _NOT_YAML:
        raise ConfigError(f"{option} {override!r}: the value is not YAML; quote it") from None


def assign(content: dict[str, Any], override: str, *, option: str = "--set") -> list[str]:
    """Set what a text like ``"a.b=c"`` says; sections on the way are made.

    Args:
        content: Where.
        override: The text.
        option: What the text was given with, for errors.

    Returns:
        The keys, outermost first.

    Raises:
        ConfigError: The text is none of that form, or leads into a value that is no section.
    """
    keys, value = parse_override(override, option=option)
    for key in keys[:-1]:
        inner = content.setdefault(key, {})
        if inner is None:
            inner = content[key] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{option} {override!r}: {key!r} is not a section")
        content = inner
    content[keys[-1]] = value
    return keys


def _place(problem: str, where: str, elsewhere: Mapping[str, str]) -> str:
    """Where the key that a problem begins with came from."""
    key = problem.partition(":")[0]
    found = [place for known, place in elsewhere.items() if key == known or key.startswith(f"{known}.")]
    return found[-1] if found else where


def _explain(problem: Mapping[str, Any], prefix: tuple[str, ...], section: type[BaseModel]) -> str:
    """One pydantic problem as a sentence: where, what, and what to do."""
    location = [str(part) for part in problem["loc"] if part not in {"str", "dict[str,any]"}]
    where = ".".join([*prefix, *location])
    if problem["type"] == "extra_forbidden":
        known = _known_keys(section, location[:-1])
        known += [KIND] if prefix and len(location) == 1 else []  # which only methods have
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(sorted(known))}"
        return f"{where}: unknown key; {hint}"
    if problem["type"] == "missing":
        return f"{where}: is required"
    message = str(problem["msg"]).removeprefix("Value error, ")
    given = problem.get("input")
    shown = f" (got {given!r})" if isinstance(given, str | int | float) else ""
    said = f"{message[:1].lower()}{message[1:]}{shown}"
    return f"{where}: {said}" if where else said


def _known_keys(section: type[BaseModel], location: Sequence[str]) -> list[str]:
    """The keys known at ``location`` below ``section``."""
    for key in location:
        field = section.model_fields.get(key)
        if field is None:
            return []
        candidates = [field.annotation, *get_args(field.annotation)]
        inner = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if inner is None:
            return []
        section = inner
    return list(section.model_fields)
