"""`multiturn inspect` as a command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from multiturn.cli.app import app
from multiturn.errors import ConfigError
from multiturn.models import save_policy, scratch_policy
from multiturn.rollouts.store import RolloutStore, StoreHeader
from multiturn.trajectory import Message, Outcome, Trajectory

if TYPE_CHECKING:
    from pathlib import Path

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("scratch")
    save_policy(scratch_policy(seed=0), folder / "model")
    return str(folder / "model")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [
        {
            "id": f"pair-{word}",
            "prompt": [{"role": "user", "content": "go"}],
            "chosen": [{"role": "assistant", "content": word}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for word in ("yes", "well")
    ]
    lines = [json.dumps(rows[0]), "{broken", json.dumps(rows[1])]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "pairs.jsonl"


def run(*arguments: str) -> tuple[int, str]:
    result = RUNNER.invoke(app, ["inspect", *arguments, "--chat-template", "compact"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


@pytest.mark.parametrize("wanted", [("--row", "3"), ("--id", "pair-well")])
def test_one_row_as_json(model: str, pairs: Path, wanted: tuple[str, str]) -> None:
    code, out = run(str(pairs), "--model", model, "--json", *wanted)
    shown = json.loads(out)
    assert (code, shown["id"]) == (0, "pair-well")
    assert [side["name"] for side in shown["sides"]] == ["chosen", "rejected"]
    assert shown["sides"][0]["weights"] == [1.0]


def test_lines_where_there_is_no_terminal(model: str, pairs: Path) -> None:
    _, out = run(str(pairs), "--model", model, "--objective", "dpo")
    assert out.startswith('# "pair-yes"\n# chosen, ')
    assert "\nside\ttoken\tid\tturn\tscored\tweight\ttext\nchosen\t0\t" in out


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_one_side(model: str, pairs: Path, side: str) -> None:
    _, out = run(str(pairs), "--model", model, "--side", side)
    cells = [line.split("\t") for line in out.splitlines() if not line.startswith("#")]
    assert {line[0] for line in cells[1:]} == {side}
    assert "# fork: " in out


def test_episodes_have_a_header_and_no_sides(model: str, tmp_path: Path) -> None:
    """The header is line 1 of the file; the first episode, line 2, is what is shown without --row."""
    path = tmp_path / "episodes.jsonl"
    messages = (Message(role="user", content="go"), Message(role="assistant", content="went"))
    with RolloutStore(path, StoreHeader(environment="e", agent="a")) as store:
        for name in ("first", "second"):
            store.append(
                Trajectory(
                    id=name,
                    task_id=name,
                    environment="e",
                    messages=messages,
                    outcome=Outcome.COMPLETED,
                    reward=1.0,
                )
            )
    assert json.loads(run(str(path), "--model", model, "--json")[1])["id"] == "first"
    assert json.loads(run(str(path), "--model", model, "--json", "--row", "3")[1])["id"] == "second"
    with pytest.raises(ConfigError, match="this row is a trajectory"):
        run(str(path), "--model", model, "--side", "chosen")


def test_the_models_own_limit_holds_as_in_training(pairs: Path, tmp_path: Path) -> None:
    save_policy(scratch_policy(seed=0, max_positions=4), tmp_path / "short")
    code, out = run(str(pairs), "--model", str(tmp_path / "short"), "--check-all")
    assert (code, "max_length is 4" in out) == (1, True)
    code, _ = run(str(pairs), "--model", str(tmp_path / "short"), "--check-all", "--max-length", "99")
    assert code == 1  # the broken line alone


def test_checking_all_rows_fails_where_one_is_refused(model: str, pairs: Path) -> None:
    code, out = run(str(pairs), "--model", model, "--check-all")
    assert code == 1
    assert out.startswith("2 of 3 rows can be trained on (pairs)\n")
    assert f"{pairs}:2: is not JSON" in out
    code, out = run(str(pairs), "--model", model, "--check-all", "--json")
    assert (code, json.loads(out)["usable"]) == (1, 2)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (("--row", "2"), "row 2 of .* is no usable row"),
        (("--row", "4"), "has 3 rows and no row 4"),
        (("--id", "pair-yse"), "none with the id 'pair-yse'"),
        (("--objective", "dmop"), "did you mean 'dmpo'"),
        (("--weighting", "lsat"), "did you mean 'last'"),
        (("--objective", "sft", "--weighting", "last"), "has no effect on sft"),
        (("--objective", "sft", "--side", "rejected"), "there is no rejected side"),
        (("--check-all", "--row", "1"), "--check-all looks at every row"),
        (("--row", "1", "--id", "pair-yes"), "--row and --id name one row each"),
    ],
)
def test_what_cannot_be_shown_is_named(
    model: str, pairs: Path, wanted: tuple[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(str(pairs), "--model", model, *wanted)
