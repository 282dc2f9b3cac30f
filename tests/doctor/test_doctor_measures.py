"""`multiturn doctor`: what it measures, and what follows from that."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import pytest

from multiturn.doctor import (
    Finding,
    decoding_measures,
    estimates,
    examine,
    few_steps,
    precision_measures,
    training_measures,
    workload,
)
from multiturn.doctor.estimates import MeasuredTraining
from multiturn.doctor.machine_memory import release_memory
from multiturn.doctor.patient import Patient
from multiturn.jsonl import write_jsonl
from multiturn.pipeline import trainings
from multiturn.pipeline.load import load_config
from multiturn.pipeline.run import open_run, plan
from multiturn.trajectory import Message, PreferencePair

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from multiturn.pipeline.config import DecodingSettings
    from multiturn.pipeline.train_settings import PreferenceSettings
    from multiturn.trajectory import Trajectory

MEASURED = MeasuredTraining(
    rows=4, seconds=2.0, reference_seconds=1.0, held=600.0, peak=1000.0, pass_tokens=100, row_tokens=50
)


def said(found: Iterable[Finding], severity: str) -> list[str]:
    return [finding.what for finding in found if finding.severity == severity]


def patient(file: Path, *overrides: str) -> Patient:
    return Patient(load_config(file, overrides))


def with_pairs(file: Path, words: Sequence[tuple[int, int]]) -> None:
    """Give the run pairs whose sides say so many words."""

    def side(count: int, word: str) -> tuple[Message, ...]:
        return (Message(role="assistant", content=f"{word} " * count),)

    folder = file.parent / "run"
    folder.mkdir()
    write_jsonl(
        folder / "pairs.jsonl",
        [
            PreferencePair(
                id=str(number),
                prompt=(Message(role="user", content=f"task {number}"),),
                chosen=side(chosen, "go"),
                rejected=side(rejected, "no"),
            )
            for number, (chosen, rejected) in enumerate(words)
        ],
    )


def test_time_and_memory_are_measured(file: Path) -> None:
    """SFT: 6 rows, 2 epochs. Exploration: 5 tasks; evaluation: 3 tasks by SFT, two methods, ten samples."""
    found = list(examine(load_config(file, ())))
    assert not said(found, "problem")
    notes = "\n".join(said(found, "note"))
    assert "sft: 6 demonstrations, 2 epochs: about " in notes
    assert "methods.dmpo: 5 pairs, 2 epochs: about " in notes
    assert "methods.dpo: 5 pairs, 2 epochs: about " in notes
    assert "explore: 5 episodes" in notes
    assert "evaluate: 39 episodes" in notes
    assert all(f.figures["seconds"] > 0 for f in found if f.check == "sft_training" and f.severity == "note")
    # What the reference says DMPO has had computed, and DPO reads; they differ in nothing else that costs.
    dmpo, dpo = (
        next(f.figures for f in found if f.what.startswith(f"methods.{name}: 5 pairs"))
        for name in ("dmpo", "dpo")
    )
    assert dpo["seconds"] == pytest.approx(5 * 2 * dpo["row_seconds"])
    assert dmpo["row_seconds"] == dpo["row_seconds"]
    assert dmpo["seconds"] > dpo["seconds"]
    # So their memory is said once.
    assert [f.what.split(":")[0] for f in found if "predicted_bytes" in f.figures] == ["sft", "methods.dmpo"]


def test_rejection_fine_tuning_takes_what_sft_takes_for_its_rows(file: Path) -> None:
    """SFT's 6 demonstrations, and 5 explored episodes at most."""
    found = list(examine(load_config(file, ["methods={rft: {}}"])))
    sft, rft = (
        next(f for f in found if f.what.startswith(f"{name}: ") and "seconds" in f.figures)
        for name in ("sft", "methods.rft")
    )
    assert rft.what.startswith("methods.rft: 11 rows at most, 2 epochs: about ")
    assert rft.figures["seconds"] == pytest.approx(sft.figures["seconds"] * 11 / 6)


@pytest.mark.parametrize(
    ("strategy", "most", "pairs"),
    [
        ("expert-vs-rollout", "null", 15),
        ("all-above-margin", "null", 30),
        ("all-above-margin", "4", 20),
        ("best-vs-worst", "4", 5),
    ],
)
def test_the_most_pairs_of_an_exploration(file: Path, strategy: str, most: str, pairs: int) -> None:
    """5 tasks of 3 attempts: each with the expert's; any two of these four, which are six; one."""
    asked = [f"pairs.strategy={strategy}", f"pairs.max_pairs_per_task={most}", "explore.samples=3"]
    assert workload.most_pairs(load_config(file, asked), tasks=12) == pairs


