"""Who answers behind a server's address: what makes its replies other than another server's."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from multiturn.agents.completions import GarbageError, printable, read_json
from multiturn.agents.server_client import ExhaustedError, RefusedError
from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiturn.agents.server_client import ServerClient

__all__ = ["ServerIdentity", "identify"]

_RETRIES: Final = 2
"""At the beginning a wrong address is likelier than a busy server."""
_FACTS: Final = ("parent", "root", "max_model_len")
"""What vLLM and SGLang tell of a model: an adapter's base, the weights' place, the longest conversation."""
_META: Final = ("n_ctx_train", "n_embd", "n_params", "n_vocab", "size")
"""What llama.cpp tells of it."""
_VERSIONS: Final = (("/version", "version"), ("/props", "build_info"))
"""Where vLLM and llama.cpp tell their versions, beside the API."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServerIdentity:
    """Who answers. Where the server listens is no part of it.

    Attributes:
        model: The model's name.
        facts: What the server tells of the model; may be empty.
        version: The server's version; may be empty.
    """

    model: str
    facts: Mapping[str, Any]
    version: str

    def to_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"model": self.model, "facts": dict(self.facts), "version": self.version}


async def identify(client: ServerClient, url: str, model: str | None) -> ServerIdentity:
    """Ask a server who it is.

    Args:
        client: Asks.
        url: The server's address.
        model: The model's name; None takes the only one that the server lists.

    Raises:
        ConfigError: No model is named, and the server does not list exactly one.
        RefusedError: The server wants another key, or sends elsewhere.
        ExhaustedError: It is out of reach.
    """
    listed = await _models(client, f"{url}/models")
    if model is None:
        if len(listed) != 1:
            names = ", ".join(printable(name, 60) for name in list(listed)[:8]) or "none"
            raise ConfigError(f"{url} lists {len(listed)} models ({names}); say which one with `model`")
        (model,) = listed
    entry = listed.get(model, {})
    meta = entry.get("meta")
    facts = {name: entry[name] for name in _FACTS if isinstance(entry.get(name), str | int)}
    if isinstance(meta, dict):
        facts |= {name: meta[name] for name in _META if isinstance(meta.get(name), int)}
    return ServerIdentity(model=model, facts=facts, version=await _version(client, url))


async def _models(client: ServerClient, url: str) -> dict[str, dict[str, Any]]:
    """The models that the server lists, by name; none where it keeps no list."""
    try:
        answer = await client.ask(url, _object, retries=_RETRIES)
    except RefusedError as error:
        if error.status in (401, 403) or error.status < 400:
            raise
        return {}
    except ExhaustedError as error:
        if error.status in (500, 501):  # it has the address, but cannot make a list
            return {}
        raise
    entries = answer.get("data")
    return {
        entry["id"]: entry
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"]
    }


async def _version(client: ServerClient, url: str) -> str:
    """The server's version where it tells one."""
    root = url.removesuffix("/v1")
    for path, key in _VERSIONS:
        try:
            answer = await client.ask(root + path, _object, retries=_RETRIES)
        except RefusedError:
            continue
        except ExhaustedError as error:
            if error.status not in (500, 501, 502):  # what stands in front of it may know no such page
                raise
            continue
        if isinstance(answer.get(key), str):
            return str(answer[key])
    return ""


def _object(body: bytes) -> dict[str, Any]:
    """What a server says of itself, nothing where it is no JSON: many answer any address with a page."""
    try:
        return read_json(body)
    except GarbageError:
        return {}
