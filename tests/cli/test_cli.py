"""What a user sees: help, a message and an exit code for every bad input, and the stages one at a time."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from multiturn.cli.app import run_app
from multiturn.jsonl import read_pairs
from multiturn.rollouts.store import read_rollouts

VERBS = ("run", "sft", "rollout", "pairs", "train", "evaluate", "report")
PAIR = {
    "prompt": [{"role": "user", "content": "Open the door."}],
    "chosen": [{"role": "assistant", "content": "open door"}],
    "rejected": [
        {"role": "assistant", "content": "sleep"},
        {"role": "user", "content": "Nothing happens."},
        {"role": "assistant", "content": "open door"},
    ],
}
HOUSEHOLD = ["--env", "household", "--env-option", "size=tiny", "--chat-template", "compact"]
ACTION = ["--format", "action", "--instructions", "none"]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MULTITURN_PROGRESS", "off")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model on disk, as a user's own would be."""
    from multiturn.models import save_policy, scratch_policy

    folder = tmp_path_factory.mktemp("model")
    policy = scratch_policy(vocab_size=400, hidden_size=32, layers=1, heads=2)
    save_policy(policy, folder / "tiny")
    return str(folder / "tiny")


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command that must fail; its exit code and what it says."""
    code = run_app(arguments)
    said = capsys.readouterr().err
    assert code != 0
    assert "Traceback" not in said
    return code, said


def write(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Example: multiturn {verb}" in re.sub(r"\s+", " ", shown.replace("`", ""))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["--version"]) == 0
    assert re.fullmatch(r"multiturn \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_a_missing_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert fails(capsys, "run", "absent.yaml") == (
        2,
        "error: absent.yaml: cannot be read (No such file or directory); check the path\n",
    )


def test_an_unknown_key(capsys: pytest.CaptureFixture[str]) -> None:
    path = write("a.yaml", "name: a\nenvironment: {name: household}\nsft: {epoch: 1}\n")
    code, said = fails(capsys, "run", path)
    assert code == 2
    assert "a.yaml: sft.epoch: unknown key; did you mean 'epochs'?" in said


def test_an_unknown_environment(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = fails(capsys, "rollout", "--env", "houshold", "--output", "x.jsonl")
    assert code == 2
    assert "household" in said


def test_an_unknown_environment_option(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["rollout", "--env", "household", "--env-option", "sise=tiny", "--output", "x.jsonl"]
    code, said = fails(capsys, *arguments)
    assert code == 2
    assert "size" in said


def test_an_environment_option_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = fails(capsys, "rollout", "--env", "household", "--env-option", "size", "--output", "x.jsonl")
    assert code == 2
    assert "--env-option 'size': write it as key=value" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["rollout", *HOUSEHOLD, "--output", "x.jsonl", "--top-p", "0.9"],
            "--top-p has no effect without --model",
        ),
        (["bench", "--count", "4"], "--count has no effect without --pairs"),
        (["bench", "--chat-template", "compact"], "--chat-template has no effect without --pairs"),
    ],
)
def test_an_option_without_effect(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    code, error = fails(capsys, *arguments)
    assert code == 2
    assert said in error


@pytest.mark.parametrize("output", ["folder", "a.txt/x.jsonl"])
def test_an_output_that_cannot_be_written(capsys: pytest.CaptureFixture[str], output: str) -> None:
    Path("folder").mkdir()
    write("a.txt", "")
    code, said = fails(capsys, "rollout", *HOUSEHOLD, *ACTION, "--tasks", "1", "--output", output)
    assert code == 1
    assert said.startswith(f"error: {output.partition('/')[0]}: ")
    assert "check the path" in said


def test_names_of_files_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["rollout", *HOUSEHOLD, *ACTION, "--tasks", "1", "--output", "[red]a[/b].jsonl"]
    assert run_app(arguments) == 0
    assert capsys.readouterr().out.startswith("[red]a[/b].jsonl: 1 episodes")


def test_a_message_in_place_of_an_exit_code_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """SystemExit("text") is Python's way to say 1; a library may use it."""

    def leave(*_: object, **__: object) -> None:
        raise SystemExit("no more")

    monkeypatch.setattr("multiturn.cli.app.app", leave)
    assert run_app(["env", "list"]) == 1


def test_a_poor_terminal_gets_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    from multiturn import cli

    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    cli._print_what_can_be_printed()
    print("\N{MINUS SIGN}0.14", flush=True)  # noqa: T201 - what is tested
    assert written.getvalue() == b"?0.14\n"


def test_an_unknown_split(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = fails(capsys, "rollout", *HOUSEHOLD, "--split", "tset", "--output", "x.jsonl")
    assert code == 2
    assert "test" in said


def test_more_tasks_than_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*HOUSEHOLD, "--env-option", "train=5", "--tasks", "6", "--output", "x.jsonl"]
    code, said = fails(capsys, "rollout", *arguments)
    assert code == 2
    assert "6 tasks asked for, but split 'train' of household has 5" in said


