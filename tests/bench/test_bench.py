"""Measuring: workloads, variants, the useful operations by hand, tables, and what happens when one fails."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from multiturn.bench import (
    VARIANTS,
    WORKLOADS,
    Bench,
    Workload,
    generate,
    markdown,
    measure,
    measuring,
    require_figures,
    worker,
)
from multiturn.bench.measuring import Measured
from multiturn.bench.worker import matmul_ceiling, run_job
from multiturn.bench.workloads import from_pairs, read_workload, write_workload
from multiturn.cli.app import app
from multiturn.errors import ConfigError, DataError, MultiturnError
from multiturn.tokens import Rendered, forest_size
from multiturn.training.data import RenderedPair


def _row(*ids: int) -> Rendered:
    return Rendered(token_ids=ids, turns=(-1, *[0] * (len(ids) - 1)), num_turns=1)


def _tiny() -> Workload:
    """Two pairs of one task; tokens are below 512."""
    pairs = [
        RenderedPair(id="a", chosen=_row(1, 2, 3), rejected=_row(1, 2, 4, 5)),
        RenderedPair(id="b", chosen=_row(1, 2, 3), rejected=_row(1, 6)),
    ]
    return from_pairs("tiny", pairs, pairs_per_pass=2, max_tokens=64)


@pytest.mark.parametrize("name", WORKLOADS)
def test_generated_workloads_have_their_shape(name: str) -> None:
    workload, shape = generate(name), WORKLOADS[name]
    assert workload == generate(name)
    assert workload != generate(name, seed=1)
    assert len(workload.pairs) == shape.tasks * shape.rejected
    for pair in workload.pairs:
        assert pair.chosen.turns[: shape.common + shape.task] == (-1,) * (shape.common + shape.task)
        assert pair.chosen.token_ids[: shape.common] == workload.pairs[0].chosen.token_ids[: shape.common]
        assert forest_size(pair.sequences) < sum(len(s.token_ids) for s in pair.sequences)
        assert pair.chosen != pair.rejected
    if shape.rejected > 1:
        assert len({pair.chosen for pair in workload.pairs}) == shape.tasks
    assert max(max(s.token_ids) for s in workload.sequences) < 32000
    folded = workload.within(512)
    assert max(max(s.token_ids) for s in folded.sequences) < 512
    assert folded.facts()["unique_tokens"] == pytest.approx(workload.facts()["unique_tokens"], rel=0.001)
    assert workload.within(32000) == workload


def test_the_long_workload_is_long() -> None:
    facts = generate("long").facts()
    assert 3000 < facts["longest"] < 5500
    assert 18 <= facts["mean_turns"] <= 22


def test_an_unknown_workload() -> None:
    with pytest.raises(ConfigError, match="there is no workload 'tall'; use one of short, long"):
        generate("tall")


def test_workloads_go_through_files(tmp_path: Path) -> None:
    workload = generate("short")
    write_workload(workload, tmp_path / "w.json")
    assert read_workload(tmp_path / "w.json") == workload
    (tmp_path / "w.json").write_text("[]")
    with pytest.raises(DataError, match=r"w\.json: is no workload"):
        read_workload(tmp_path / "w.json")


def test_facts_by_hand() -> None:
    """Sequences of 3, 4, 3 and 2 tokens; unique are 1 2 3, 4 5 and 6. Every token but the first is scored."""
    facts = _tiny().facts()
    assert (facts["total_tokens"], facts["unique_tokens"], facts["scored_tokens"]) == (12, 6, 8)


def test_useful_operations_by_hand() -> None:
    """M18: 6 unique tokens at the positions 0 1 2, 2 3 and 1, which see 1 + 2 + 3 + 3 + 4 + 2 = 15 tokens.

    With 100 weights, 2 layers and width 8: 6 * 100 * 6 + 12 * 2 * 8 * 15 = 3600 + 2880.
    """
    result = {"weights": 100, "layers": 2, "width": 8}
    assert measuring._useful_flops(_tiny(), result) == 6480.0


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains(variant: str, tmp_path: Path) -> None:
    if VARIANTS[variant].engine == "trl":
        pytest.importorskip("trl")
    write_workload(_tiny(), tmp_path / "w.json")
    job = {"variant": variant, "workload": str(tmp_path / "w.json"), "model": "random-tiny"}
    result = run_job({**job, "precision": "fp32", "steps": 2, "threads": None})
    assert len(result["seconds"]) == 2
    assert all(seconds > 0 for seconds in result["seconds"])
    assert result["peak_memory_bytes"] > 2**20
    assert (result["layers"], result["width"]) == (2, 64)


def test_the_classic_way_computes_the_same_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the comparison would be one of different things."""
    from multiturn.training import DMPOTrainer

    losses: dict[str, list[float]] = {}
    compute = DMPOTrainer.compute_loss
    name = ""

    def recording(*args: Any, **kwargs: Any) -> Any:
        loss = compute(*args, **kwargs)
        losses.setdefault(name, []).append(float(loss.detach()))
        return loss

    monkeypatch.setattr(DMPOTrainer, "compute_loss", recording)
    write_workload(_tiny(), tmp_path / "w.json")
    for name in [name for name, variant in VARIANTS.items() if variant.engine != "trl"]:
        job = {"variant": name, "workload": str(tmp_path / "w.json"), "model": "random-tiny"}
        run_job({**job, "precision": "fp32", "steps": 2, "threads": None})
    for name, mine in losses.items():
        assert mine == pytest.approx(losses["multiturn"], abs=1e-5), name
    assert losses["classic"][-1] < losses["classic"][0]


