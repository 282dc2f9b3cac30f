"""`alfworld`: where its games come from, which of them there are, smaller rooms, and the real games."""

from __future__ import annotations

import json
import lzma
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from test_alfred_engine import KITCHEN
from test_alfred_environments import HEAT, run_expert, three_games, write_compact

from multiturn.envs.alfred import TASK_TYPES, AlfworldEnvironment, alfworld, parse_problem
from multiturn.envs.alfred.pruning import prune
from multiturn.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MULTITURN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MULTITURN_ALFWORLD_DATA", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return three_games(tmp_path)


def write_game_file(
    root: Path, game_id: str, *, put: str = "put {o} in/on {r}", solvable: bool = True
) -> Path:
    grammar = (
        'grammar :: """{"task": [{"rhs": "Your task is to: heat some apple and put it in fridge."}]}""";\n'
        f'action PutObject {{ template :: "{put}"; }}'
    )
    path = root / "json_2.1.1" / "valid_unseen" / game_id / "game.tw-pddl"
    path.parent.mkdir(parents=True)
    game = {"pddl_domain": "", "grammar": grammar, "pddl_problem": KITCHEN, "solvable": solvable}
    path.write_text(json.dumps(game), encoding="utf-8")
    return path


def test_alfworld_says_what_to_set_when_the_games_are_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MULTITURN_ALFWORLD_DATA"):
        alfworld()
    with pytest.raises(ConfigError, match="is not a folder"):
        alfworld(path=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="there are no games in"):
        alfworld(path=str(tmp_path))


