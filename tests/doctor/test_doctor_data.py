"""`multiturn doctor`: what it looks at, the expert's episodes and the pairs, and what it says of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from multiturn.doctor import checks, surroundings
from multiturn.doctor.made_up import made_up_conversations, pairs_like
from multiturn.doctor.patient import Patient
from multiturn.doctor.sample import LOOKED_AT, look_at
from multiturn.envs.alfred.environment import HouseholdEnvironment
from multiturn.jsonl import write_jsonl
from multiturn.pipeline.config import PromptSettings
from multiturn.pipeline.load import load_config
from multiturn.pipeline.manifest import Manifest
from multiturn.rollouts.store import RolloutStore, StoreHeader
from multiturn.trajectory import Message, Outcome, PreferencePair, Trajectory

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from multiturn.doctor import Finding


def said(found: Iterable[Finding], severity: str) -> list[str]:
    return [finding.what for finding in found if finding.severity == severity]


def patient(file: Path, *overrides: str) -> Patient:
    return Patient(load_config(file, overrides))


def side(turns: int, reply: str = "go") -> tuple[Message, ...]:
    """An assistant's side of so many turns."""
    seen, go_on = Message(role="user", content="seen"), Message(role="assistant", content=reply)
    return (go_on, *((seen, go_on) * (turns - 1)))


def pair(name: str, chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> PreferencePair:
    prompt = (Message(role="user", content="do it"),)
    return PreferencePair(id=name, task_id=name, prompt=prompt, chosen=chosen, rejected=rejected)


def write_pairs(file: Path, pairs: Sequence[PreferencePair]) -> None:
    folder = file.parent / "run"
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "pairs.jsonl", pairs)


def write_expert(file: Path, rows: Sequence[Trajectory]) -> None:
    header = StoreHeader(environment="tiny", agent="expert")
    with RolloutStore(file.parent / "run" / "expert.jsonl", header) as store:
        for number, row in enumerate(rows):
            store.append(dataclasses.replace(row, info={"job": number, **row.info}))


def episode(number: int, words: int = 1, *, reward: float = 1.0) -> Trajectory:
    messages = (Message(role="user", content="do it"), *side(1, "go " * words))
    return Trajectory(id=f"t{number}", task_id=f"t{number}", messages=messages, reward=reward)


# ---- the expert ----


def test_an_expert_that_can_play(file: Path) -> None:
    (finding,) = surroundings.expert(patient(file))
    assert finding.severity == "ok"
    assert finding.what == "the expert plays: 8 trajectories (a few tasks that the expert has played now)"


