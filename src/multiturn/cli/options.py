"""Options that several verbs share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args

import typer

from multiturn import precision
from multiturn.errors import ConfigError
from multiturn.pipeline.config import EnvironmentSettings, PromptSettings
from multiturn.pipeline.load import assign, parse_override, validated
from multiturn.pipeline.section import SettingsT

__all__ = [
    "EnvName",
    "EnvOptions",
    "Format",
    "Instructions",
    "Model",
    "NewTokens",
    "Output",
    "Overrides",
    "Precision",
    "RayCluster",
    "ReportTo",
    "Seed",
    "Slots",
    "Split",
    "TaskCount",
    "Template",
    "TurnLimit",
    "environment_settings",
    "prompt_settings",
    "refuse_given",
    "settings_from",
]


def _known_precision(value: str) -> str:
    known = get_args(precision.Precision)
    if value == "auto":
        return precision.default_precision()
    if value not in known:
        raise ConfigError(f"--precision: there is no {value!r}; use auto, {' or '.join(known)}")
    return value


Overrides: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one setting, for example `--set sft.epochs=2`. May be given often.",
    ),
]
Model: TypeAlias = Annotated[
    str, typer.Option("--model", "-m", help="smollm2-135m-instruct, a folder, or a model hub id.")
]
Output: TypeAlias = Annotated[Path, typer.Option("--output", "-o", help="Where the result goes.")]
Seed: TypeAlias = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Seeds sampling, data order and dropout.")
]
Precision: TypeAlias = Annotated[
    str,
    typer.Option(
        help="auto (the faster one on this machine), bf16 (autocast; weights stay float32) or fp32.",
        callback=_known_precision,
    ),
]
ReportTo: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--report-to",
        metavar="TRACKER",
        help="tensorboard, wandb, trackio, mlflow, ...: follow the training there, offline, in "
        "OUTPUT/trackers. May be given often.",
    ),
]
EnvName: TypeAlias = Annotated[
    str, typer.Option("--env", "-e", help="An environment; `multiturn env list` shows them.")
]
EnvOptions: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--env-option", metavar="KEY=VALUE", help="An option of the environment. May be given often."
    ),
]
Split: TypeAlias = Annotated[str, typer.Option(help="Which of the environment's task lists.")]
TaskCount: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Play the first so many tasks; all without it.")
]
RayCluster: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="CLUSTER",
        help="Run the environments on a Ray cluster: auto, an address, or local. This machine without it.",
    ),
]
TurnLimit: TypeAlias = Annotated[
    int | None,
    typer.Option(min=1, help="End episodes after so many turns; the environment's own limit without it."),
]
Template: TypeAlias = Annotated[
    str,
    typer.Option(
        help="model (the tokenizer's own), compact (few markup tokens), a variant such as qwen3-training "
        "(docs/templates.md), or a Jinja file."
    ),
]
Format: TypeAlias = Annotated[str, typer.Option("--format", help="react or action.")]
Slots: TypeAlias = Annotated[int, typer.Option(min=1, help="Conversations decoded side by side.")]
NewTokens: TypeAlias = Annotated[int, typer.Option(min=1, help="Tokens in one turn at most.")]
Instructions: TypeAlias = Annotated[
    str,
    typer.Option(
        help="environment (what it tells agents), protocol (the paper's, with an example), none, or a text "
        "of your own."
    ),
]


def settings_from(
    section: type[SettingsT], overrides: Sequence[str] | None, given: Mapping[str, Any]
) -> SettingsT:
    """A section of settings out of ``--set`` texts and explicit options; options that are None are left out.

    Raises:
        ConfigError: A key is unknown or a value unusable.
    """
    content: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    options = {key: f"--{key.replace('_', '-')}" for key in content}
    for override in overrides or ():
        options.pop(assign(content, override)[0], None)
    return validated(section, content, where="--set", elsewhere=options)


def refuse_given(context: typer.Context, names: Sequence[str], *, without: str) -> None:
    """Refuse options that were given on the command line and would have no effect.

    Args:
        context: The command's.
        names: What the options' parameters are called.
        without: What is not there that they have an effect on, for example ``"--pairs"``.

    Raises:
        ConfigError: One of them was given.
    """
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            raise ConfigError(
                f"{parameter.opts[0]} has no effect without {without}; leave it out, or add that"
            )


def environment_settings(
    name: str, options: Sequence[str] | None, max_turns: int | None, ray: str | None = None
) -> EnvironmentSettings:
    """The environment that ``--env`` and ``--env-option`` describe, and where it runs.

    Raises:
        ConfigError: An option is not of the form key=value.
    """
    parsed: dict[str, Any] = {}
    for option in options or ():
        keys, value = parse_override(option, option="--env-option")
        parsed[".".join(keys)] = value
    content = {"name": name, "options": parsed, "max_turns": max_turns, "ray": ray}
    return validated(EnvironmentSettings, content, where="--env")


def prompt_settings(template: str, action_format: str, instructions: str) -> PromptSettings:
    """How conversations are put to the model, from the options of that name.

    Raises:
        ConfigError: A value is unusable.
    """
    content = {"chat_template": template, "format": action_format, "instructions": instructions}
    return validated(PromptSettings, content, where="--format")