def test_pairs_that_do_not_divide(tmp_path: Path) -> None:
    workload = from_pairs("odd", [*_tiny().pairs, _tiny().pairs[0]], pairs_per_pass=2)
    assert workload.pairs_per_pass == 1
    write_workload(dataclasses.replace(workload, pairs_per_pass=2), tmp_path / "w.json")
    job = {"variant": "classic", "workload": str(tmp_path / "w.json"), "model": "random-tiny"}
    with pytest.raises(ConfigError, match="3 pairs cannot be run 2 at a time"):
        run_job({**job, "precision": "fp32", "steps": 1})


def test_the_ceiling_is_a_speed() -> None:
    assert matmul_ceiling("fp32", size=64, repeats=1) > 1e6


def test_rounds_turn_the_order_and_failures_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[str | None] = []

    def run(job: dict[str, Any], folder: Path, timeout: float | None) -> dict[str, Any]:
        jobs.append(job["variant"])
        if job["variant"] is None:
            return {"flops": 1e12}
        if job["variant"] == "no cache":
            return {"error": "RuntimeError: it | broke\n\x1b[31mbadly"}
        seconds = {"multiturn": [1.0, 3.0], "classic": [8.0, 8.0]}[job["variant"]]
        return {
            "seconds": seconds,
            "peak_memory_bytes": 2**30 if job["variant"] == "multiturn" else 2**31,
            "setup_seconds": 5.0,
            "weights": 100,
            "layers": 2,
            "width": 8,
            "device": "cpu",
        }

    monkeypatch.setattr(measuring, "_run", run)
    bench = measure([_tiny()], ["multiturn", "classic", "no cache"], model="m", rounds=2)
    # What failed is not run again.
    assert jobs == [None, "multiturn", "classic", "no cache", None, "classic", "multiturn"]
    table = markdown(bench)
    # The median of 1, 3, 1, 3 is 2, so one pair a second; the classic way takes four times as long.
    assert "| multiturn | 5.0 | 2.00 | 1.00 | 6 | 1.00 | 0% | 1.00x | 1.00x |" in table
    assert "| classic | 5.0 | 8.00 | 0.25 | 2 | 2.00 | 0% | 4.00x | 0.50x |" in table
    assert "| no cache | failed: RuntimeError: it / broke ⟨U+001B⟩[31mbadly |" in table
    assert "12 tokens of which 6 are unique (50% shared)" in table
    json.dumps(bench.to_json())


def _instant(job: dict[str, Any], *_: Any) -> dict[str, Any]:
    """What a job that takes no time would answer, on a machine whose matrix products fail."""
    if job["variant"] is None:
        return {"error": "no"}
    figures = {"seconds": [1.0], "peak_memory_bytes": 2**30, "setup_seconds": 5.0}
    return {**figures, "weights": 100, "layers": 2, "width": 8, "device": "cpu"}


