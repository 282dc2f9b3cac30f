"""Who plays: a model in this process, or a server's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from transformers import AutoTokenizer

from multiturn.agents.local import LocalAgent
from multiturn.agents.reply_ids import ReplyIds
from multiturn.agents.server import Reasoning, ServerAgent
from multiturn.errors import ConfigError
from multiturn.models.load import load_policy
from multiturn.models.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

    from multiturn.pipeline.config import DecodingSettings, PromptSettings
    from multiturn.trajectory import Json

__all__ = ["AnyAgent", "ServerSettings", "make_agent"]

AnyAgent: TypeAlias = LocalAgent | ServerAgent


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """An OpenAI-compatible server; see `multiturn.agents.server.ServerAgent`.

    Attributes:
        url: Its address, for example ``http://127.0.0.1:8000/v1``.
        api_key_env: The environment variable that holds the API key; None sends none.
        timeout: Seconds for one attempt, the server's own queue included.
        retries: How often a request is repeated at most.
        reasoning: ``drop`` or ``think``.
        tokenizer: The folder or hub id of the model's tokenizer, to check the token ids of replies with; None
            keeps none.
        fields: Further fields of every request; null takes one of ours out.
    """

    url: str
    api_key_env: str | None = None
    timeout: float = 600.0
    retries: int = 8
    reasoning: Reasoning = "drop"
    tokenizer: str | None = None
    fields: Mapping[str, Json] = dataclasses.field(default_factory=dict)


def make_agent(
    model: Path | str | None,
    *,
    server: ServerSettings | None,
    prompt: PromptSettings,
    decoding: DecodingSettings,
    capacity: int,
    temperature: float,
    top_p: float,
) -> AnyAgent:
    """Make the agent that plays; it is to be closed.

    Args:
        model: The model's folder or name, or its name as the server knows it; None takes the only one that
            the server has.
        server: Where the model runs; None for this process.
        prompt: How conversations are put to it.
        decoding: How it answers.
        capacity: Conversations at once.
        temperature: 0 is greedy.
        top_p: Nucleus sampling.

    Raises:
        ConfigError: The model cannot be found, or a setting is not to be had from a server.
        AgentFaultError: The server is out of reach, or refuses.
    """
    if server is None:
        if model is None:
            raise ConfigError("there is no model to play; name one, or a server")
        return LocalAgent(
            load_policy(str(model)),
            capacity=capacity,
            max_new_tokens=decoding.max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            chat_template=prompt.chat_template,
            max_context=decoding.max_context,
        )
    if prompt.chat_template != "model":
        raise ConfigError(
            f"chat_template is {prompt.chat_template!r}, but a server writes conversations with its own; "
            "leave it at 'model', and give the template to the server when you start it"
        )
    if decoding.max_context is not None:
        raise ConfigError("max_context is the server's own setting; leave it out, and give it to the server")
    return ServerAgent(
        server.url,
        None if model is None else str(model),
        capacity=capacity,
        max_new_tokens=decoding.max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        timeout=server.timeout,
        retries=server.retries,
        api_key_env=server.api_key_env,
        reasoning=server.reasoning,
        ids=None if server.tokenizer is None else ReplyIds(_load_tokenizer(server.tokenizer)),
        fields=server.fields,
    )


def _load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A model's tokenizer without its weights."""
    folder = Path(name).expanduser()
    try:
        with quiet():
            loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                str(folder) if folder.is_dir() else name
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"the tokenizer {name!r} cannot be loaded: {reason}; give the model's folder or its hub id"
        ) from error
    return loaded
