"""A collection that is killed again and again ends with every job played exactly once."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from multiturn.rollouts.store import read_rollouts

SCRIPT = Path(__file__).with_name("killed_collecting.py")
EPISODES = 120


def start(path: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"MULTITURN_PROGRESS": "off"}
    command = [sys.executable, str(SCRIPT), str(path), str(EPISODES)]
    return subprocess.Popen(command, env=environment)  # noqa: S603 - ours


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_and_resumed(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    for kill in range(3):
        process = start(path)
        target = lines(path) + 15 + kill
        deadline = time.monotonic() + 60
        while lines(path) < target and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        # What a kill in the middle of a write would leave behind.
        with path.open("ab") as file:
            file.write(b'{"schema": 1, "id": "train-1#99", "messa')
    assert 0 < len(read_rollouts(path)) < EPISODES
    assert start(path).wait(120) == 0
    ids = [json.loads(line)["id"] for line in path.read_text().splitlines()[1:]]
    assert collections.Counter(ids) == {
        f"train-{n}#{sample}": 1 for n in range(1, 5) for sample in range(EPISODES // 4)
    }
    assert all(t.reward == 1.0 for t in read_rollouts(path))
