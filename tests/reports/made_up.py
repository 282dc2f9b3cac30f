"""A made-up run that looks like a real one: 120 household games, SFT, DPO and DMPO."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from multiturn.evaluation.compare import compare
from multiturn.evaluation.evaluate import summarize
from multiturn.pairs.select import select_pairs
from multiturn.reports.summary import build_summary, describe_pairs
from multiturn.reports.turns import weights_of
from multiturn.trajectory import Message, Outcome, PreferencePair, Trajectory

if TYPE_CHECKING:
    from collections.abc import Mapping

TYPES = (
    "pick_and_place",
    "look_at_in_light",
    "clean_then_place",
    "heat_then_place",
    "cool_then_place",
    "pick_two",
)
SUCCESS = {"sft": 0.38, "dpo": 0.45, "dmpo": 0.55}
THINGS = ("mug", "apple", "vase", "book", "plate", "pen")
PLACES = ("shelf 1", "countertop 1", "drawer 2", "cabinet 1", "fridge 1", "desk 1")


@dataclasses.dataclass(frozen=True)
class MadeUpRun:
    """What a pipeline would hand over."""

    summary: dict[str, Any]
    episodes: dict[str, dict[str, list[Trajectory]]]
    pairs: list[PreferencePair]
    pair_scores: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)


def play(task: int, name: str, *, wins: bool, rng: np.random.Generator, split: str) -> Trajectory:
    """An episode that finds a thing after some searching, or does not."""
    thing, goal = THINGS[task % 6], PLACES[(task + 2) % 6]
    messages = [
        Message(role="system", content="You act in a household. Reply with Thought: ... and Action: ..."),
        Message(
            role="user",
            content=f"You are in the middle of a room. You see {', '.join(PLACES)}.\n"
            f"Your task is to: put a {thing} in {goal}.",
        ),
    ]
    tries = int(rng.integers(1, 4)) if wins else 9
    for number in range(tries):
        place = PLACES[(task + number) % 6] if wins or number < 4 else PLACES[task % 6]
        messages += [
            Message(
                role="assistant",
                content=f"Thought: The {thing} may be at {place}.\nAction: go to {place}",
                token_ids=(1, 2, 3),
            ),
            Message(role="user", content=f"You arrive at {place}. On the {place}, you see a bowl 1."),
        ]
    if wins:
        messages += [
            Message(
                role="assistant",
                content=f"Thought: There it is.\nAction: take {thing} 1 from {PLACES[task % 6]}",
            ),
            Message(role="user", content=f"You pick up the {thing} 1."),
            Message(
                role="assistant",
                content=f"Thought: Now I put it down.\nAction: put {thing} 1 in/on {goal}",
            ),
        ]
    return Trajectory(
        id=f"{split}/{task}#{name}",
        task_id=f"{split}/{task:03d}",
        messages=tuple(messages),
        outcome=Outcome.COMPLETED if wins else Outcome.TRUNCATED,
        reward=float(wins),
        success=wins,
        task_type=TYPES[task % 6],
        split=split,
        environment="household/1",
        info={"invalid_actions": 0 if wins else 2},
    )


def learning_log(objective: str, steps: int, rng: np.random.Generator) -> list[dict[str, float]]:
    """What the trainer would log, a record a step."""
    log = []
    for step in range(1, steps + 1):
        done, noise = step / steps, float(rng.normal())
        record = {"step": float(step), "epoch": 3 * done, "learning_rate": 1e-4, "grad_norm": 1 + 0.2 * noise}
        if objective == "sft":
            loss = 0.2 + 1.6 * math.exp(-4 * done) + 0.05 * noise
            record |= {"loss": loss, "nll/token": loss}
        else:
            margin = (0.9 if objective == "dmpo" else 1.6) * done + 0.15 * noise
            record |= {
                "loss": math.log1p(math.exp(-margin)),
                "rewards/margins": margin,
                "rewards/accuracies": float(np.clip(0.5 + 0.4 * done + 0.1 * noise, 0.0, 1.0)),
                "logps/chosen": -9.0 + (-2.0 if objective == "dmpo" else -11.0) * done + 0.8 * noise,
                "logps/rejected": -14.0 - 26.0 * done + 1.5 * noise,
                "logratios/chosen": (-2.0 if objective == "dmpo" else -11.0) * done + 0.8 * noise,
                "logratios/rejected": -26.0 * done + 1.5 * noise,
            }
        log.append(record)
    return [*log, {"step": float(steps), "train_runtime": 12.0, "train_loss": 0.4}]


def make_up(splits: tuple[str, ...] = ("test",), tasks: int = 120) -> MadeUpRun:
    rng = np.random.default_rng(7)
    episodes: dict[str, dict[str, list[Trajectory]]] = {}
    for split in splits:
        ease = rng.random(tasks)
        episodes[split] = {
            name: [
                play(
                    task,
                    name,
                    wins=bool(0.75 * ease[task] + 0.25 * rng.random() > 1 - rate),
                    rng=rng,
                    split=split,
                )
                for task in range(tasks)
            ]
            for name, rate in SUCCESS.items()
        }
    experts = [play(task, "expert", wins=True, rng=rng, split="train") for task in range(60)]
    rollouts = [
        play(task, f"r{sample}", wins=bool(rng.random() < 0.4), rng=rng, split="train")
        for task in range(60)
        for sample in range(2)
    ]
    selection = select_pairs(experts, rollouts)
    trainings = {
        "sft": {"objective": "sft", "log": learning_log("sft", 48, rng), "steps": 48, "seconds": 171.0},
        "dmpo": {"objective": "dmpo", "beta": 0.1, "gamma": 0.7, "log": learning_log("dmpo", 90, rng)},
        "dpo": {"objective": "dpo", "beta": 0.1, "gamma": 0.7, "log": learning_log("dpo", 90, rng)},
    }
    for name in ("dmpo", "dpo"):
        trainings[name] |= {
            "steps": 90,
            "seconds": 212.5,
            "data": {"rows": 72, "used": 70, "dropped": {"longer than max_length": 2}, "tokens": 31_415},
            "peak_memory_bytes": 3 * 2**30,
            "timing": {"forward": 60.0, "backward": 130.0, "total_tokens": 31_415},
        }
    summary = build_summary(
        run=facts(splits),
        evaluations={
            s: {n: summarize(t, resamples=2000) for n, t in found.items()} for s, found in episodes.items()
        },
        comparisons={
            split: [
                compare(found[a], found[b], names=(a, b), resamples=2000)
                for a, b in (("dpo", "sft"), ("dmpo", "sft"), ("dmpo", "dpo"))
            ]
            for split, found in episodes.items()
        },
        pairs=describe_pairs(selection.pairs, counts=selection.counts, dropped=selection.dropped),
        trainings=trainings,
        stages={
            name: {"seconds": seconds, "peak_memory_mib": memory}
            for name, seconds, memory in (
                ("expert", 12.1, 610),
                ("sft", 171.0, 3480),
                ("explore", 122.4, 3480),
                ("pairs", 0.4, 3480),
                ("train:dmpo", 212.5, 4120),
                ("train:dpo", 208.0, 4120),
                ("evaluate:dmpo:test", 65.0, 4120),
            )
        },
        warnings=[],
    )
    return MadeUpRun(summary, episodes, selection.pairs, score(selection.pairs[:20], rng))


def score(pairs: list[PreferencePair], rng: np.random.Generator) -> dict[int, dict[str, Any]]:
    """Log-probabilities of every turn, the rejected ones less likely after training."""
    scores: dict[int, dict[str, Any]] = {}
    for index, pair in enumerate(pairs):
        scores[index] = {"dmpo": {}, "dpo": {}}
        for side, drift in (("chosen", 0.2), ("rejected", -1.5)):
            count = sum(message.role == "assistant" for message in getattr(pair, side))
            before = [-float(value) for value in rng.exponential(1.0, count)]
            for method in ("dmpo", "dpo"):
                after = [value + drift + 0.3 * float(rng.normal()) for value in before]
                weights = weights_of(method, 0.7, count) or []
                scores[index][method][side] = {
                    "reference": before,
                    "policy": after,
                    "weights": weights,
                    "rewards": [
                        0.1 * weight * (new - old)
                        for weight, old, new in zip(weights, before, after, strict=True)
                    ],
                }
    return scores


def facts(splits: tuple[str, ...]) -> Mapping[str, Any]:
    return {
        "name": "quickstart",
        "environment": "household",
        "model": "smollm2-135m-instruct",
        "seed": 0,
        "created": "2026-01-31T12:00:00+00:00",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "versions": {"python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0", "multiturn": "0.1.0"},
        "config": {
            "name": "quickstart",
            "environment": {"name": "household", "test_splits": list(splits)},
            "preference": {"beta": 0.1, "gamma": 0.7, "learning_rate": 2e-5},
        },
    }


@functools.cache
def one_split() -> MadeUpRun:
    """The made-up run with one test split; built once."""
    return make_up()


@functools.cache
def two_splits() -> MadeUpRun:
    """The made-up run with two small test splits."""
    return make_up(("seen", "unseen"), tasks=30)
