"""The report: one HTML file that needs nothing but a browser, and in which no text from outside can act."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jinja2
import yaml
from markupsafe import Markup

from multiturn.files import whole_file
from multiturn.progress import duration
from multiturn.reports import words
from multiturn.reports.charts import learning_charts
from multiturn.reports.examples import choose_examples, choose_pairs
from multiturn.reports.pair_charts import lengths_chart, rewards_chart, weights_chart
from multiturn.reports.strips import Scale, dots_plot, interval_plot
from multiturn.reports.untrusted import reveal, reveal_html
from multiturn.reports.viewer import build_viewer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from multiturn.trajectory import PreferencePair, Trajectory

__all__ = ["render_report", "write_report"]

SERIES: Final = 8
"""The number of colours; more methods than that share them."""

_TEMPLATES: Final = Path(__file__).parent / "templates"
_REASONS: Final = {
    "environment_error": "the environment crashed or hung",
    "no_turns": "no turn was taken",
    "no_reward": "the reward is not known",
    "alone": "no other trajectory of the task",
    "unpaired": "no other trajectory of the task goes with it",
    "no_expert": "no expert trajectory of the task",
    "prompt_mismatch": "another prompt than the others of the task",
    "tie": "the same reward as the other side",
    "below_min_gap": "too small a difference of rewards",
    "rollout_better": "better than the expert",
    "duplicate": "the same actions as another",
    "noisy": "repeated actions or meaningless text",
    "over_max": "enough pairs of the task already",
}
_METHODS: Final = {
    "tasks": "a bootstrap over tasks",
    "stratified": "a bootstrap over tasks within each task type",
    "cluster": "a bootstrap over whole task types",
    "constant": "an exact bound, as all tasks agree",
    "wilson": "Wilson's score interval",
}


def write_report(
    summary: Mapping[str, Any],
    path: Path | str,
    *,
    episodes: Mapping[str, Mapping[str, Sequence[Trajectory]]] | None = None,
    pairs: Sequence[PreferencePair] = (),
    pair_scores: Mapping[int, Mapping[str, Any]] | None = None,
) -> None:
    """Write the report, all or nothing: a crash leaves the old file or the new one.

    Args:
        summary: What `multiturn.reports.summary.build_summary` gives.
        path: The HTML file; its folder is made.
        episodes: For each split, each method's evaluation episodes; a handful is shown.
        pairs: The preference pairs; at most 200 are shown.
        pair_scores: For the index of a pair whose turns are scored what
            `multiturn.reports.turns.pair_turns` takes, by method.
    """
    with whole_file(Path(path)) as file:
        file.write(render_report(summary, episodes=episodes, pairs=pairs, pair_scores=pair_scores))


def render_report(
    summary: Mapping[str, Any],
    *,
    episodes: Mapping[str, Mapping[str, Sequence[Trajectory]]] | None = None,
    pairs: Sequence[PreferencePair] = (),
    pair_scores: Mapping[int, Mapping[str, Any]] | None = None,
) -> str:
    """The report as HTML. Pure; see `write_report` for the arguments."""
    series = _series(summary)
    viewer = build_viewer(pairs, pair_scores or {}, summary["trainings"], series)
    files = ["page.js", "viewer.js"] if viewer.data else ["page.js"]
    scripts = [(_TEMPLATES / name).read_text(encoding="utf-8") for name in files]
    template = _environment().get_template("report.html.jinja")
    return template.render(
        summary=summary,
        run=summary["run"],
        series=series,
        splits={split: _split_view(summary, split) for split in summary["splits"]},
        facts=_facts(summary),
        curves=learning_charts(summary["trainings"], series),
        weights=weights_chart(summary["trainings"], series),
        rewards=rewards_chart(viewer.turns, summary["trainings"], series),
        lengths=lengths_chart(summary["pairs"]),
        viewer=viewer,
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - our own files
        script_sources=Markup(" ").join(Markup("'{}'").format(_script_hash(script)) for script in scripts),
        examples=choose_examples(summary, episodes or {}),
        pair_examples=choose_pairs(pairs),
        config=_yaml(summary["run"].get("config")),
        seconds=sum(stage["seconds"] or 0.0 for stage in summary["stages"]),
    )


def _environment() -> jinja2.Environment:
    def plain(value: object) -> object:
        # Every expression of a template passes here before it is escaped, so that nothing can be forgotten.
        return reveal(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=plain,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "label": words.label,
        "number": words.number,
        "signed": words.signed,
        "percent": words.percent,
        "interval": words.interval_text,
        "percent_interval": words.percent_interval,
        "signed_interval": words.signed_interval,
        "oracle_note": words.oracle_note,
        "duration": duration,
        "shown": reveal_html,
        "reason": lambda name: _REASONS.get(name, name.replace("_", " ")),
        "resampling": lambda name: _METHODS.get(name, name),
    }
    environment.globals |= {"interval_plot": interval_plot, "dots_plot": dots_plot}
    return environment


def _script_hash(script: str) -> str:
    """What the page's policy calls a script of ours; no other may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def _series(summary: Mapping[str, Any]) -> dict[str, int]:
    """The colour of each method: 0 for the baseline, 1 for the main method, then the others."""
    first = [summary["baseline"], summary["main_method"]]
    names = [*summary["methods"], *summary["trainings"]]
    ordered = dict.fromkeys([*(name for name in first if name in names), *names])
    offset = 0 if summary["baseline"] in names else 1
    return {name: (slot + offset) % SERIES for slot, name in enumerate(ordered)}


