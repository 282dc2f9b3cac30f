"""Writing files all or nothing."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["PARTIAL", "partial_of", "whole_file", "written"]

PARTIAL: Final = ".partial"
"""How the name of a file ends while it is being written."""

_WRITERS: Final = ("inline_container", "PytorchStreamWriter", "IoError")
"""What stands in the errors of torch and safetensors where the system would not take what they wrote."""


def partial_of(path: Path) -> Path:
    """What a file is called while it is being written; its folder is made.

    Raises:
        IsADirectoryError: There is a folder of that name, which no file could take the place of.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder and not the name of a file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(path.name + PARTIAL)


@contextlib.contextmanager
def whole_file(path: Path, *, errors: str = "strict") -> Iterator[TextIO]:
    """A text file to write, UTF-8, that takes its place when it is complete and on the disk.

    A crash, or an exception in the block, leaves the file that was there before.

    Args:
        path: The file; its folder is made.
        errors: What becomes of characters that UTF-8 has no bytes for. Writers of JSON give
            ``"backslashreplace"``: half a surrogate pair, which a tokenizer can leave behind, exists in
            JSON's escapes only.

    Raises:
        IsADirectoryError: There is a folder of that name.
    """
    partial = partial_of(path)
    with partial.open("w", encoding="utf-8", errors=errors) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextlib.contextmanager
def written(folder: Path) -> Iterator[None]:
    """Have torch's and safetensors' failures to write raised as the `OSError` that they are.

    Of a full disk torch says where in its file it got to, and safetensors what its own language calls it.

    Args:
        folder: Where the block writes to.

    Raises:
        OSError: The block could not write.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or not any(word in str(error) for word in _WRITERS):
            raise
        raise OSError(errno.EIO, "could not be written whole", str(folder)) from error
