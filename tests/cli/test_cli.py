"""What a user sees: help, a message and an exit code for every bad input, and the stages one at a time."""

from __future__ import annotations

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
        ("--gamma", "2", "--set: gamma: input should be less than or equal to 1 (got 2"),
        ("--beta", "0", "--set: beta: input should be greater than 0"),
        ("--objective", "ppo", "--set: objective: input should be 'dmpo' or 'dpo' (got 'ppo')"),
        ("--set", "gama=1", "--set: gama: unknown key; did you mean 'gamma'?"),
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
        (json.dumps([1]), "pairs.jsonl:1: a preference pair must be a JSON object"),
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
        ('{"id": "a"}', "t.jsonl:1: 'task_id' is missing"),
        ("", "none of 0 trajectories has a return of 1.0"),
    ],
)
def test_bad_trajectories(capsys: pytest.CaptureFixture[str], text: str | None, complaint: str) -> None:
    if text is not None:
        write("t.jsonl", text)
    code, said = fails(capsys, "sft", "t.jsonl", "--model", "m", "--output", "out")
    assert code == 3
    assert complaint in said


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
    assert "steps/s" in capsys.readouterr().out


def test_the_stages_one_at_a_time(capsys: pytest.CaptureFixture[str], tiny_model: str) -> None:
    small = [*HOUSEHOLD, *ACTION, "--max-turns", "14"]
    decoding = ["--slots", "2", "--max-new-tokens", "8"]
    training = ["--precision", "fp32", "--chat-template", "compact", "--set", "batch_size=2"]

    assert run_app(["rollout", *small, "--tasks", "4", "--output", "expert.jsonl"]) == 0
    assert run_app(["sft", "expert.jsonl", "--model", tiny_model, "--output", "sft", *training]) == 0
    again = [
        "rollout",
        *small,
        *decoding,
        "--model",
        "sft/model",
        "--tasks",
        "4",
        "--output",
        "rollouts.jsonl",
    ]
    assert run_app(again) == 0
    assert len(read_rollouts("rollouts.jsonl")) == 4
    played = Path("rollouts.jsonl").read_bytes()
    assert run_app(again) == 0
    assert Path("rollouts.jsonl").read_bytes() == played

    code, said = fails(capsys, *again, "--temperature", "0.5")
    assert code == 4
    assert "rollouts.jsonl" in said
    assert Path("rollouts.jsonl").read_bytes() == played

    make_pairs = [
        "pairs",
        "--experts",
        "expert.jsonl",
        "--rollouts",
        "rollouts.jsonl",
        "--output",
        "pairs.jsonl",
    ]
    assert run_app(make_pairs) == 0
    assert len(read_pairs("pairs.jsonl")) == 4
    assert run_app(["train", "pairs.jsonl", "--model", "sft/model", "--output", "dmpo", *training]) == 0
    assert Path("dmpo/model/model.safetensors").is_file()
    evaluate = ["evaluate", *small, *decoding, "--model", "dmpo/model", "--tasks", "3", "--output", "e.jsonl"]
    assert run_app(evaluate) == 0
    assert "0.00" in capsys.readouterr().out