def test_a_prediction_is_what_was_measured_times_what_there_is() -> None:
    """4 rows took 2 s a step and the reference 1 s for them: 40 rows, 3 epochs: 10 * (3 * 2 + 1) = 70 s,
    and 60 s where the reference has read them before.

    Of 1000 bytes 400 are activations of 100 tokens: a pass of 250 takes 600 + 400 * 2.5 = 1600. Episodes:
    5 of 4 turns, each 10 tokens of 0.1 s and 0.5 s of the environment: 20 * 1.5 = 30 s.
    """
    assert estimates.training_seconds(MEASURED, rows=40, epochs=3.0) == pytest.approx(70.0)
    assert estimates.training_seconds(MEASURED, rows=40, epochs=3.0, references=0) == pytest.approx(60.0)
    assert estimates.peak_memory(MEASURED, pass_tokens=250) == pytest.approx(1600.0)
    assert estimates.peak_memory(MEASURED, pass_tokens=10) == 1000.0
    seconds = estimates.rollout_seconds(
        episodes=5, turns=4.0, reply_tokens=10.0, token_seconds=0.1, turn_seconds=0.5
    )
    assert seconds == pytest.approx(30.0)


@pytest.mark.parametrize(("budget", "tokens"), [(None, 200), (300, 300), (50, 100), (9000, 800)])
def test_the_widest_pass(budget: int | None, tokens: int) -> None:
    """Rows of 100 tokens, 2 at once: 200. A budget takes up to 8 rows; a longer one has its own pass."""
    assert estimates.widest_pass(row_tokens=100, batch_size=8, rows_at_once=2, budget=budget) == tokens


@pytest.mark.parametrize(
    ("free", "severity"), [(None, "note"), (2**40, "ok"), (1.2 * 2**30, "warning"), (2**29, "problem")]
)
def test_memory_that_is_tight(free: float | None, severity: str) -> None:
    (finding,) = training_measures.memory_findings("sft", 2.0**30, free)
    assert (finding.severity, "about 1.00 GiB" in finding.what) == (severity, True)


# ---- precision ----


@pytest.mark.parametrize(
    ("chosen", "seconds", "severity", "what"),
    [
        ("bf16", (1.0, 2.0), "ok", "products of matrices are 2.0 times as fast as in fp32"),
        ("bf16", (1.2, 1.0), "ok", "products of matrices are 0.8 times as fast as in fp32"),
        ("bf16", (1.5, 1.0), "warning", "multiplies matrices 1.5 times as fast in fp32"),
        ("fp32", (1.5, 1.0), "ok", "products of matrices are 1.5 times as fast as in bf16"),
        ("fp32", (1.0, 3.0), "note", "multiplies matrices 3.0 times as fast in bf16"),
    ],
)
def test_the_precision_that_is_faster_here(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    chosen: str,
    seconds: tuple[float, float],
    severity: str,
    what: str,
) -> None:
    """A product in bfloat16 takes the first of the two times, one in float32 the second."""
    took = dict(zip(("bf16", "fp32"), seconds, strict=True))
    monkeypatch.setattr(precision_measures, "_product_seconds", lambda: took)
    (found,) = precision_measures.precision(patient(file, f"precision={chosen}"))
    assert found.severity == severity
    assert found.what.startswith(f"precision is {chosen}")
    assert what in found.what


def test_products_of_both_precisions_are_measured(file: Path) -> None:
    """Seven each take some milliseconds; whichever is faster, one is `gain` times as fast as the other."""
    found = {
        chosen: next(precision_measures.precision(patient(file, f"precision={chosen}")))
        for chosen in ("bf16", "fp32")
    }
    assert all(finding.what.startswith(f"precision is {chosen}") for chosen, finding in found.items())


# ---- which rows ----


def test_the_longest_pair_is_measured_first(file: Path) -> None:
    """It is long by its rejected side, and stands last."""
    with_pairs(file, [(3, 1)] * 20 + [(1, 90)])
    there = patient(file)
    rows = few_steps.rows_to_measure(there, there.pair_sample, there.config.method("dpo"))
    assert len(rows) == few_steps.ROWS
    assert len({row.id for row in rows}) == few_steps.ROWS
    assert rows[0].id == "20"
    # Where it is longer than the training takes, it is not in the training either; cut to fit, it is.
    for overlong, first in (("error", "0"), ("drop", "0"), ("cut", "20")):
        settings = there.config.method("dpo").model_copy(update={"max_length": 60, "overlong": overlong})
        assert few_steps.rows_to_measure(there, there.pair_sample, settings)[0].id == first