def test_alfworld_finds_the_games_by_the_environment_variable(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULTITURN_ALFWORLD_DATA", str(data))
    env = alfworld()
    assert {task.type for task in env.tasks("train")} == {
        "pick_heat_then_place_in_recep",
        "pick_and_place_simple",
        "look_at_obj_in_light",
    }
    assert {task.id for task in env.tasks("train")} >= {f"train/{HEAT}"}
    with pytest.raises(ConfigError, match="'valid_seen' are not there; the folder has train"):
        env.tasks("valid_seen")
    with pytest.raises(ConfigError, match="has no split 'test'"):
        env.tasks("test")


def test_alfworld_filters(data: Path) -> None:
    def ids(**options: Any) -> list[str]:
        return [task.id for task in alfworld(path=str(data), **options).tasks("train")]

    everything = ids()
    assert len(everything) == 3
    assert ids(task_types=["pick_heat_then_place_in_recep"]) == [f"train/{HEAT}"]
    assert ids(limit=2) == everything[:2]
    assert ids(largest_room=6) == everything
    assert ids(largest_room=5) == []
    left_out = alfworld(path=str(data), task_types=["pick_and_place_simple"])
    with pytest.raises(ConfigError, match="the options may leave tasks out"):
        left_out.reset(f"train/{HEAT}")
    assert left_out.fingerprint == alfworld(path=str(data)).fingerprint


def test_alfworld_reads_its_cache_and_rebuilds_a_broken_one(data: Path, own_cache: Path) -> None:
    expected = alfworld(path=str(data)).tasks("train")
    (cached,) = (own_cache / "alfworld").iterdir()
    made = cached.stat().st_mtime_ns
    assert alfworld(path=str(data)).tasks("train") == expected
    assert cached.stat().st_mtime_ns == made
    whole = cached.read_bytes()
    with zipfile.ZipFile(cached) as archive:
        index = archive.getinfo("index")
        begins = index.header_offset + 30 + len("index")
    # Cut off, and damaged in the middle so that it cannot be unpacked or holds something else.
    spoilt = [
        whole[:begins] + fill * index.compress_size + whole[begins + index.compress_size :]
        for fill in (b"\xff", b"\0")
    ]
    for content in (whole[:100], *spoilt):
        cached.write_bytes(content)
        assert alfworld(path=str(data)).tasks("train") == expected
        assert cached.read_bytes() != content


def test_alfworld_does_without_a_cache_that_cannot_be_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "a file"
    blocked.touch()
    monkeypatch.setenv("MULTITURN_CACHE", str(blocked))
    assert len(alfworld(path=str(data)).tasks("train")) == 3


@pytest.mark.parametrize(
    "line",
    [
        "{broken",
        '{"id": "a/b"}',
        '{"id": 1, "task": "x", "pddl": "y"}',
        "[]",
        "[" * 100_000,
        json.dumps({"id": HEAT, "task": "x", "pddl": ""}),
    ],
)
def test_alfworld_names_file_and_line_of_a_bad_row(tmp_path: Path, line: str) -> None:
    with lzma.open(tmp_path / "train.jsonl.xz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"id": HEAT, "task": "x", "pddl": KITCHEN}) + f"\n{line}\n")
    with pytest.raises(DataError, match=r"train\.jsonl\.xz:2: is not a row"):
        alfworld(path=str(tmp_path)).tasks("train")


def test_alfworld_names_a_game_that_cannot_be_used(tmp_path: Path) -> None:
    write_compact(tmp_path, [{"id": HEAT, "task": "x", "pddl": "(define (problem x))"}])
    env = alfworld(path=str(tmp_path))
    with pytest.raises(DataError, match=f"{HEAT}.*no section :init"):
        env.reset(f"train/{HEAT}")


def test_alfworld_reads_the_layout_of_its_own_download(tmp_path: Path) -> None:
    write_game_file(tmp_path, HEAT)
    write_game_file(tmp_path, "pick_and_place_simple-Mug-None-Shelf-2/trial_2", solvable=False)
    write_game_file(tmp_path, "pick_and_place_with_movable_recep-Mug-Cup-Shelf-2/trial_3")
    write_game_file(tmp_path, "pick_and_place_simple-AppleSliced-None-Shelf-2/trial_4")
    newer = HEAT.replace("trial_1", "trial_5")
    write_game_file(tmp_path, newer, put="move {o} to {r}")
    for path in (tmp_path, tmp_path / "json_2.1.1"):
        env = alfworld(path=str(path))
        assert {task.id for task in env.tasks("valid_unseen")} == {
            f"valid_unseen/{HEAT}",
            f"valid_unseen/{newer}",
        }
        step = env.reset(f"valid_unseen/{HEAT}")
        assert step.observation.endswith("Your task is to: heat some apple and put it in fridge.")
        assert run_expert(env, f"valid_unseen/{HEAT}")[0]
        env.reset(f"valid_unseen/{newer}")
        assert env.step("go to fridge 1").observation == "You arrive at fridge 1. The fridge 1 is closed."
        assert run_expert(env, f"valid_unseen/{newer}")[0]


def test_alfworld_names_a_game_file_that_cannot_be_used(tmp_path: Path) -> None:
    path = write_game_file(tmp_path, HEAT)
    env = alfworld(path=str(tmp_path))
    assert env.tasks("valid_unseen")
    path.write_text('{"grammar": "no task", "pddl_problem": ""}', encoding="utf-8")
    with pytest.raises(DataError, match="Your task is to"):
        env.reset(f"valid_unseen/{HEAT}")
    path.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="is not a game of ALFWorld"):
        env.reset(f"valid_unseen/{HEAT}")


def test_the_instructions_are_in_the_wording_of_the_files(tmp_path: Path, data: Path) -> None:
    write_game_file(tmp_path, HEAT, put="move {o} to {r}")
    assert "move O to X" in alfworld(path=str(tmp_path)).instructions
    assert "put O in/on X" in alfworld(path=str(tmp_path), grammar="put").instructions
    assert "put O in/on X" in alfworld(path=str(data)).instructions


def test_a_game_in_a_wording_of_its_own_is_played_in_it(tmp_path: Path) -> None:
    """Between the two published wordings there may be others: "put", but arriving at the receptacle."""
    path = write_game_file(tmp_path, HEAT)
    game = json.loads(path.read_text(encoding="utf-8"))
    game["grammar"] += 'action GotoLocation { feedback :: "You arrive at {r.name}. ..."; }'
    path.write_text(json.dumps(game), encoding="utf-8")
    env = alfworld(path=str(tmp_path))
    env.reset(f"valid_unseen/{HEAT}")
    assert env.step("go to fridge 1").observation == "You arrive at fridge 1. The fridge 1 is closed."
    assert run_expert(env, f"valid_unseen/{HEAT}")[0]


def test_a_help_text_that_no_json_holds_is_shown_as_it_is(tmp_path: Path) -> None:
    path = write_game_file(tmp_path, HEAT, put="move {o} to {r}")
    game = json.loads(path.read_text(encoding="utf-8"))
    game["grammar"] += '{"help.feedback": [{"rhs": " 100\\% \\q"}]}'
    path.write_text(json.dumps(game), encoding="utf-8")
    env = alfworld(path=str(tmp_path))
    env.reset(f"valid_unseen/{HEAT}")
    assert env.step("help").observation == "100\\% \\q"


def test_a_list_of_games_makes_a_split(data: Path, tmp_path: Path) -> None:
    """The split has the listed games in the order of the list, and their ids are those of their own split."""
    games = [task.id for task in alfworld(path=str(data)).tasks("train")]
    lines = [f"{games[2].partition('/')[2]}  # by its own id", "", f"json_2.1.1/{games[0]}/game.tw-pddl"]
    listed = tmp_path / "ids.txt"
    listed.write_text("\n".join(lines), encoding="utf-8")
    env = alfworld(path=str(data), split_file=str(listed), limit=1)
    assert [(task.id, task.split) for task in env.tasks("listed")] == [
        (games[2], "listed"),
        (games[0], "listed"),
    ]
    assert [task.id for task in env.tasks("train")] == games[:1], "other splits are as the other options say"
    assert env.reset(games[2]).success is False
    with pytest.raises(ConfigError, match="no task"):
        env.reset(games[1])
    assert env.fingerprint == alfworld(path=str(data)).fingerprint
    with pytest.raises(ConfigError, match="it has train, listed"):
        env.tasks("test")
    with pytest.raises(ConfigError, match="`split_file`"):
        alfworld(path=str(data)).tasks("listed")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEAT, "pick_and_place_simple-Mug-None-Shelf-9/trial_9"], r"ids\.txt:2: there is no game .*Shelf-9"),
        ([HEAT, f"train/{HEAT}"], r"ids\.txt:2: the game .* stands in line 1 already"),
        (["trial_1"], r"ids\.txt:1: 'trial_1' is not a game id"),
        (["/"], r"ids\.txt:1: '/' is not a game id"),
    ],
)
def test_a_list_of_games_has_to_be_right(data: Path, tmp_path: Path, lines: list[str], message: str) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        alfworld(path=str(data), split_file=str(listed))


