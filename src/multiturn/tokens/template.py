"""Chat templates by name, and conversations as template text.

Four ways to say which chat template a conversation is written in:

- ``"model"``: the tokenizer's own;
- ``"compact"``: multiturn's own, for short contexts and small models: a message that is not the assistant's
  costs two special tokens, an assistant message one, and there is no role header (see `COMPACT`);
- ``"qwen3-training"`` and others of `multiturn.tokens.variants.VARIANTS`: as a family's own template, but
  what it wrote once stays;
- the path of a Jinja file, or the text of a Jinja template.
"""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jinja2

from multiturn.errors import ConfigError, TemplateError
from multiturn.tokens.variants import VARIANTS, variant_for, variant_source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

__all__ = ["COMPACT", "ChatTemplate", "resolve_template"]

COMPACT = (
    "{%- if tools %}{{ raise_exception('the compact template has no place for tools') }}{% endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['tool_calls'] %}"
    "{{ raise_exception('the compact template has no place for tool calls') }}{% endif -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{ message['content'] + CLOSER }}"
    "{%- else -%}"
    "{{ OPENER + message['content'] + CLOSER }}"
    "{%- endif -%}"
    "{%- endfor -%}"
)
"""The ``compact`` template. A system, user or tool message is ``<opener>content<closer>``, an assistant
message ``content<closer>``, and the generation prompt is empty. The closer is the tokenizer's end-of-sequence
token; the opener its beginning-of-sequence token or, if it has none, a special token that opens messages."""

_NAMES: Final = ("model", "compact", *VARIANTS)
_TEMPLATE_FAULTS: Final = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
)
"""What a template raises on messages that it was not written for."""
_OPENER_HINTS = ("im_start", "start_header", "start_of_turn", "user", "start", "bos")