def test_rows_are_a_multiple_of_those_of_a_pass(file: Path) -> None:
    with_pairs(file, [(number, 1) for number in range(1, 12)])
    there = patient(file)
    for at_once, count in ((1, 11), (3, 9), (4, 8), (32, 11)):
        settings = there.config.method("dpo").model_copy(update={"batch_size": at_once})
        rows = few_steps.rows_to_measure(there, there.pair_sample, settings)
        assert len({row.id for row in rows}) == len(rows) == count
        assert rows[0].id == "10"


def test_nothing_to_measure(file: Path) -> None:
    """Every demonstration is too long: nothing is trained on, and nothing said but why."""
    found = list(training_measures.sft_training(patient(file, "sft.max_length=9", "sft.overlong=drop")))
    assert [f.severity for f in found] == ["warning"]
    assert found[0].what.startswith("sft: not measured, since no row fits")


def test_a_pair_made_up_of_the_longest_demonstration_fits(file: Path) -> None:
    """One side is a word longer than the demonstration, which fits exactly; nobody need know."""
    there = patient(file)
    longest = max(tokens.length for row in there.demonstrations.rows for tokens in there.tokens(row))
    found = list(training_measures.pair_training(patient(file, f"preference.max_length={longest}")))
    assert not said(found, "problem")
    assert not said(found, "warning")
    assert any("methods.dmpo: 5 pairs" in what for what in said(found, "note"))


@pytest.mark.parametrize("budget", [None, 70])
def test_both_sides_of_a_pair_are_in_its_passes(file: Path, budget: int | None) -> None:
    """Four pairs, two at a time: no pass has more tokens than its two longest, and one has the longest."""
    with_pairs(file, [(2, 3), (4, 1), (5, 40), (1, 2)])
    there = patient(file)
    settings = there.config.method("dpo").model_copy(update={"max_tokens_per_batch": budget})
    rows = few_steps.rows_to_measure(there, there.pair_sample, settings)
    measured = few_steps.measure_pairs(there, settings, rows)
    sizes = sorted((sum(side.length for side in there.tokens(row)) for row in rows), reverse=True)
    assert measured.rows == 4
    if budget is None:
        assert measured.row_tokens == sizes[0]
        assert sizes[0] + sizes[-1] <= measured.pass_tokens <= sizes[0] + sizes[1]
    else:  # which counts what both sides share once
        assert measured.row_tokens < sizes[0]
        assert measured.row_tokens <= measured.pass_tokens <= max(measured.row_tokens, budget)


def test_a_long_rejected_side_takes_memory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tokens are in what is predicted: 2 rows at once, as long as the longest pair."""
    asked: list[int] = []
    predict = estimates.peak_memory

    def peak_memory(measured: MeasuredTraining, *, pass_tokens: int) -> float:
        asked.append(pass_tokens)
        return predict(measured, pass_tokens=pass_tokens)

    monkeypatch.setattr(estimates, "peak_memory", peak_memory)
    with_pairs(file, [(2, 3), (1, 70), (4, 1), (1, 2)])
    there = patient(file, "methods={dpo: {}}")
    list(training_measures.pair_training(there))
    assert asked == [2 * sum(side.length for side in there.tokens(there.pairs[1]))]


# ---- memory ----


def test_memory_is_released_before_each_measurement(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SFT, DMPO and DPO together, replies of exploration and of evaluation."""
    released: list[str] = []
    for module in (training_measures, decoding_measures):
        monkeypatch.setattr(module, "release_memory", lambda: released.append("released"))
    there = patient(file)
    for check, count in (
        (training_measures.sft_training, 1),
        (training_measures.pair_training, 2),
        (decoding_measures.decoding, 4),
    ):
        list(check(there))
        assert len(released) == count


