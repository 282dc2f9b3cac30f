"""Which token ids of a server's reply are believed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from multiturn.tokens.render import Renderer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

__all__ = ["ReplyIds"]


class ReplyIds:
    """Checks the ids that a server reports against the text that it reports.

    Training uses a message's ids in place of its text, so ids of another tokenizer, or of more than the text
    (reasoning that the server cut out, say), would teach something that nobody said.

    Args:
        tokenizer: That of the model which the server runs, with its chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._stops = Renderer(tokenizer, chat_template="model").stop_ids
        self._known = len(tokenizer)

    def accept(self, ids: Sequence[int], content: str, *, truncated: bool) -> tuple[int, ...] | None:
        """The ids, if they are the text's and end as the reply did; None otherwise.

        Args:
            ids: What the server says the model produced.
            content: The text.
            truncated: Whether the reply was cut off. One that was not has to end with an end-of-turn token:
                without it the model would not learn to stop.
        """
        if not ids or not all(0 <= token_id < self._known for token_id in ids):
            return None
        stopped = ids[-1] in self._stops
        if not stopped and not truncated:
            return None
        text = list(ids[:-1] if stopped else ids)
        decoded = self._tokenizer.decode(text, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return tuple(ids) if decoded == content else None
