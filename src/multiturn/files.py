"""Writing files all or nothing."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["PARTIAL", "whole_file"]

PARTIAL: Final = ".partial"
"""How the name of a file ends while it is being written."""


@contextlib.contextmanager
def whole_file(path: Path, *, errors: str = "strict") -> Iterator[TextIO]:
    """A text file to write, UTF-8, that takes its place when it is complete and on the disk.

    A crash, or an exception in the block, leaves the file that was there before.

    Args:
        path: The file; its folder is made.
        errors: What becomes of characters that UTF-8 has no bytes for. Writers of JSON give
            ``"backslashreplace"``: half a surrogate pair, which a tokenizer can leave behind, exists in
            JSON's escapes only.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("w", encoding="utf-8", errors=errors) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