def test_a_list_of_games_has_to_be_a_file(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        alfworld(path=str(data), split_file=str(tmp_path / "none.txt"))
    with pytest.raises(ConfigError, match="`split_file` is 3; it has to be a path"):
        alfworld(path=str(data), split_file=3)  # type: ignore[arg-type]
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is not a text file"):
        alfworld(path=str(data), split_file=str(tmp_path / "binary"))


def test_alfworld_can_be_asked_for_one_wording(data: Path) -> None:
    env = alfworld(path=str(data), grammar="move")
    env.reset(f"train/{HEAT}")
    assert env.step("go to fridge 1").observation == "You arrive at fridge 1. The fridge 1 is closed."
    assert env.fingerprint != alfworld(path=str(data)).fingerprint


# --- pruned rooms ------------------------------------------------------------------------------------


def test_a_pruned_room_keeps_what_the_goal_needs() -> None:
    """Hot apple to the fridge: a fridge, a microwave, an apple and where it lies; one more."""
    problem = prune(parse_problem(KITCHEN), receptacles=4, objects=1)
    kinds = sorted(kind for _, kind in problem.facts["receptacletype"])
    assert len(kinds) == 4
    assert set(kinds) > {"fridgetype", "microwavetype"}
    assert "appletype" in {kind for _, kind in problem.facts["objecttype"]}
    places = [place for _, place in problem.facts["inreceptacle"]]
    assert max(map(places.count, places)) == 1
    assert problem == prune(parse_problem(KITCHEN), receptacles=4, objects=1)


def test_pruning_to_more_than_there_is_changes_nothing() -> None:
    problem = parse_problem(KITCHEN)
    assert prune(problem, receptacles=99, objects=99) == problem


def test_pruned_games_have_another_name_and_fingerprint(data: Path) -> None:
    plain = alfworld(path=str(data))
    pruned = alfworld(path=str(data), max_receptacles=6, max_objects_per_receptacle=4)
    other = alfworld(path=str(data), max_receptacles=5, max_objects_per_receptacle=4)
    assert (plain.name, pruned.name) == ("alfworld", "alfworld-pruned-6x4")
    assert len({env.fingerprint for env in (plain, pruned, other)}) == 3
    assert pruned.fingerprint.startswith("alfworld-pruned-6x4-")
    assert run_expert(pruned, f"train/{HEAT}")[0]
    with pytest.raises(ConfigError, match="`max_receptacles` is 2; it has to be a whole number, 4 or more"):
        alfworld(path=str(data), max_receptacles=2)


# --- the real games ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared_data: Path) -> Path:
    folder = shared_data / "alfworld"
    if not folder.is_dir():
        pytest.skip("the ALFWorld games are not among the benchmark data")
    return folder


@pytest.fixture(scope="module")
def sample(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every 24th game for training: 149 games of all types."""
    with lzma.open(real / "train.jsonl.xz") as file:
        rows = [json.loads(line) for number, line in enumerate(file) if number % 24 == 0]
    return write_compact(tmp_path_factory.mktemp("sample"), rows)


def share_won(env: AlfworldEnvironment, split: str, number: int) -> tuple[float, float]:
    """The share of games that the expert wins, and its turns on average."""
    played = [run_expert(env, task.id) for task in env.tasks(split)[:number]]
    return sum(won for won, _ in played) / len(played), sum(turns for _, turns in played) / len(played)


def test_the_expert_wins_real_games(sample: Path) -> None:
    env = alfworld(path=str(sample))
    assert {task.type for task in env.tasks("train")} == set(TASK_TYPES)
    won, turns = share_won(env, "train", 149)
    assert won >= 0.99
    assert turns < 10


def test_the_expert_wins_pruned_games(sample: Path) -> None:
    env = alfworld(path=str(sample), max_receptacles=6, max_objects_per_receptacle=4)
    for task in env.tasks("train")[:20]:
        facts = env.game(task.id).problem.facts
        assert len(facts["receptacletype"]) <= 6
    won, turns = share_won(env, "train", 100)
    assert won == 1.0
    assert turns < 9


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "valid_seen"])
def test_the_expert_wins_nearly_all_real_games(real: Path, split: str) -> None:
    env = alfworld(path=str(real))
    assert len(env.tasks(split)) == {"train": 3554, "valid_seen": 140}[split]
    won, turns = share_won(env, split, 10**6)
    assert won >= 0.99
    assert turns < 10


@pytest.mark.slow
def test_every_pruned_real_game_can_be_won(real: Path) -> None:
    env = alfworld(path=str(real), max_receptacles=4, max_objects_per_receptacle=1)
    assert share_won(env, "train", 10**6)[0] >= 0.999
