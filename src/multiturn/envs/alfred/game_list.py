"""A list of games in a text file, such as the paper's code names its test games in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from multiturn.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["read_ids"]


def read_ids(path: Path) -> Iterator[tuple[int, str]]:
    """The game ids of a list.

    Args:
        path: A text file with an id (``<folder>/<trial>``) in each line. Empty lines, and what follows a
            ``#``, do not count; neither does a split in front of an id, or ``/game.tw-pddl`` behind it.

    Yields:
        The number of the line, from 1, and the id.

    Raises:
        ConfigError: There is no such file.
        DataError: A line is no id, or an id comes twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise ConfigError(f"the file with game ids cannot be read: {error}; see `split_file`") from error
    except UnicodeDecodeError as error:
        raise DataError(f"is not a text file with game ids ({error})", path=path) from error
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        parts = text.removesuffix("/game.tw-pddl").split("/")
        game_id = "/".join(parts[-2:])
        if len(parts) < 2 or not all(parts[-2:]):
            raise DataError(f"{text!r} is not a game id, <folder>/<trial>", path=path, line=number)
        if game_id in seen:
            raise DataError(
                f"the game {game_id!r} stands in line {seen[game_id]} already", path=path, line=number
            )
        seen[game_id] = number
        yield number, game_id