def test_an_unknown_option(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = fails(capsys, "train", "pairs.jsonl", "--modle", "x")
    assert code == 2
    assert "--modle" in said


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--gamma", "2", "--gamma: gamma: input should be less than or equal to 1 (got 2"),
        ("--beta", "0", "--beta: beta: input should be greater than 0"),
        ("--objective", "ppo", "--objective: objective: use one of dmpo, dpo, ipo, hinge"),
        ("--set", "gama=1", "--set: gama: unknown key; did you mean 'gamma'?"),
        ("--set", "gamma=3", "--set: gamma: input should be less than or equal to 1 (got 3)"),
        ("--set", "objective.x=1", "--set 'objective.x=1': 'objective' is not a section"),
        ("--set", "schedule=cosin", "--set: schedule: input should be 'linear', 'cosine'"),
        ("--set", "micro_batch_size=5", "batch_size 32 is no multiple of micro_batch_size 5; change either"),
        ("--precision", "fp16", "--precision: there is no 'fp16'; use auto, bf16 or fp32"),
    ],
)
def test_bad_training_settings(
    capsys: pytest.CaptureFixture[str], option: str, value: str, complaint: str
) -> None:
    path = write("pairs.jsonl", json.dumps(PAIR) + "\n")
    arguments = ["train", path, "--model", "m", "--output", "out", option, value]
    code, said = fails(capsys, *arguments)
    assert code == 2
    assert complaint in said


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "pairs.jsonl: cannot be read"),
        ("", "pairs.jsonl: holds no pairs; there is nothing to train on"),
        (json.dumps(PAIR) + "\n{broken\n", "pairs.jsonl:2: is not JSON"),
        (json.dumps([1]), "pairs.jsonl:1: a record must be a JSON object"),
        (json.dumps({**PAIR, "chosen": None}), "pairs.jsonl:1: 'chosen' is missing or not a list"),
        (
            json.dumps({**PAIR, "chosen": [{"role": "user", "content": "hm"}]}),
            "pairs.jsonl:1: chosen has no assistant turn; drop the pair or check the roles",
        ),
        (
            json.dumps({**PAIR, "chosen": [{"role": "robot", "content": "hm"}]}),
            "pairs.jsonl:1: a message's role is 'robot'; use one of system, user, assistant, tool",
        ),
        (json.dumps({**PAIR, "schema": 9}), "pairs.jsonl:1: a preference pair has schema 9"),
    ],
)
def test_bad_pairs(capsys: pytest.CaptureFixture[str], text: str | None, complaint: str) -> None:
    if text is not None:
        write("pairs.jsonl", text)
    code, said = fails(capsys, "train", "pairs.jsonl", "--model", "m", "--output", "out")
    assert code == 3
    assert complaint in said
    assert not Path("out").exists()


def test_a_model_that_is_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = write("pairs.jsonl", json.dumps(PAIR) + "\n")
    code, said = fails(capsys, "train", path, "--model", "./nowhere", "--output", "out")
    assert code == 2
    assert "nowhere" in said


def test_a_template_that_is_not_prefix_stable(capsys: pytest.CaptureFixture[str], tiny_model: str) -> None:
    template = write(
        "forgetful.jinja",
        "{% for m in messages %}<|im_start|>{{ m.role if loop.last else 'earlier' }}\n"
        "{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    )
    path = write("pairs.jsonl", json.dumps({**PAIR, "id": "first"}) + "\n")
    arguments = ["train", path, "--model", tiny_model, "--output", "out", "--chat-template", template]
    code, said = fails(capsys, *arguments)
    assert code == 3
    assert "first" in said
    assert "prefix" in said


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "t.jsonl: cannot be read"),
        ("{broken", "t.jsonl:1: is not JSON"),
        ('{"schema": 1, "messages": []}', "t.jsonl:1: 'id' is missing"),
        ('{"id": "a"}', "t.jsonl: none of the first 1 rows is in a format that is known (their columns: id)"),
        ("", "none of 0 trajectories has a return of 1.0"),
    ],
)
def test_bad_trajectories(capsys: pytest.CaptureFixture[str], text: str | None, complaint: str) -> None:
    if text is not None:
        write("t.jsonl", text)
    code, said = fails(capsys, "sft", "t.jsonl", "--model", "m", "--output", "out")
    assert code == 3
    assert complaint in said


