"""Files all or nothing, and what is said where a disk takes no more."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

from multiturn.files import PARTIAL, whole_file, written

FULL = Path("/dev/full")


def test_a_file_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as file:
        file.write("one")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "one"
    with contextlib.suppress(ZeroDivisionError), whole_file(path) as file:
        file.write("two" * 10_000)
        raise ZeroDivisionError
    assert path.read_text(encoding="utf-8") == "one"
    with pytest.raises(IsADirectoryError), whole_file(tmp_path):
        pass
    assert path.with_name(path.name + PARTIAL).exists(), "written anew by the next attempt"


@pytest.mark.skipif(not FULL.is_char_device(), reason="this system has no /dev/full")
def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="could not be written whole") as caught, written(tmp_path):
        torch.save({"a": torch.zeros(100_000)}, FULL)
    assert caught.value.filename == str(tmp_path)


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), written(tmp_path):
        raise RuntimeError("shapes do not match")
    with pytest.raises(FileNotFoundError), written(tmp_path):
        raise FileNotFoundError(2, "inline_container")
