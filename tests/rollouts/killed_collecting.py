"""Collects so many episodes slowly into a file, for `test_rollout_resume` to kill: FILE EPISODES."""

from __future__ import annotations

import sys

from fake_environments import jobs, ladders

from multiturn.agents.formats import FORMATS
from multiturn.agents.scripted import ScriptedAgent
from multiturn.rollouts.collect import CollectSettings, collect


def main() -> None:
    path, episodes = sys.argv[1], int(sys.argv[2])
    agent = ScriptedAgent(lambda _: "up", capacity=3, latency=0.01)
    wanted = jobs(*(f"train-{n}" for n in range(1, 5)), samples=episodes // 4)
    collect(agent, ladders(3), wanted, path, CollectSettings(format=FORMATS["action"]))


if __name__ == "__main__":
    main()
