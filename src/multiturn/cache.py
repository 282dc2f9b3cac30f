"""The user's cache of what takes long to make: each folder complete or absent, never half."""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SEAL", "cache_root", "cached_folder", "is_complete", "replace_folder", "seal"]

SEAL = "complete.json"
"""The file that says that a folder is complete."""


def cache_root() -> Path:
    """Where it is: ``$MULTITURN_CACHE``, otherwise ``~/.cache/multiturn``."""
    return Path(os.environ.get("MULTITURN_CACHE") or Path.home() / ".cache" / "multiturn").expanduser()


def cached_folder(folder: Path, build: Callable[[Path], None]) -> Path:
    """A folder of the cache, built when it is missing or incomplete.

    Several processes may ask at once: one builds, the others wait for it. A process that is killed while it
    builds leaves nothing that a later one would take for complete.

    Args:
        folder: Where the folder is or will be.
        build: Writes the contents into the empty folder that it is given.

    Returns:
        `folder`.

    Raises:
        ConfigError: The cache cannot be written.
    """
    if is_complete(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if not is_complete(folder):
                replace_folder(folder, build)
    except OSError as error:
        raise ConfigError(
            f"the cache {folder} cannot be written ({error}); free some space, or set MULTITURN_CACHE "
            "to a folder that can"
        ) from error
    return folder


def replace_folder(folder: Path, build: Callable[[Path], None]) -> None:
    """Write a folder beside its place, seal it and move it there; what stood there is removed.

    So is what killed attempts left beside it: one process at a time may write a folder.

    Args:
        folder: Where the folder will be.
        build: Writes the contents into the empty folder that it is given.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in folder.parent.glob(f".{glob.escape(folder.name)}.partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        partial.chmod(0o755)
        build(partial)
        seal(partial)
        if folder.exists():
            # A folder cannot be renamed onto a full one; the old one goes in two steps.
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
            folder.rename(old / "old")
            partial.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def seal(folder: Path) -> None:
    """Flush a folder's files (it has no folders in it) to the disk and note their sizes in it; also again."""
    sizes = {}
    for path in sorted(path for path in folder.iterdir() if path.name != SEAL):
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[path.name] = path.stat().st_size
    with (folder / SEAL).open("w", encoding="utf-8") as file:
        json.dump({"sizes": sizes}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def is_complete(folder: Path) -> bool:
    """Whether a folder is sealed and every file still has the size it had then."""
    try:
        sizes = json.loads((folder / SEAL).read_text(encoding="utf-8"))["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
