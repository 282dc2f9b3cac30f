"""Conversations to token ids whose turns are known exactly.

Where an assistant turn lies comes from the template itself. For the assistant message ``k``::

    prompt_k = template(messages[:k], with generation prompt)      what a rollout feeds the model
    closed_k = template(messages[:k + 1])                          the same with the answer

Each of these must begin with the one before it: then the answer is what ``closed_k`` adds to ``prompt_k``,
and the observation with the next generation prompt is what ``prompt_{k+1}`` adds to ``closed_k``. The pieces
are encoded one by one, so that the ids a model is trained on are the ids it was fed and produced. A template
that rewrites what it wrote before (drops earlier thinking, merges or reorders messages) is refused, and so
is one that leaves out what a message says.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from multiturn.errors import DataError, TemplateError
from multiturn.formats.messages import call_objects
from multiturn.tokens.encode import Encoder
from multiturn.tokens.pieces import Piece
from multiturn.tokens.rendered import NO_TURN, Overlong, Rendered, cut
from multiturn.tokens.template import ChatTemplate
from multiturn.tokens.written import first_unwritten, first_unwritten_tool

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from multiturn.trajectory import Message

__all__ = ["NO_TURN", "Overlong", "Rendered", "Renderer", "cut"]

_MAX_PIECES = 8192  # remembered pieces: about 100 rollouts of 40 turns; some 20 MB


class Renderer:
    """Renders conversations with one tokenizer and one chat template.

    It remembers the pieces of recent conversations, so that a rollout that renders its growing conversation
    at every turn pays for what is new.

    Args:
        tokenizer: A Hugging Face tokenizer.
        chat_template: None or ``"model"`` for the tokenizer's own template, ``"compact"``, the name of a
            variant, the path of a Jinja file, or Jinja text; see
            `multiturn.tokens.template.resolve_template`.

    Attributes:
        template_name: What errors call the template.
        template_source: The template's Jinja text.
        stop_ids: The ids that end an assistant turn: decoding stops at any of them.

    Raises:
        ConfigError: The template does not exist, or the tokenizer has none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, chat_template: str | None = None) -> None:
        self._template = ChatTemplate(tokenizer, chat_template)
        self.template_name = self._template.name
        self.template_source = self._template.source
        self._encoder = Encoder(tokenizer, self.template_source)
        eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.stop_ids: frozenset[int] = frozenset([*eos, *self._probe_end_of_turn()])
        if not self.stop_ids <= self._encoder.special_ids:
            self._encoder = Encoder(tokenizer, self.template_source, end_of_turn=self.stop_ids)
        self._roots: dict[str, Piece] = {}
        self._pieces = 0

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = (), where: str = ""
    ) -> Rendered:
        """A whole conversation as token ids with the turn of each.

        For every assistant message ``k``, ``render(messages[:k + 1]).token_ids`` begins with
        ``prompt_ids(messages[:k])``. An assistant message with `token_ids` contributes exactly these.

        Args:
            messages: The conversation.
            tools: Tool descriptions, as the template expects them.
            where: What the conversation is called in errors, for example a pair's id.

        Raises:
            DataError: There is no assistant turn, or nothing stands before the first one.
            TemplateError: The template refuses the conversation, is not prefix-stable on it, or leaves out
                something of it.
        """
        conversation = self._open(messages, tools, where)
        node, turn = self._answers(conversation)
        if turn == 0:
            raise DataError(
                f"{_place(where)}the conversation has no assistant turn, so there is nothing to learn from; "
                "drop it or check the roles"
            )
        if messages[-1].role != "assistant":
            node = self._extend(node, self._text(conversation, len(messages)), conversation, turn)
        token_ids: list[int] = []
        turns: list[int] = []
        for piece in node.path():
            token_ids += piece.ids
            turns += [piece.turn] * piece.scored + [NO_TURN] * (len(piece.ids) - piece.scored)
        return Rendered(token_ids=tuple(token_ids), turns=tuple(turns), num_turns=turn)

    def prompt_ids(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = (), where: str = ""
    ) -> list[int]:
        """What the model is fed to produce the next assistant message.

        Args:
            messages: The conversation so far.
            tools: Tool descriptions, as the template expects them.
            where: What the conversation is called in errors.

        Raises:
            DataError: There are no messages, or the first one is the assistant's.
            TemplateError: The template refuses the conversation, is not prefix-stable on it, or leaves out
                something of it.
        """
        conversation = self._open(messages, tools, where)
        node, turn = self._answers(conversation)
        node = self._prompt(node, conversation, turn, end=len(messages))
        return [token_id for piece in node.path() for token_id in piece.ids]

    def _open(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], where: str
    ) -> _Conversation:
        if not messages or messages[0].role == "assistant":
            raise DataError(
                f"{_place(where)}the conversation {'begins with the assistant' if messages else 'is empty'}; "
                "an assistant turn needs a system or user message before it"
            )
        if self._pieces > _MAX_PIECES:
            self._roots, self._pieces = {}, 0
        return _Conversation(
            messages=messages,
            chat=[self._shield(message) for message in messages],
            tools=self._encoder.shield_all(list(tools), trusted=True),
            where=where,
        )

    def _answers(self, conversation: _Conversation) -> tuple[Piece, int]:
        """The node after the last assistant message, and the number of turns up to it."""
        tools = conversation.tools
        key = json.dumps(tools, default=str, sort_keys=True) if tools else ""
        node = self._roots.setdefault(key, Piece())
        turn = 0
        for end, message in enumerate(conversation.messages):
            if message.role == "assistant":
                node = self._prompt(node, conversation, turn, end=end)
                node = self._answer(node, conversation, turn, at=end)
                turn += 1
        return node, turn

    def _prompt(self, node: Piece, conversation: _Conversation, turn: int, *, end: int) -> Piece:
        """The node after the generation prompt that follows ``messages[:end]``."""
        key = tuple(_key(message) for message in conversation.messages[node.messages : end])
        child = node.children.get(key)
        if child is None:
            text = self._text(conversation, end, generation_prompt=True)
            child = self._extend(node, text, conversation, turn, messages=end)
            self._require_written(child, conversation)
            node.children[key] = child
        return child

    def _answer(self, node: Piece, conversation: _Conversation, turn: int, *, at: int) -> Piece:
        """The node after the assistant message at index `at`."""
        message = conversation.messages[at]
        key = _key(message)
        child = node.children.get(key)
        if child is None:
            text = self._text(conversation, at + 1)
            child = self._extend(node, text, conversation, turn, messages=at + 1)
            if message.token_ids is None:
                self._require_written(child, conversation)
            self._score(child, message.token_ids, turn, conversation.where)
            node.children[key] = child
        return child

    def _extend(
        self, node: Piece, text: str, conversation: _Conversation, turn: int, *, messages: int = 0
    ) -> Piece:
        """A new node for what `text` adds to the text up to `node`.

        Raises:
            TemplateError: `text` does not begin with the text up to `node`.
        """
        differs = node.difference(text)
        if differs is not None:
            before = "".join(piece.text for piece in node.path())[differs : differs + 40]
            after = text[differs : differs + 40]
            raise TemplateError(
                f"{_place(conversation.where)}at turn {turn} {self.template_name} changes what it wrote "
                f"before: {self._encoder.unshield(before)!r} became {self._encoder.unshield(after)!r}; so "
                f"the model would be trained on a context that it never sees when it acts; "
                f"{self._template.remedy}"
            )
        added = text[node.end :]
        self._pieces += 1
        return Piece(
            node,
            text=added,
            context=self._encoder.tail(node.context + added),
            ids=self._encoder.segment(node.context, added),
            messages=messages,
        )

    def _score(self, node: Piece, produced: tuple[int, ...] | None, turn: int, where: str) -> None:
        """Mark the tokens of an assistant message's node that belong to its turn.

        Args:
            node: The node; its ids are the encoding of what the template wrote for the message.
            produced: The ids that the model produced instead, if they are known.
            turn: The turn.
            where: What the conversation is called in errors.
        """
        stop = next((i for i, token_id in enumerate(node.ids) if token_id in self.stop_ids), None)
        if stop is None:  # A turn that ends unlike others, with a call to a tool for example.
            last_first = range(len(node.ids) - 1, -1, -1)
            stop = next((i for i in last_first if node.ids[i] in self._encoder.special_ids), None)
        if stop is None:
            raise TemplateError(
                f"{_place(where)}{self.template_name} does not end assistant turn {turn} with a special "
                f"token, so a model could not learn where to stop; {self._template.remedy}"
            )
        node.turn = turn
        if produced is None:
            node.scored = stop + 1
            return
        if not produced:
            raise DataError(f"{_place(where)}assistant turn {turn} has empty token_ids; leave the field out")
        node.scored = len(produced)
        # A reply that was cut off is closed by the template; the model did not choose that token.
        closed = produced[-1] in self.stop_ids or produced[-1] == node.ids[stop]
        node.ids = (*produced, *node.ids[stop + 1 if closed else stop :])

    def _require_written(self, node: Piece, conversation: _Conversation) -> None:
        """Refuse a piece of text in which something of its messages is missing.

        Raises:
            TemplateError: The template left out a content, a call or the description of a tool.
        """
        before = 0 if node.parent is None else node.parent.messages
        left_out = first_unwritten(conversation.chat[before : node.messages], node.text)
        if left_out is not None:
            role, part = left_out
            said = self._encoder.unshield(part)
            raise TemplateError(
                f"{_place(conversation.where)}{self.template_name} leaves out what the {role} says: "
                f"{said[:60]!r} is not in the text that it writes; {self._template.remedy}"
            )
        tool = first_unwritten_tool(conversation.tools, node.text) if before == 0 else None
        if tool is not None:
            raise TemplateError(
                f"{_place(conversation.where)}{self.template_name} does not describe the tool "
                f"{self._encoder.unshield(tool)!r}; leave `tools` out, or {self._template.remedy}"
            )

    def _text(self, conversation: _Conversation, end: int, *, generation_prompt: bool = False) -> str:
        return self._template.text(
            conversation.chat[:end],
            tools=conversation.tools,
            generation_prompt=generation_prompt,
            place=_place(conversation.where),
        )

    def _shield(self, message: Message) -> dict[str, Any]:
        chat = call_objects(message).to_chat()
        trusted = message.role in ("assistant", "system")
        chat["content"] = self._encoder.shield(message.content, trusted=trusted)
        for field in ("tool_calls", "name", "tool_call_id"):
            if field in chat:
                chat[field] = self._encoder.shield_all(chat[field], trusted=trusted)
        return chat

    def _probe_end_of_turn(self) -> list[int]:
        """The id of the special token that this template writes after an assistant's content, if any."""
        user, answer = {"role": "user", "content": "x"}, {"role": "assistant", "content": "ok"}
        try:
            prompt = self._template.text([user], generation_prompt=True)
            closed = self._template.text([user, answer], generation_prompt=False)
        except TemplateError:  # It wants other messages; conversations will tell.
            return []
        _, found, after = closed[len(prompt) :].rpartition("ok")
        ids = self._encoder.segment("", after) if found and closed.startswith(prompt) else ()
        for kind in (self._encoder.special_ids, self._encoder.control_ids):
            special = [token_id for token_id in ids if token_id in kind]
            if special:
                return special[:1]
        return []


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Conversation:
    """A conversation on its way through the renderer.

    Attributes:
        messages: As they were given.
        chat: The same for the template, with stand-ins for special tokens in the contents.
        tools: Tool descriptions, likewise.
        where: What the conversation is called in errors.
    """

    messages: Sequence[Message]
    chat: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    where: str


def _place(where: str) -> str:
    return f"{where}: " if where else ""


def _key(message: Message) -> Hashable:
    """Two messages with equal keys render alike."""
    if not message.tool_calls:
        return message
    return json.dumps(message.to_json(), default=str, sort_keys=True)