def test_an_episode_that_its_environment_cut_short_is_no_demonstration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It has no return, as a plain conversation has none; but nobody may learn from it."""
    record = {"id": "a", "task_id": "a", "messages": PAIR["rejected"], "outcome": "environment_error"}
    path = write("t.jsonl", json.dumps(record) + "\n")
    code, said = fails(capsys, "sft", path, "--model", "m", "--output", "out")
    assert code == 3
    assert "t.jsonl: none of 1 trajectories has a return of 1.0; lower --min-reward" in said


def test_a_seed_that_nothing_can_be_seeded_with(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = fails(capsys, "sft", "t.jsonl", "--output", "out", "--seed", str(2**32))
    assert code == 2
    assert "4294967295" in said
    path = write("a.yaml", f"name: a\nenvironment: {{name: household}}\nseed: {2**32}\n")
    code, said = fails(capsys, "run", path)
    assert code == 2
    assert "a.yaml: seed: " in said


def test_rollouts_that_make_no_pair(capsys: pytest.CaptureFixture[str]) -> None:
    record = {"id": "a", "task_id": "a", "messages": PAIR["rejected"], "reward": 1.0}
    path = write("t.jsonl", json.dumps(record) + "\n")
    code, said = fails(capsys, "pairs", "--experts", path, "--rollouts", path, "--output", "pairs.jsonl")
    assert code == 3
    assert "pairs.jsonl: is not written: none of 1 rollouts makes a preference pair (dropped: 1 tie)" in said
    assert not Path("pairs.jsonl").exists()


def test_an_evaluation_shows_what_was_asked_for(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may hold more than that: another split's episodes are not averaged into these."""
    shown: list[list[str]] = []
    monkeypatch.setattr(
        "multiturn.pipeline.results.show_evaluation",
        lambda _, trajectories: shown.append([t.split for t in trajectories]),
    )
    evaluate = ["evaluate", *HOUSEHOLD, *ACTION, "--model", tiny_model, "--output", "e.jsonl"]
    evaluate += ["--max-turns", "2", "--max-new-tokens", "4"]
    assert run_app([*evaluate, "--split", "test", "--tasks", "2"]) == 0
    assert run_app([*evaluate, "--split", "train", "--tasks", "1"]) == 0
    assert len(read_rollouts("e.jsonl")) == 3
    assert shown == [["test", "test"], ["train"]]


def test_an_evaluation_of_no_task(capsys: pytest.CaptureFixture[str], tiny_model: str) -> None:
    none = ["--env-option", "test=0", "--output", "e.jsonl"]
    code, said = fails(capsys, "evaluate", *HOUSEHOLD, *none, "--model", tiny_model)
    assert code == 3
    assert "there are no evaluation episodes" in said


def test_a_report_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = fails(capsys, "report", "nowhere")
    assert code == 4
    assert "nowhere: holds no run" in said


def test_environments_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["env", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("household", "alfworld", "scienceworld"))
    assert run_app(["env", "list", "household"]) == 0
    assert "task_types" in capsys.readouterr().out


def test_an_environment_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["env", "check", "household", "--env-option", "size=tiny", "--episodes", "2"]) == 0
    told = capsys.readouterr().out
    assert "steps/s" in told
    assert "random:      mean return" in told, "the random agent's list of commands is asked for by itself"


def test_the_stages_one_at_a_time(
    capsys: pytest.CaptureFixture[str], tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULTITURN_PROGRESS", "plain")
    small = [*HOUSEHOLD, *ACTION, "--max-turns", "14"]
    decoding = ["--slots", "2", "--max-new-tokens", "8"]
    training = ["--precision", "fp32", "--chat-template", "compact", "--set", "batch_size=2"]

    assert run_app(["rollout", *small, "--tasks", "4", "--output", "expert.jsonl"]) == 0
    lost = '{"schema": 1, "id": "lost", "task_id": "lost", "messages": [], "outcome": "environment_error"}\n'
    low = read_rollouts("expert.jsonl")[0].to_json() | {"id": "low", "reward": 0.5}
    lines = Path("expert.jsonl").read_text(encoding="utf-8").split("\n", 1)[1]
    write("mixed.jsonl", lines + json.dumps(low) + "\n" + lost)
    capsys.readouterr()
    assert run_app(["sft", "mixed.jsonl", "--model", tiny_model, "--output", "sft", *training]) == 0
    told = "mixed.jsonl: 4 of 6 are learned from; left out: 1 ended by an error of the environment, "
    assert f"{told}1 with a return below 1 (--min-reward)\n" in capsys.readouterr().err
    again = ["rollout", *small, *decoding, "--model", "sft/model", "--tasks", "4"]
    again += ["--output", "rollouts.jsonl"]
    assert run_app(again) == 0
    assert len(read_rollouts("rollouts.jsonl")) == 4
    played = Path("rollouts.jsonl").read_bytes()
    assert run_app(again) == 0
    assert Path("rollouts.jsonl").read_bytes() == played

    code, said = fails(capsys, *again, "--temperature", "0.5")
    assert code == 4
    assert "rollouts.jsonl" in said
    assert Path("rollouts.jsonl").read_bytes() == played

    make_pairs = ["pairs", "--experts", "expert.jsonl", "--rollouts", "rollouts.jsonl"]
    assert run_app([*make_pairs, "--output", "pairs.jsonl"]) == 0
    assert len(read_pairs("pairs.jsonl")) == 4
    assert run_app(["train", "pairs.jsonl", "--model", "sft/model", "--output", "dmpo", *training]) == 0
    assert Path("dmpo/model/model.safetensors").is_file()
    evaluate = ["evaluate", *small, *decoding, "--model", "dmpo/model", "--tasks", "3", "--output", "e.jsonl"]
    assert run_app(evaluate) == 0
    assert "0.00" in capsys.readouterr().out