@pytest.mark.parametrize("name", ["job", "result", "a/b"])
def test_any_name_of_a_workload_will_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of pairs may be called like a file of ours."""

    def run(job: dict[str, Any], folder: Path, timeout: float | None) -> dict[str, Any]:
        (folder / "job.json").write_text("")
        (folder / "result.json").write_text("")
        if job["variant"] is not None:
            assert read_workload(Path(job["workload"])).name == name
        return _instant(job)

    monkeypatch.setattr(measuring, "_run", run)
    bench = measure([dataclasses.replace(_tiny(), name=name)], ["classic"], model="m", rounds=1)
    assert not bench.measured[0].error
    assert bench.ceiling == ()
    assert "TFLOP/s" not in markdown(bench)


def test_an_interruption_leaves_the_finished_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[str | None] = []

    def run(job: dict[str, Any], *_: Any) -> dict[str, Any]:
        jobs.append(job["variant"])
        if len(jobs) == 5:
            raise KeyboardInterrupt
        return _instant(job)

    monkeypatch.setattr(measuring, "_run", run)
    arguments = ["bench", "-w", "one-against-four", "-m", "random-tiny", "--rounds", "3"]
    more = ["--variant", "classic", "--output", str(tmp_path / "figures")]
    result = CliRunner().invoke(app, [*arguments, *more])
    assert result.exit_code != 0
    assert "2 rounds of 2 steps" in result.output
    assert "| classic | 5.0 | 1.00 |" in result.output
    assert json.loads((tmp_path / "figures.json").read_text())["settings"]["rounds"] == 2


def test_a_run_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    error = measuring._run({"variant": None, "precision": "fp32"}, tmp_path, timeout=0.2)["error"]
    assert error == "was stopped after 0.2 s; allow more time, or fewer steps"


def test_a_job_tells_why_it_failed(tmp_path: Path) -> None:
    """The whole message of what was raised, not the last line of a traceback."""
    write_workload(dataclasses.replace(_tiny(), pairs_per_pass=3), tmp_path / "w.json")
    job = {"variant": "no such", "workload": str(tmp_path / "w.json"), "model": "random-tiny"}
    (tmp_path / "job.json").write_text(json.dumps({**job, "precision": "fp32", "steps": 1}))
    worker.main([str(tmp_path / "job.json"), str(tmp_path / "result.json")])
    assert json.loads((tmp_path / "result.json").read_text()) == {"error": "KeyError: 'no such'"}


def test_pairs_or_workloads(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "-w", "short", "--pairs", str(tmp_path / "p.jsonl")])
    assert isinstance(result.exception, ConfigError)
    assert "give one of them" in str(result.exception)


@pytest.mark.parametrize(("workloads", "variants", "rounds"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_nothing_to_measure(workloads: int, variants: int, rounds: int) -> None:
    with pytest.raises(ConfigError, match="there is nothing to measure"):
        measure([_tiny()] * workloads, ["classic"] * variants, model="m", rounds=rounds)


def test_nothing_measured_is_an_error() -> None:
    failed = Measured(workload="w", variant="classic", error="no memory")
    bench = Bench(machine={}, settings={}, workloads={}, measured=(failed,), ceiling=())
    with pytest.raises(MultiturnError, match="nothing could be measured: no memory"):
        require_figures(bench)


def test_unknown_variants() -> None:
    with pytest.raises(ConfigError, match="there is no variant 'x'; use some of multiturn"):
        measure([_tiny()], ["x"], model="m")


def test_the_command_writes_its_figures(tmp_path: Path) -> None:
    arguments = ["bench", "-w", "one-against-four", "-m", "random-tiny", "--rounds", "1", "--steps", "1"]
    output = tmp_path / "figures"
    more = ["--variant", "multiturn", "--precision", "fp32", "--output", str(output)]
    result = CliRunner().invoke(app, [*arguments, *more])
    assert result.exit_code == 0, result.output
    table = output.with_name("figures.md").read_text()
    assert "| multiturn |" in table
    assert table in result.output
    record = json.loads(output.with_name("figures.json").read_text())
    assert record["measured"][0]["seconds"][0] > 0
    assert record["machine"]["versions"]["torch"] == torch.__version__
