"""The results of a run as one JSON-able dictionary: what ``summary.json`` holds and the report shows.

The schema (an *interval* is ``{mean, low, high, level, method, tasks, types}``, see
`multiturn.evaluation.intervals`; null stands for unknown, and numbers that are not finite become null)::

    schema          1
    run             {name, environment, model, seed, config, versions, git_commit, created, ...} as given
    level           the confidence level of all intervals
    baseline        the method the others are compared with
    methods         [names], the baseline first
    main_method     the method the headline is about, or null
    headline        the findings that matter most, in one text
    findings        [{split, method, baseline, verdict: better|worse|undecided, text, reward: interval}]
    splits          {split: {
                      methods: {method: {
                        tasks, episodes, outcomes: {outcome: count}, lost_tasks: [ids],
                        reward: interval, reward_alternative: interval|null, success: interval|null,
                        turns: interval, invalid_actions: share|null,
                        by_type: {type: {tasks, reward: interval, success: interval|null, turns}},
                        samples: null, or where only each task's best sample counts what all of them
                          amount to: {per_task, episodes, lost, reward: interval, success: interval|null}}},
                      comparisons: [{
                        method, baseline, verdict, tasks, excluded: [ids], reward: interval,
                        reward_alternative: interval|null, success: interval|null,
                        better, equal, worse, sign_test,
                        by_type: {type: interval}, differences: {task: difference}}]}}
    pairs           null or {counts: {rollouts, pairs, swapped, noisy_kept, tasks}, dropped: {reason: count},
                      within_tasks: whether a task's trajectories are paired with one another, whoever's,
                      num_turns: {chosen|rejected: {mean, median, max}},
                      turn_counts: {chosen|rejected: [[turns, pairs], ...]}}
    rounds          [{name, method, round, counts, dropped}] of methods' second and later rounds
    trainings       {method: {objective, beta, gamma, weighting,
                      curves: {metric: {step: [...], value: [...]}},
                      last: {metric: mean of the last tenth of its records},
                      weights: null or {chosen|rejected: [weight of each turn]},
                      rows, steps, tokens, seconds, peak_memory_bytes,
                      timing: null or {part: seconds},
                      data: null or {rows, used, cut, turns, tokens, scored_tokens, longest, dropped}}}
    stages          [{name, seconds, peak_memory_mib}]
    warnings        [text]
"""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from typing import TYPE_CHECKING, Any, Final

from multiturn.reports.turns import weights_of
from multiturn.reports.words import label, signed_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from multiturn.evaluation.compare import Comparison
    from multiturn.evaluation.evaluate import MethodSummary
    from multiturn.trajectory import PreferencePair

__all__ = ["SUMMARY_SCHEMA", "build_summary", "describe_pairs", "mean_of_last_tenth"]

SUMMARY_SCHEMA: Final = 1

_NO_CURVES: Final = frozenset({"step", "epoch", "seconds", "num_input_tokens_seen", "total_flos"})
_DATA_FACTS: Final = ("rows", "used", "cut", "turns", "tokens", "scored_tokens", "longest", "dropped")
_RUN_TOTALS: Final = "train_"  # the trainer's closing record: train_runtime, train_loss, ...


