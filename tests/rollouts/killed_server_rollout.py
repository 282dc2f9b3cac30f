"""Collects episodes of a server's into a file, for `test_server_rollouts` to kill: FILE EPISODES URL."""

from __future__ import annotations

import contextlib
import sys

from fake_environments import jobs, ladders

from multiturn.agents.formats import FORMATS
from multiturn.agents.server import ServerAgent
from multiturn.rollouts.collect import CollectSettings, collect


def main() -> None:
    path, episodes, url = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    wanted = jobs(*(f"train-{n}" for n in range(1, 5)), samples=episodes // 4)
    agent = ServerAgent(url, "toy", capacity=3, max_new_tokens=16)
    with contextlib.closing(agent):
        collect(agent, ladders(3), wanted, path, CollectSettings(format=FORMATS["action"]))


if __name__ == "__main__":
    main()