@pytest.mark.parametrize("why", ["no expert", "an expert that breaks", "no tasks", "a damaged file"])
def test_an_expert_that_cannot_play(file: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """The rest goes on with conversations that are made up."""

    def broken(_: HouseholdEnvironment) -> None:
        raise ZeroDivisionError("oh")

    there = patient(file)
    if why == "no expert":
        monkeypatch.setattr(HouseholdEnvironment, "expert_action", lambda _: None)
    elif why == "an expert that breaks":
        monkeypatch.setattr(HouseholdEnvironment, "expert_action", broken)
    elif why == "no tasks":
        there._splits["train"] = []
    else:
        there.directory.root.mkdir()
        there.directory.expert.write_text("no rollouts\n", encoding="utf-8")
    (finding,) = surroundings.expert(there)
    assert finding.severity == "problem"
    reason = {
        "no expert": "household has no expert, or it gives up at once: 8 episodes without a turn",
        "an expert that breaks": "ZeroDivisionError: oh",
        "no tasks": "split 'train' of household has no tasks",
        "a damaged file": "is not JSON",
    }[why]
    assert finding.what.startswith("the expert cannot play: ")
    assert reason in finding.what
    assert not there.real
    (taken, *_) = checks.template(there)
    assert taken.what == "the chat template takes 3 trajectories (made up, since the expert could not play)"


def test_an_environment_that_fails_now_and_then(file: Path) -> None:
    failed = dataclasses.replace(
        episode(1), outcome=Outcome.ENVIRONMENT_ERROR, reward=None, info={"fault": "no answer within 60 s"}
    )
    write_expert(file, [episode(0), failed])
    (warning,) = said(surroundings.expert(patient(file)), "warning")
    assert warning == "the environment failed in 1 of the expert's episodes, lastly: no answer within 60 s"


def test_a_turns_time_is_what_the_run_has_recorded(file: Path) -> None:
    """Of 10 episodes with 40 turns the last attempt has played 5, in 6 s: 0.3 s a turn."""
    there = patient(file)
    write_expert(file, [episode(0), episode(1)])
    collect = {"episodes": 10, "played": 5, "turns": 40, "seconds": 6.0}
    manifest = Manifest.open(there.directory.manifest, {})
    assert patient_after(file).turn_seconds == 0.0
    manifest.finish("expert", seconds=9.0, result={"collect": collect})
    assert patient_after(file).turn_seconds == pytest.approx(0.3)
    manifest.finish("expert", seconds=9.0, result={"collect": collect | {"played": 0}})
    assert patient_after(file).turn_seconds == 0.0


def patient_after(file: Path) -> Patient:
    """The run once its expert's episodes have been read."""
    there = patient(file)
    assert there.expert.source == "the run's own expert.jsonl"
    return there


def test_the_lengths_of_what_is_made_up_say_nothing(file: Path) -> None:
    overrides = ("sft.max_length=5", "explore.max_new_tokens=1", "evaluate.max_context=5")
    there = patient(file, "environment.options={size: enormous}", *overrides)
    assert list(checks.lengths(there)) == []
    assert list(checks.replies(there)) == []


# ---- many rows ----


def test_some_of_many_are_looked_at() -> None:
    """10 rows, of which 8 are looked at: the two longest, 2 and 7, and six of 0 1 3 4 5 6 8 9, its ends too.

    Of the eight others those at 0, 7 // 5, 14 // 5, 21 // 5, 28 // 5 and 7: 0, 1, 3, 5, 6 and 9.
    """
    sizes = [1, 1, 50, 1, 1, 1, 1, 60, 1, 1]
    sample = look_at(range(10), lambda row: sizes[row], most=8)
    assert list(sample.spread) == [0, 1, 3, 5, 6, 9]
    assert list(sample.rows) == [0, 1, 2, 3, 5, 6, 7, 9]
    assert (sample.total, sample.partly, sample.remark) == (10, "8 of 10 looked at", " (8 of 10 looked at)")
    everything = look_at(range(8), lambda row: sizes[row], most=8)
    assert (list(everything.rows), everything.partly, everything.remark) == (list(range(8)), "", "")


def test_what_stands_late_in_a_large_file_is_found(file: Path) -> None:
    """The last row is long, and only rows behind the first 256 are good enough to be imitated."""
    rows = [episode(number, reward=float(number >= LOOKED_AT)) for number in range(LOOKED_AT + 43)]
    write_expert(file, [*rows, episode(LOOKED_AT + 43, 60)])
    there = patient(file, "sft.max_length=50", "sft.tasks=null")
    looked = f"{LOOKED_AT} of {LOOKED_AT + 44} looked at"
    (expert,) = said(surroundings.expert(there), "ok")
    assert f"(the run's own expert.jsonl, {looked}: the longest, and others spread over all)" in expert
    (taken, some) = checks.template(there)
    assert (
        taken.what
        == f"the chat template takes {LOOKED_AT} trajectories (the run's own expert.jsonl, {looked})"
    )
    assert some.what == "44 of the expert's 300 trajectories reach expert.min_reward"
    (problem,) = said(checks.lengths(there), "problem")
    assert problem == "sft: 1 of 44 demonstrations are longer than sft.max_length 50"


def test_what_stands_late_among_many_pairs_is_found(file: Path) -> None:
    pairs = [pair(str(i), side(1), side(1, "no")) for i in range(LOOKED_AT + 43)]
    write_pairs(file, [*pairs, pair("long", side(1), side(1, "no " * 60))])
    there = patient(file, "preference.max_length=50")
    looked = f"{LOOKED_AT} of {LOOKED_AT + 44} looked at"
    found = list(checks.lengths(there))
    assert said(found, "problem") == [
        f"methods.{name}: 1 of {LOOKED_AT} pairs ({looked}) have a side that is longer than "
        f"methods.{name}.max_length 50"
        for name in ("dmpo", "dpo")
    ]
    # An average is over those that were not chosen for being long.
    (typical,) = [f for f in found if f.what.startswith("sides of pairs")]
    assert typical.figures["longest"] > 60
    assert typical.figures["mean"] < 30
    taken = said(checks.template(there), "ok")[1]
    source = f"both sides, the run's own pairs.jsonl, {looked}"
    assert taken == f"the chat template takes {LOOKED_AT} pairs ({source})"


# ---- the template ----


def test_a_template_that_refuses(file: Path, tmp_path: Path) -> None:
    (tmp_path / "reversed.jinja").write_text(
        "{% for message in messages | reverse %}{{ message['content'] }}{% endfor %}", encoding="utf-8"
    )
    (problem, *_) = checks.template(patient(file, f"prompt.chat_template={tmp_path / 'reversed.jinja'}"))
    assert problem.severity == "problem"
    assert problem.what.startswith("the chat template refuses 8 of 8 trajectories (")


def test_a_template_that_writes_the_date(file: Path, tmp_path: Path) -> None:
    """As Llama's does from 3.2 on."""
    dated = (
        "{{ strftime_now('%d %b %Y') }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    )
    (tmp_path / "dated.jinja").write_text(dated, encoding="utf-8")
    (warned,) = said(
        checks.template(patient(file, f"prompt.chat_template={tmp_path / 'dated.jinja'}")), "warning"
    )
    assert warned.startswith("the chat template writes the current date")
    assert not said(checks.template(patient(file)), "warning")


def test_a_template_that_refuses_rejected_sides(file: Path) -> None:
    """What only a policy would write stands in no demonstration."""
    empty = (Message(role="assistant", content="go", token_ids=()),)
    write_pairs(file, [pair("good", side(1), side(2)), pair("bad", side(1), side(1))])
    there = patient(file)
    there.pairs[1] = dataclasses.replace(there.pairs[1], rejected=empty)
    (problem,) = said(checks.template(there), "problem")
    assert problem.startswith(
        "the chat template refuses 1 of 2 pairs (both sides, the run's own pairs.jsonl)"
    )
    assert "bad, rejected: assistant turn 0 has empty token_ids" in problem


def test_no_demonstration_is_good_enough(file: Path) -> None:
    there = patient(file)
    object.__setattr__(there.config.expert, "min_reward", 1.5)
    problems = said(list(checks.template(there)), "problem")
    assert any("none of the expert's 8 trajectories" in what for what in problems)


@pytest.mark.parametrize(
    ("instructions", "role", "roles"),
    [
        ("none", "system", ["user"]),
        ("Be brief.", "system", ["system", "user"]),
        ("environment", "user", ["user"]),
    ],
)
def test_made_up_conversations_are_as_the_prompt_says(instructions: str, role: str, roles: list[str]) -> None:
    prompt = PromptSettings.model_validate({"instructions": instructions, "instructions_role": role})
    rows = made_up_conversations(prompt)
    assert [row.num_turns for row in rows] == [1, 2, 3]
    assert [message.role for message in rows[0].prompt] == roles
    assert rows[0].messages[len(roles)].content.startswith("Thought: ")
    assert ("Be brief." in rows[0].prompt[0].content) == (instructions == "Be brief.")
    (first, *_) = pairs_like(rows)
    assert first.chosen[0].content != first.rejected[0].content
    assert first.chosen[1:] == first.rejected[1:]


# ---- lengths ----


@pytest.mark.parametrize(("overlong", "severity"), [("error", "problem"), ("cut", "warning")])
def test_conversations_that_are_too_long(file: Path, overlong: str, severity: str) -> None:
    found = list(checks.lengths(patient(file, "sft.max_length=40", f"sft.overlong={overlong}")))
    (what,) = said(found, severity)
    assert what.startswith("sft: 6 of 6 demonstrations are longer than sft.max_length 40")
    found = list(checks.lengths(patient(file, "methods.dpo.max_length=40", "methods.dpo.overlong=drop")))
    assert [what.split(":")[0] for what in said(found, "warning")] == ["methods.dpo"]


def test_demonstrations_that_sft_does_not_take_may_be_longer(file: Path) -> None:
    """SFT takes the first six, RFT eight, and any of the expert's may be the chosen side of a pair."""
    write_expert(file, [*(episode(number) for number in range(7)), episode(7, 60)])
    methods = "methods={dpo: {max_length: 50}, rft: {tasks: 8, max_length: 50}}"
    there = patient(file, "sft.max_length=50", methods)
    assert [what.split(" demo")[0] for what in said(checks.lengths(there), "problem")] == [
        "methods.dpo: 1 of 8",
        "methods.rft: 1 of 8",
    ]


def test_rejected_sides_that_are_too_long(file: Path) -> None:
    """The control learns the chosen sides alone; SFT learns the demonstrations, whatever the pairs are."""
    write_pairs(file, [pair("a", side(1), side(1)), pair("b", side(1), side(60))])
    there = patient(file, "preference.max_length=60", "methods={dmpo: {}, sft_on_pairs: {objective: sft}}")
    assert said(checks.lengths(there), "problem") == [
        "methods.dmpo: 1 of 2 pairs have a side that is longer than methods.dmpo.max_length 60"
    ]


def test_a_context_that_is_too_short(file: Path) -> None:
    there = patient(file, "model.scratch.max_positions=40", "sft.max_length=50")
    problems = said(list(checks.lengths(there)), "problem")
    wanted = "methods.dmpo: 8 of 8 demonstrations are longer than the model's context 40"
    assert wanted in problems
    warnings = said(list(checks.lengths(there)), "warning")
    assert warnings == ["sft.max_length is 50, and the model's context 40 tokens"]
    assert any("episodes end at 40 tokens" in what for what in said(list(checks.replies(there)), "warning"))


def test_replies_that_are_cut_off(file: Path) -> None:
    assert not said(list(checks.replies(patient(file))), "warning")
    overrides = ("explore.max_new_tokens=5", "evaluate.max_context=60")
    found = list(checks.replies(patient(file, *overrides)))
    cut, short = said(found, "warning")
    assert cut.startswith("explore.max_new_tokens is 5, but ")
    assert short.startswith("evaluate: episodes end at 60 tokens")
    # Where nothing is explored, its settings matter to nobody.
    (short,) = said(checks.replies(patient(file, *overrides, "methods={best_of_n: {}}")), "warning")
    assert short.startswith("evaluate: ")


# ---- pairs ----


def test_pairs_that_are_few_or_uneven(file: Path) -> None:
    write_pairs(file, [pair(str(i), side(1 + i % 2), side(5 + i % 2)) for i in range(20)])
    assert "20 pairs" in said(list(checks.pairs(patient(file))), "ok")
    found = list(checks.pairs(patient(file, "preference.batch_size=32")))
    few, *bias = said(found, "warning")
    assert few == "20 pairs are fewer than a batch of 32: an epoch is one step"
    assert bias
    assert all(what.startswith("length bias") for what in bias)


def test_pairs_that_cannot_be_read(file: Path) -> None:
    """That is one check's problem; the others do without."""
    write_pairs(file, [pair("a", side(1), side(2))])
    with (file.parent / "run" / "pairs.jsonl").open("a") as lines:
        lines.write("{\n")
    there = patient(file)
    (problem,) = said(checks.pairs(there), "problem")
    assert "pairs.jsonl:2: is not JSON" in problem
    assert not said([*checks.template(there), *checks.lengths(there)], "problem")
