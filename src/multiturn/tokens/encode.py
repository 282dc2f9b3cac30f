"""Text to token ids, piece by piece, so that text never turns into a special token.

A *control token* is an added token with a meaning for the template: every special token, and any other
added token that the template itself writes (``<tool_response>``). Where a message's content holds the text of
one, a private-use character stands in for it while the template runs; afterwards the text is put back and
encoded by a copy of the tokenizer that knows no control tokens. Other text takes the plain path.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedTokenizerBase

__all__ = ["Encoder"]

_FIRST_SENTINEL = 0xF0000  # the first private-use character of plane 15; there are 65,534
_CACHED_SEGMENTS = 16_384
_ANCHORS = ("\n", ".")


class Encoder:
    """Encodes segments of rendered conversations.

    Args:
        tokenizer: The tokenizer.
        template: The chat template's text; an added token that is not special counts as a control token only
            if the template writes it.
        end_of_turn: Ids that end an assistant turn although the tokenizer does not call them special.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: str, *, end_of_turn: Iterable[int] = ()
    ) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        special = {t.content: i for i, t in added.items() if t.special or i in set(end_of_turn)}
        special |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        written = {
            t.content: i for i, t in added.items() if t.content in template and not t.content.isspace()
        }
        self._controls = {**written, **special}
        self.control_ids = frozenset(self._controls.values())
        """The ids of all control tokens."""
        self.special_ids = frozenset(special.values())
        """The ids of the special ones among them."""
        # Longest first: a token may begin with another's text.
        texts = sorted(self._controls, key=len, reverse=True)
        self._sentinels = {text: chr(_FIRST_SENTINEL + i) for i, text in enumerate(texts)}
        self._texts = {sentinel: text for text, sentinel in self._sentinels.items()}
        # A private-use character that is in the text already is escaped by one more of them.
        self._escape = chr(_FIRST_SENTINEL + len(texts))
        reserved = f"[{chr(_FIRST_SENTINEL)}-{self._escape}]"
        self._any_control = _any_of(texts)
        self._trusted = re.compile("|".join([reserved, *(re.escape(t) for t in texts if t in special)]))
        self._untrusted = re.compile("|".join([reserved, *(re.escape(t) for t in texts)]))
        self._reserved = re.compile(reserved)
        self._shielded = re.compile(f"{self._escape}{reserved}|{reserved}")
        self.shield = functools.lru_cache(_CACHED_SEGMENTS)(self._shield)
        self.segment = functools.lru_cache(_CACHED_SEGMENTS)(self._segment)

    def _shield(self, text: str, *, trusted: bool) -> str:
        """`text` with stand-ins for control tokens.

        Args:
            text: A message's content.
            trusted: Whether added tokens that are not special stay what they are: an assistant or system
                message may well mean the token when it writes ``<think>``; an observation may not.
        """
        pattern = self._trusted if trusted else self._untrusted
        return pattern.sub(lambda match: self._stand_in(match[0]), text)

    def shield_all(self, value: Any, *, trusted: bool) -> Any:
        """The same for every string in nested data, such as tool calls; keys are text as well."""
        if isinstance(value, str):
            return self.shield(value, trusted=trusted)
        if isinstance(value, Mapping):
            return {
                self.shield_all(key, trusted=trusted): self.shield_all(item, trusted=trusted)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.shield_all(item, trusted=trusted) for item in value]
        return value

    def unshield(self, text: str) -> str:
        """`text` with the stand-ins replaced by what they stand for."""
        return self._shielded.sub(self._original, text)

    def tail(self, text: str) -> str:
        """The end of `text` from its last control token on, all of it if there is none."""
        starts = [match.start() for match in self._any_control.finditer(text)]
        return text[starts[-1] :] if starts else text

    def _segment(self, context: str, segment: str) -> tuple[int, ...]:
        """The ids of a segment of rendered text.

        The segment is encoded with what stands before it, because some tokenizers put a space before the
        first word of whatever they are given. A token that would reach across the boundary is not used: a
        model that was fed everything up to the boundary could not have produced it. Then a neutral character
        stands in for what comes before.

        Args:
            context: The text before the segment, from the last control token on.
            segment: Template text, possibly with stand-ins.
        """
        for before in (context, *_ANCHORS) if context else ():
            known, both = self._encode(before), self._encode(before + segment)
            if both[: len(known)] == known:
                return tuple(both[len(known) :])
        return tuple(self._encode(segment))

    def _stand_in(self, text: str) -> str:
        return self._sentinels.get(text) or self._escape + text

    def _original(self, match: re.Match[str]) -> str:
        found = match[0]
        return found[1] if len(found) == 2 else self._texts[found]

    def _encode(self, text: str) -> list[int]:
        if self._reserved.search(text) is None:
            return self._encode_plain(text)
        ids: list[int] = []
        # Between the template's own control tokens, only the stretches with stand-ins take the literal path.
        plain_from = 0
        for stretch in self._stretches(text):
            if self._reserved.search(text, *stretch) is None:
                continue
            ids += self._encode_plain(text[plain_from : stretch[0]])
            ids += self._encode_literal(text[slice(*stretch)])
            plain_from = stretch[1]
        return ids + self._encode_plain(text[plain_from:])

    def _stretches(self, text: str) -> list[tuple[int, int]]:
        """The (begin, end) of the text between control tokens."""
        cuts = [match.span() for match in self._any_control.finditer(text)]
        begins = [0, *(end for _, end in cuts)]
        ends = [*(begin for begin, _ in cuts), len(text)]
        return list(zip(begins, ends, strict=True))

    def _encode_plain(self, text: str) -> list[int]:
        if not text:
            return []
        return list(self._tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def _encode_literal(self, text: str) -> list[int]:
        """The ids of text whose stand-ins are restored and mean nothing but their letters."""
        ids = self._literal_ids(self.unshield(text))
        if self.control_ids.isdisjoint(ids):
            return ids
        # The vocabulary holds the control token's text as an ordinary word as well: take the words apart.
        ids = []
        for letter in self.unshield(text):
            ids += self._literal_ids(letter)
        return ids

    def _literal_ids(self, text: str) -> list[int]:
        literal = self._literal_tokenizer
        if literal is None:
            return list(self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
        ids = literal.encode(text, add_special_tokens=False).ids
        return [self._renumbered.get(token_id, token_id) for token_id in ids]

    @functools.cached_property
    def _renumbered(self) -> dict[int, int]:
        """From an added token's number in the copy to its own; those beyond the vocabulary are counted up."""
        literal = self._literal_tokenizer
        there = {} if literal is None else literal.get_added_tokens_decoder()
        own = {token.content: token_id for token_id, token in self._tokenizer.added_tokens_decoder.items()}
        return {i: own[token.content] for i, token in there.items() if own[token.content] != i}

    @functools.cached_property
    def _literal_tokenizer(self) -> Tokenizer | None:
        """A copy of the tokenizer without control tokens; None where it is not built on `tokenizers`.

        Added tokens that it still has may have other numbers there.
        """
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            return None
        record = json.loads(backend.to_str())
        record["added_tokens"] = [t for t in record["added_tokens"] if t["content"] not in self._controls]
        record["padding"] = record["truncation"] = None
        record["post_processor"] = None
        return Tokenizer.from_str(json.dumps(record))


def _any_of(texts: list[str]) -> re.Pattern[str]:
    """Matches any of `texts`, or nothing at all when there is none."""
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)")
