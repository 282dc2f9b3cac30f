"""A run's manifest: its configuration, versions and finished stages, in one file never half written."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multiturn.errors import RunStateError
from multiturn.files import PARTIAL, whole_file
from multiturn.memory import peak_host_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

__all__ = ["Manifest", "write_json"]

_PACKAGES = (
    "multiturn",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "tokenizers",
    "numpy",
    "scienceworld",
)
_SCHEMA = 1


@dataclasses.dataclass
class Manifest:
    """What a run directory knows of its own making.

    Attributes:
        path: The manifest's file.
        config: The resolved configuration.
        versions: Versions of Python and of the packages that matter, and the platform.
        git_commit: The commit of the code, with ``+changes`` where the checkout was modified; None
            outside git.
        created: When the run began, UTC.
        stages: For each finished stage its ``seconds``, ``peak_memory_mib``, ``finished`` and ``result``.
    """

    path: Path
    config: dict[str, Any]
    versions: dict[str, str]
    git_commit: str | None
    created: str
    stages: dict[str, dict[str, Any]]

    @classmethod
    def open(
        cls,
        path: Path,
        config: Mapping[str, Any],
        *,
        complete: Callable[[dict[str, Any]], Mapping[str, Any]] = lambda settings: settings,
    ) -> Manifest:
        """Open the manifest of a run directory, or begin one.

        Args:
            path: The manifest's file; its folder is made.
            config: The resolved configuration, JSON-able.
            complete: Gives settings that an older version wrote those that it did not know, at their
                defaults.

        Raises:
            RunStateError: The directory holds a run of another configuration (the message shows each
                difference), or its manifest cannot be read.
        """
        if path.exists():
            manifest = cls.read(path)
            if manifest.takes(config, complete=complete):
                return manifest
        manifest = cls(path, dict(config), _versions(), _git_commit(), _now(), {})
        manifest.save()
        return manifest

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """The manifest that a file holds.

        Raises:
            RunStateError: It holds none, or one of another version.
        """
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunStateError(
                f"{path}: is not JSON ({error}); undo what was changed in it, or use another output folder"
            ) from None
        fields = [field.name for field in dataclasses.fields(cls) if field.name != "path"]
        if not isinstance(record, dict) or record.get("schema") != _SCHEMA or set(fields) - record.keys():
            raise RunStateError(
                f"{path}: is no manifest, or one of another version of multiturn; use another output folder"
            )
        return cls(path=path, **{name: record[name] for name in fields})

    def takes(
        self,
        config: Mapping[str, Any],
        *,
        complete: Callable[[dict[str, Any]], Mapping[str, Any]] = lambda settings: settings,
    ) -> bool:
        """Whether this is a manifest of that configuration; False where it may give way to one.

        Args:
            config: The resolved configuration, JSON-able.
            complete: As for `open`.

        Raises:
            RunStateError: It is not, and the directory holds work already; the message shows each difference.
        """
        differences = list(_differences(complete(self.config), config))
        if differences and not self.untouched:
            shown = "\n".join(f"  {line}" for line in differences)
            raise RunStateError(
                f"{self.path.parent}: holds a run of another configuration:\n{shown}\n"
                "continue it with its own configuration, or give this one another folder (--set output=...)"
            )
        return not differences

    def extend(self, config: Mapping[str, Any], *, again: Collection[str]) -> None:
        """Go on with a configuration that adds to this one's.

        Args:
            config: The resolved configuration, JSON-able.
            again: The stages to be done again, because they tell of all that a run has.
        """
        self.config = dict(config)
        self.stages = {name: stage for name, stage in self.stages.items() if name not in again}
        self.save()

    @property
    def untouched(self) -> bool:
        """Whether the run has left nothing but its manifest, so that nothing could be mixed with it."""
        others = (entry.name for entry in self.path.parent.iterdir() if entry.name != self.path.name)
        return not self.stages and all(_is_scratch(name) for name in others)

    def save(self) -> None:
        """Write the manifest, all or nothing."""
        record = {"schema": _SCHEMA} | {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "path"
        }
        write_json(self.path, record)

    def finish(self, stage: str, *, seconds: float, result: Mapping[str, Any]) -> None:
        """Note that a stage is done.

        Args:
            stage: Its name.
            seconds: Wall-clock seconds it took in this process (work of killed attempts is not in it).
            result: What later stages and the report want to know of it, JSON-able.
        """
        self.stages[stage] = {
            "seconds": round(seconds, 2),
            "peak_memory_mib": peak_host_memory(children=True) // 2**20,
            "finished": _now(),
            "result": dict(result),
        }
        self.save()


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON file, all or nothing."""
    with whole_file(path, errors="backslashreplace") as file:
        json.dump(record, file, indent=1, ensure_ascii=False)


def _is_scratch(name: str) -> bool:
    """Whether a file is a lock, or what a killed write left."""
    return name.startswith(".") or name.endswith(PARTIAL)


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f"{where}.{key}" if where else str(key)
            yield from _differences(old.get(key), new.get(key), inner)
    elif old != new:
        yield f"{where}: {old!r} there, {new!r} now"


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git_commit() -> str | None:
    """The commit of the checkout this code runs from, or None where it runs from an installed package."""

    def git(*arguments: str) -> str:
        return subprocess.run(  # noqa: S603 - fixed program and arguments, no shell
            ["git", *arguments],  # noqa: S607 - whichever git the user has
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        if git("ls-files", "--error-unmatch", Path(__file__).name):
            return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        pass
    return None