def resolve_template(name_or_path: str | None, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The Jinja text of a chat template.

    Args:
        name_or_path: ``"model"`` (or None), ``"compact"``, a name in `multiturn.tokens.variants.VARIANTS`,
            the path of a Jinja file, or Jinja text itself (recognized by ``{{`` or ``{%``).
        tokenizer: The tokenizer whose template or special tokens are used.

    Returns:
        The template, or None when the tokenizer's own is to be used.

    Raises:
        ConfigError: The name is unknown, the file cannot be read, or the tokenizer lacks what is needed.
    """
    if name_or_path is None or name_or_path == "model":
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                f"the tokenizer of {_model_name(tokenizer)} has no chat template; "
                "set `chat_template: compact`, or give the path of a Jinja file"
            )
        return None
    if name_or_path == "compact":
        return _compact(tokenizer)
    if name_or_path in VARIANTS:
        return variant_source(name_or_path, tokenizer)
    if "{{" in name_or_path or "{%" in name_or_path:
        return name_or_path
    path = Path(name_or_path).expanduser()
    if path.suffix not in (".jinja", ".jinja2", ".j2", ".txt") and not path.exists():
        near = difflib.get_close_matches(name_or_path, _NAMES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"there is no chat template {name_or_path!r}; {hint}"
            f"use one of {', '.join(map(repr, _NAMES))} or the path of a Jinja file"
        )
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the chat template {path} cannot be read ({error}); check the path") from None


def _compact(tokenizer: PreTrainedTokenizerBase) -> str:
    closer = tokenizer.eos_token
    if not closer:
        raise ConfigError(
            f"the compact template ends turns with the end-of-sequence token, and the tokenizer of "
            f"{_model_name(tokenizer)} has none; set its eos_token, or give the path of a Jinja file"
        )
    variables = {"OPENER": _opener(tokenizer, str(closer)), "CLOSER": str(closer)}
    # `json.dumps` writes a string literal that Jinja reads as the same string.
    settings = "".join(f"{{%- set {name} = {json.dumps(text)} -%}}" for name, text in variables.items())
    return settings + COMPACT


def _opener(tokenizer: PreTrainedTokenizerBase, closer: str) -> str:
    """The special token that opens a message: bos, one that looks like an opener, or the closer itself."""
    bos = tokenizer.bos_token
    if bos and str(bos) != closer:
        return str(bos)
    special = [
        t.content for t in tokenizer.added_tokens_decoder.values() if t.special and t.content != closer
    ]
    for hint in _OPENER_HINTS:
        for text in special:
            if hint in text:
                return text
    return closer


def _model_name(tokenizer: PreTrainedTokenizerBase) -> str:
    return getattr(tokenizer, "name_or_path", "") or "this model"


class ChatTemplate:
    """A chat template together with the tokenizer it writes for.

    Args:
        tokenizer: The tokenizer.
        chat_template: As for `resolve_template`.

    Attributes:
        name: What errors call the template: ``"compact"``, a path, or the model's own.
        source: The Jinja text.
        remedy: What errors advise: to use which other template instead.

    Raises:
        ConfigError: As `resolve_template`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat_template: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._template = resolve_template(chat_template, tokenizer)
        if chat_template is None or self._template is None:
            self.name = f"the chat template of {_model_name(tokenizer)}"
        elif self._template == chat_template:
            self.name = "the given chat template"
        else:
            self.name = f"the chat template {chat_template!r}"
        own = self._template if self._template is not None else tokenizer.chat_template
        self.source: str = own if isinstance(own, str) else json.dumps(own, sort_keys=True)
        self._variant = None if chat_template == "compact" else variant_for(self.source)
        self.remedy = (
            "use a prefix-stable variant of the template "
            f"(`chat_template: {self._variant or '<path of a Jinja file>'}`) or `chat_template: compact`; "
            "docs/templates.md says more"
        )

    def text(
        self,
        chat: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        generation_prompt: bool,
        place: str = "",
    ) -> str:
        """A conversation as text.

        Args:
            chat: The messages as plain dictionaries.
            tools: Tool descriptions.
            generation_prompt: Whether to end with what makes the model begin its turn.
            place: Where the conversation stands, put before error messages.

        Raises:
            TemplateError: The template refuses the conversation, its own message is part of the error; or
                there are tool calls, and it knows none.
        """
        calls = any(message.get("tool_calls") for message in chat)
        if calls and "tool_calls" not in self.source:
            # It would write a turn that is a call as an empty one, and nothing would say so.
            fitting = self._variant is not None and VARIANTS[self._variant].tools
            raise TemplateError(
                f"{place}{self.name} does not write tool calls; choose a template that does"
                f"{f' (`chat_template: {self._variant}`)' if fitting else ''}, or write them into the "
                "messages' content"
            )
        try:
            return self._apply(chat, tools, generation_prompt=generation_prompt)
        except _TEMPLATE_FAULTS as error:
            if calls:
                # Some templates join the arguments to other text and want them as JSON.
                with contextlib.suppress(*_TEMPLATE_FAULTS):
                    texts = [_with_text_arguments(message) for message in chat]
                    return self._apply(texts, tools, generation_prompt=generation_prompt)
            raise TemplateError(
                f"{place}{self.name} refuses the conversation: {error}; change the messages (their roles are "
                f"{_roles(chat)}) or choose another template, for example "
                f"`chat_template: {self._variant or 'compact'}`"
            ) from error

    def _apply(
        self,
        chat: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        *,
        generation_prompt: bool,
    ) -> str:
        text = self._tokenizer.apply_chat_template(
            [dict(message) for message in chat],
            tools=[dict(tool) for tool in tools] or None,
            chat_template=self._template,
            add_generation_prompt=generation_prompt,
            tokenize=False,
        )
        return str(text)


def _with_text_arguments(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message with the arguments of its tool calls as JSON text."""
    calls = []
    for call in message.get("tool_calls", ()):
        function = call.get("function")
        if isinstance(function, Mapping) and isinstance(function.get("arguments"), Mapping):
            text = json.dumps(function["arguments"], ensure_ascii=False)
            calls.append({**call, "function": {**function, "arguments": text}})
        else:
            calls.append(call)
    return {**message, "tool_calls": calls} if calls else dict(message)


def _roles(chat: Sequence[Mapping[str, Any]]) -> str:
    roles = [str(message.get("role")) for message in chat]
    return ", ".join(roles if len(roles) <= 6 else [*roles[:3], "...", *roles[-2:]])
