"""The manifest: begun once, continued with the same configuration, refused with another."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from multiturn.errors import RunStateError
from multiturn.pipeline.manifest import Manifest, write_json

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = {"name": "tiny", "sft": {"epochs": 1.0, "lora": None}}


def test_a_finished_stage_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "run" / "manifest.json"
    Manifest.open(path, CONFIG).finish("sft", seconds=1.234, result={"loss": 0.5})
    again = Manifest.open(path, CONFIG)
    assert again.stages["sft"]["seconds"] == 1.23
    assert again.stages["sft"]["result"] == {"loss": 0.5}
    assert again.stages["sft"]["peak_memory_mib"] > 1
    assert again.versions["multiturn"]


def test_another_configuration_is_refused_with_every_difference(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    Manifest.open(path, CONFIG).finish("expert", seconds=1.0, result={})
    before = path.read_bytes()
    with pytest.raises(RunStateError) as caught:
        Manifest.open(path, {"name": "tiny", "sft": {"epochs": 2.0, "lora": {"rank": 4}}, "seed": 1})
    message = str(caught.value)
    assert "sft.epochs: 1.0 there, 2.0 now" in message
    assert "sft.lora: None there, {'rank': 4} now" in message
    assert "seed: None there, 1 now" in message
    assert "--set output=" in message
    assert path.read_bytes() == before


def test_what_an_older_version_did_not_know_is_no_difference(tmp_path: Path) -> None:
    """It has that setting's default; anything else is another configuration as before."""
    path = tmp_path / "manifest.json"
    Manifest.open(path, CONFIG).finish("expert", seconds=1.0, result={})
    newer = {**CONFIG, "rounds": 1}
    again = Manifest.open(path, newer, complete=lambda old: {"rounds": 1, **old})
    assert again.config == CONFIG
    with pytest.raises(RunStateError, match="rounds: 1 there, 2 now"):
        Manifest.open(path, {**CONFIG, "rounds": 2}, complete=lambda old: {"rounds": 1, **old})


def test_where_nothing_was_done_yet_another_configuration_may_begin(tmp_path: Path) -> None:
    """A first attempt that failed over a typing error must not keep the corrected one out."""
    path = tmp_path / "manifest.json"
    Manifest.open(path, CONFIG)
    (tmp_path / ".lock").touch()
    (tmp_path / "manifest.json.partial").touch()
    other = {**CONFIG, "seed": 1}
    assert Manifest.open(path, other).config == other
    assert Manifest.read(path).config == other
    (tmp_path / "expert.jsonl").touch()
    with pytest.raises(RunStateError, match="seed: 1 there, None now"):
        Manifest.open(path, CONFIG)


@pytest.mark.parametrize("content", [b"", b"{broken", b"\xff", b"[]", b'{"schema": 1}'])
def test_a_manifest_that_is_none_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(RunStateError, match=r"manifest\.json: is no.* use another output folder"):
        Manifest.open(path, CONFIG)
    assert path.read_bytes() == content


def test_a_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    Manifest.open(path, CONFIG)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}), encoding="utf-8")
    with pytest.raises(RunStateError, match="another version"):
        Manifest.open(path, CONFIG)


def test_half_a_surrogate_pair_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"é\ud800": "\udfff"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é\ud800": "\udfff"}


def test_a_write_that_dies_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