def build_summary(
    *,
    run: Mapping[str, Any],
    evaluations: Mapping[str, Mapping[str, MethodSummary]],
    comparisons: Mapping[str, Sequence[Comparison]] | None = None,
    baseline: str = "sft",
    pairs: Mapping[str, Any] | None = None,
    rounds: Sequence[Mapping[str, Any]] = (),
    trainings: Mapping[str, Mapping[str, Any]] | None = None,
    stages: Mapping[str, Mapping[str, Any]] | None = None,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Put the results of a run together. Pure: nothing is read, and the same arguments give the same summary.

    Args:
        run: Facts to show: ``name``, ``environment``, ``model``, ``seed``, ``config``, ``versions``,
            ``git_commit``, ``created``; all optional, others are kept.
        evaluations: For each split, each method's `multiturn.evaluation.evaluate.summarize`.
        comparisons: For each split, its `multiturn.evaluation.compare.compare`, those with the baseline
            first.
        baseline: The method the others are compared with.
        pairs: What `describe_pairs` says.
        rounds: For each later round of a method its ``name``, ``method``, ``round``, ``counts`` and
            ``dropped``.
        trainings: For each method the history of its training (``log``: the trainer's records; ``data``,
            ``warnings``, ``steps``, ``tokens``, ``seconds``) with ``objective``, ``beta``, ``gamma`` and
            ``weighting`` added. Only ``log`` is required.
        stages: For each stage, in order, its ``seconds`` and ``peak_memory_mib``.
        warnings: What whoever reads the results must know.

    Returns:
        The dictionary that the module's docstring describes; ``json.dumps(..., allow_nan=False)`` takes it.
    """
    comparisons, trainings = comparisons or {}, trainings or {}
    evaluations = {split: found for split, found in evaluations.items() if found}
    turns = None if pairs is None else pairs.get("num_turns")
    findings = [_finding(split, c) for split, found in comparisons.items() for c in found]
    methods = list(dict.fromkeys(name for found in evaluations.values() for name in found))
    methods.sort(key=lambda name: name != baseline)
    main = _main_method(methods, trainings, baseline)
    intervals = [summary.reward for found in evaluations.values() for summary in found.values()]
    summary = {
        "schema": SUMMARY_SCHEMA,
        "run": dict(run),
        "level": intervals[0].level if intervals else 0.95,
        "baseline": baseline,
        "methods": methods,
        "main_method": main,
        "headline": _headline(findings, main, baseline),
        "findings": findings,
        "splits": {
            split: {
                "methods": {name: dataclasses.asdict(summary) for name, summary in found.items()},
                "comparisons": [
                    {**dataclasses.asdict(comparison), "verdict": comparison.verdict}
                    for comparison in comparisons.get(split, ())
                ],
            }
            for split, found in evaluations.items()
        },
        "pairs": None if pairs is None else dict(pairs),
        "rounds": [dict(facts) for facts in rounds],
        "trainings": {name: _training(trainings[name], turns) for name in _ordered(trainings, methods)},
        "stages": [
            {"name": name, **{key: facts.get(key) for key in ("seconds", "peak_memory_mib")}}
            for name, facts in (stages or {}).items()
        ],
        "warnings": [*warnings, *_own_warnings(evaluations, trainings)],
    }
    clean: dict[str, Any] = _jsonable(summary)
    return clean


def describe_pairs(
    pairs: Sequence[PreferencePair], *, counts: Mapping[str, int], dropped: Mapping[str, int]
) -> dict[str, Any]:
    """What there is to say of the pairs of a run.

    Args:
        pairs: The pairs.
        counts: ``Selection.counts``.
        dropped: ``Selection.dropped``.
    """
    turns = {
        side: [sum(message.role == "assistant" for message in getattr(pair, side)) for pair in pairs]
        for side in ("chosen", "rejected")
    }
    return {
        "counts": dict(counts),
        "dropped": dict(dropped),
        "within_tasks": any("strategy" in pair.info for pair in pairs),
        "num_turns": {
            side: {
                "mean": statistics.fmean(found),
                "median": statistics.median_low(found),
                "max": max(found),
            }
            for side, found in turns.items()
            if found
        },
        "turn_counts": {
            side: [[count, pairs] for count, pairs in sorted(collections.Counter(found).items())]
            for side, found in turns.items()
            if found
        },
    }


def _finding(split: str, comparison: Comparison) -> dict[str, Any]:
    method, baseline = label(comparison.method), label(comparison.baseline)
    interval = dataclasses.asdict(comparison.reward)
    difference = signed_interval(interval)
    text = {
        "better": f"{method} beats {baseline} by {difference}",
        "worse": f"{method} falls behind {baseline}: {difference}",
        "undecided": (
            f"No difference between {method} and {baseline} that {comparison.tasks} tasks can show: "
            f"{difference}"
        ),
    }[comparison.verdict]
    return {
        "split": split,
        "method": comparison.method,
        "baseline": comparison.baseline,
        "verdict": comparison.verdict,
        "text": text,
        "reward": interval,
    }


def _main_method(
    methods: Sequence[str], trainings: Mapping[str, Mapping[str, Any]], baseline: str
) -> str | None:
    """The method the run is about: the first trained with DMPO, else the first trained, else the first."""
    others = [name for name in methods if name != baseline]
    by_objective = [name for name in others if trainings.get(name, {}).get("objective") == "dmpo"]
    named = [name for name in others if name == "dmpo"]
    trained = [name for name in others if name in trainings]
    return next(iter([*by_objective, *named, *trained, *others]), None)


def _ordered(names: Iterable[str], order: Sequence[str]) -> list[str]:
    """Names in a given order, those that are not in it behind."""
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def _headline(findings: Sequence[Mapping[str, Any]], main: str | None, baseline: str) -> str:
    told = [f for f in findings if (f["method"], f["baseline"]) == (main, baseline)]
    if len(told) < 2:
        return "".join(f"{finding['text']}." for finding in told)
    if all(finding["verdict"] == "better" for finding in told):
        *first, last = (f"{signed_interval(finding['reward'])} on {finding['split']}" for finding in told)
        return f"{label(told[0]['method'])} beats {label(baseline)} by {', '.join(first)} and {last}."
    return " ".join(f"On {finding['split']}: {finding['text']}." for finding in told)


def _training(history: Mapping[str, Any], turns: Mapping[str, Any] | None) -> dict[str, Any]:
    objective = history.get("objective", history.get("task"))
    curves: dict[str, dict[str, list[float]]] = {}
    for record in history["log"]:
        for metric, value in _metrics(record):
            curve = curves.setdefault(metric, {"step": [], "value": []})
            curve["step"].append(record["step"])
            curve["value"].append(value)
    data = history.get("data") or {}
    weighting = history.get("weighting")
    return {
        "objective": objective,
        "beta": history.get("beta"),
        "gamma": history.get("gamma") if objective == "dmpo" or weighting else None,
        "weighting": weighting,
        "curves": curves,
        "last": {metric: mean_of_last_tenth(curve["value"]) for metric, curve in curves.items()},
        "weights": _weights(objective, history.get("gamma"), weighting, turns),
        "rows": data.get("used"),
        "steps": history.get("steps"),
        "tokens": history.get("tokens"),
        "seconds": history.get("seconds"),
        "peak_memory_bytes": history.get("peak_memory_bytes"),
        "timing": history.get("timing"),
        "data": {key: data.get(key) for key in _DATA_FACTS} if data else None,
    }


def mean_of_last_tenth(values: Sequence[float]) -> float:
    """Where a curve ended: one step may hold a single pair, so the last one says little."""
    return statistics.fmean(values[-math.ceil(len(values) / 10) :])


def _metrics(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    if "step" not in record:
        return
    for name, value in record.items():
        if name in _NO_CURVES or name.startswith(_RUN_TOTALS) or isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            yield name, float(value)


def _weights(
    objective: str | None, gamma: float | None, weighting: str | None, turns: Mapping[str, Any] | None
) -> dict[str, list[float]] | None:
    """The weight of each turn of a typical pair: one with the median numbers of turns."""
    if not turns or (objective == "dmpo" and gamma is None):
        return None
    weights = {
        side: weights_of(objective, gamma, numbers["median"], weighting=weighting)
        for side, numbers in turns.items()
    }
    known = {side: found for side, found in weights.items() if found is not None}
    return known or None


def _own_warnings(
    evaluations: Mapping[str, Mapping[str, MethodSummary]], trainings: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    for name, history in trainings.items():
        for warning in history.get("warnings") or ():
            text = warning.get("warning", warning) if isinstance(warning, dict) else warning
            yield f"Training of {label(name)}: {text}"
        data = history.get("data") or {}
        for reason, count in (data.get("dropped") or {}).items():
            yield f"Training of {label(name)}: {count} of {data.get('rows')} rows left out ({reason})."
        if data.get("cut"):
            yield f"Training of {label(name)}: {data['cut']} conversations cut at a turn boundary."
    for split, found in evaluations.items():
        for name, summary in found.items():
            if summary.samples is not None and summary.samples.lost:
                yield (
                    f"{label(name)} on {split}: {summary.samples.lost} of {summary.samples.episodes} samples "
                    "ended in an environment error; the best of the others counts."
                )
            errors = summary.outcomes.get("environment_error", 0)
            if errors:
                yield (
                    f"{label(name)} on {split}: {errors} of {summary.episodes} episodes ended in an "
                    "environment error and are left out."
                )


def _jsonable(value: Any) -> Any:
    """Plain JSON: tuples become lists, and numbers that are not finite null."""
    if isinstance(value, dict):
        return {str(key): _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)