def test_nothing_of_a_measurement_stays(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one would find its room taken."""
    models: list[weakref.ref[Any]] = []

    def sft_trainer(*args: Any, **options: Any) -> Any:
        trainer = trainings.sft_trainer(*args, **options)
        models.append(weakref.ref(trainer.model))
        return trainer

    monkeypatch.setattr(few_steps, "sft_trainer", sft_trainer)
    going_on = training_measures.sft_training(patient(file))
    next(going_on)
    release_memory()
    (model,) = models
    assert model() is None


# ---- what differs in cost ----


def test_what_differs_in_cost_is_measured_apart(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objectives that read the reference, those that do not, and each of somebody's own."""
    (tmp_path / "own_objectives.py").write_text(
        "from multiturn.objective import PAIR_OBJECTIVES\nmine = PAIR_OBJECTIVES['dpo']\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    measured: list[str] = []

    def measure_pairs(_: Patient, settings: PreferenceSettings, __: object) -> MeasuredTraining:
        measured.append(settings.objective)
        return MEASURED

    monkeypatch.setattr(training_measures, "measure_pairs", measure_pairs)
    methods = "dpo: {objective: dpo}, ipo: {objective: ipo}, simpo: {objective: simpo, beta: 2}"
    own = "own: {objective: 'own_objectives:mine'}, large: {objective: dpo, batch_size: 4}"
    there = patient(file, f"methods={{{methods}, {own}}}")
    found = list(training_measures.pair_training(there))
    assert measured == ["dpo", "simpo", "own_objectives:mine", "dpo"]
    about = [f.what.split(":")[0] for f in found if "predicted_bytes" in f.figures]
    assert about == ["methods.dpo", "methods.simpo", "methods.own (own_objectives", "methods.large"]
    (own_time,) = [what for what in said(found, "note") if "methods.own" in what]
    assert own_time.startswith("methods.own (own_objectives:mine): 5 pairs, 2 epochs: about ")


def test_no_copy_is_held_for_an_objective_without_reference(file: Path) -> None:
    held = {}
    for objective in ("dpo", "simpo"):
        there = patient(file, f"methods={{it: {{objective: {objective}}}}}", "preference.reference=live")
        held[objective] = workload.least_memory(there.config, there.facts) / there.facts.weights
    assert held == {"dpo": 20.0, "simpo": 16.0}


# ---- exploration and evaluation ----


@pytest.mark.parametrize(
    ("methods", "rounds", "count"),
    [
        ("{best_of_n: {}}", 1, 0),
        ("{rft: {}, best_of_n: {}}", 1, 1),
        ("{dmpo: {}}", 1, 1),
        ("{dmpo: {}, dpo: {}, rft: {}}", 1, 1),
        ("{dmpo: {}, dpo: {}, rft: {}, best_of_n: {}}", 3, 5),
        ("{dmpo: {}, on_chosen: {objective: sft}}", 2, 3),
    ],
)
def test_how_often_is_explored(file: Path, methods: str, rounds: int, count: int) -> None:
    """As often as the run's plan has it."""
    config = load_config(file, (f"methods={methods}", f"rounds={rounds}"))
    stages = [name for name, *_ in plan(open_run(config))]
    assert sum(name.partition(":")[0] == "explore" for name in stages) == count
    assert workload.explorations(config) == count
    assert list(workload.played_stages(config)) == (["explore", "evaluate"] if count else ["evaluate"])


def test_each_method_explores_anew(file: Path) -> None:
    """DMPO and DPO in three rounds: 1 + 2 * 2 explorations of 5 tasks."""
    notes = said(decoding_measures.decoding(patient(file, "rounds=3")), "note")
    assert notes[0].startswith("explore: 25 episodes ")
    (only,) = said(decoding_measures.decoding(patient(file, "methods={best_of_n: {}}")), "note")
    assert only.startswith("evaluate: 33 episodes ")


def test_a_policy_that_can_write_nothing(file: Path) -> None:
    """Then there is no speed to predict from."""
    found = list(decoding_measures.decoding(patient(file, "explore.max_context=20")))
    explore, evaluate = found
    assert explore.severity == "warning"
    assert explore.what.startswith("explore: the policy wrote nothing, so no time is predicted: none of 3 of")
    assert "explore.max_context" in explore.remedy
    assert evaluate.what.startswith("evaluate: 39 episodes ")


def test_speeds_of_unlike_settings_are_measured_apart(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[int, int, int | None]] = []

    def token_seconds(_: Patient, settings: DecodingSettings, rows: Sequence[Trajectory]) -> float:
        measured.append((len(rows), settings.max_new_tokens, settings.max_context))
        return 0.01

    monkeypatch.setattr(decoding_measures, "_token_seconds", token_seconds)
    for overrides, wanted in (
        (("evaluate.slots=3",), [(3, 40, None)]),
        ((), [(3, 40, None), (2, 40, None)]),
        (("evaluate.slots=3", "evaluate.max_new_tokens=9"), [(3, 40, None), (3, 9, None)]),
        (("evaluate.slots=3", "explore.max_context=300"), [(3, 40, 300), (3, 40, None)]),
    ):
        measured.clear()
        list(decoding_measures.decoding(patient(file, *overrides)))
        assert measured == wanted