def _split_view(summary: Mapping[str, Any], split: str) -> dict[str, Any]:
    """What the template needs of a split besides the summary: rows in order, scales and types."""
    results = summary["splits"][split]
    baseline = summary["baseline"]
    against = {c["method"]: c for c in results["comparisons"] if c["baseline"] == baseline}
    methods = [name for name in summary["methods"] if name in results["methods"]]
    rewards = [results["methods"][name]["reward"] for name in methods]
    differences = [comparison["reward"] for comparison in against.values()]
    types = sorted({kind for name in methods for kind in results["methods"][name]["by_type"]})
    type_means = [
        kind["reward"]["mean"] for name in methods for kind in results["methods"][name]["by_type"].values()
    ]
    outcomes = [
        outcome
        for outcome in results["methods"][methods[0]]["outcomes"]
        if outcome == "completed" or any(results["methods"][name]["outcomes"][outcome] for name in methods)
    ]
    return {
        "methods": methods,
        "against": against,
        "others": [c for c in results["comparisons"] if c["baseline"] != baseline],
        "reward_scale": Scale.around([i[end] for i in rewards for end in ("low", "high")], include=[0.0]),
        "difference_scale": Scale.around(
            [i[end] for i in differences for end in ("low", "high")], include=[0.0]
        ),
        "type_scale": Scale.around(type_means, include=[0.0, 1.0]),
        "types": types if len(types) > 1 else [],
        "outcomes": outcomes,
        "tasks": max(results["methods"][name]["tasks"] for name in methods),
    }


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The few facts under the headline."""
    run, pairs, stages = summary["run"], summary["pairs"], summary["stages"]
    found: list[tuple[str, Any]] = [(name, run.get(name)) for name in ("environment", "model", "seed")]
    found.append(("pairs", None if pairs is None else pairs["counts"].get("pairs")))
    seconds = [stage["seconds"] for stage in stages if stage["seconds"] is not None]
    memory = [stage["peak_memory_mib"] for stage in stages if stage["peak_memory_mib"] is not None]
    found.append(("time", duration(sum(seconds)) if seconds else None))
    found.append(("peak memory", f"{max(memory) / 1024:.1f} GiB" if memory else None))
    found.append(("made", _date(run.get("created"))))
    return [(name, str(value)) for name, value in found if value is not None]


def _date(text: object) -> object:
    """An ISO date as people write it; anything else as it is."""
    try:
        date = dt.datetime.fromisoformat(str(text))
    except ValueError:
        return text
    return f"{date.day} {date:%B %Y, %H:%M} {date.tzname() or ''}".rstrip()


def _yaml(config: object) -> str:
    if not config:
        return ""
    text: str = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
    return text
