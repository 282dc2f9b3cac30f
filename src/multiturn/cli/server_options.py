"""Options of the verbs in which a server may play."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from multiturn.pipeline.agents import ServerSettings

__all__ = [
    "ApiKeyEnv",
    "Fields",
    "ReasoningOption",
    "Retries",
    "Server",
    "Timeout",
    "Tokenizer",
    "server_settings",
]

_PANEL = "With --server"
_TIMEOUT = 600.0
_RETRIES = 8

Server: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="An OpenAI-compatible server plays, for example http://127.0.0.1:8000/v1.",
        rich_help_panel=_PANEL,
    ),
]
ApiKeyEnv: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The environment variable that holds the API key.", rich_help_panel=_PANEL
    ),
]
Fields: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--server-option",
        metavar="FIELD=VALUE",
        help="A further field of every request, such as top_k=20; null takes one out. May be given often.",
        rich_help_panel=_PANEL,
    ),
]
Tokenizer: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="The model's tokenizer, a folder or hub id: asks for the token ids of replies and keeps those "
        "that are the text's.",
        rich_help_panel=_PANEL,
    ),
]
ReasoningOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--reasoning",
        help="What becomes of reasoning that the server cuts out: drop, or think (kept, between tags).",
        show_default="drop",
        rich_help_panel=_PANEL,
    ),
]
Timeout: TypeAlias = Annotated[
    float | None,
    typer.Option(
        help="Seconds for one attempt, the server's queue included.",
        show_default=f"{_TIMEOUT:g}",
        rich_help_panel=_PANEL,
    ),
]
Retries: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="How often a request is repeated at most.",
        show_default=str(_RETRIES),
        rich_help_panel=_PANEL,
    ),
]


def server_settings(
    url: str | None,
    *,
    api_key_env: str | None,
    fields: Sequence[str] | None,
    tokenizer: str | None,
    reasoning: str | None,
    timeout: float | None,
    retries: int | None,
) -> "ServerSettings | None":
    """The server that the options describe; None where they name none.

    Raises:
        ConfigError: A value is unusable, or an option is given that needs a server.
    """
    from multiturn.pipeline.agents import ServerSettings
    from multiturn.pipeline.load import assign

    if url is None:
        given = {
            "--api-key-env": api_key_env,
            "--server-option": fields or None,
            "--tokenizer": tokenizer,
            "--reasoning": reasoning,
            "--timeout": timeout,
            "--retries": retries,
        }
        useless = [name for name, value in given.items() if value is not None]
        if useless:
            raise ConfigError(f"{useless[0]} is for servers; give --server URL as well, or leave it out")
        return None
    if reasoning not in (None, "drop", "think"):
        raise ConfigError(f"--reasoning: there is no {reasoning!r}; use drop or think")
    parsed: dict[str, Any] = {}
    for field in fields or ():
        assign(parsed, field, option="--server-option")
    return ServerSettings(
        url=url,
        api_key_env=api_key_env,
        timeout=_TIMEOUT if timeout is None else timeout,
        retries=_RETRIES if retries is None else retries,
        reasoning="think" if reasoning == "think" else "drop",
        tokenizer=tokenizer,
        fields=parsed,
    )
