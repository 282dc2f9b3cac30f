"""WebShop as an environment: splits, episodes, what a step tells."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webshop_samples import goal, keys, lamp_data, lamps, product, shop_of

import multiturn
from multiturn.envs.webshop import SPLITS, WebShop
from multiturn.envs.webshop.world import World
from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def made(name: str = "webshop-generated", **options: Any) -> WebShop:
    env = multiturn.make(name, **options)
    assert isinstance(env, WebShop)
    return env


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MULTITURN_CACHE", str(tmp_path / "cache"))
    return lamp_data(tmp_path / "data")


def numbers(env: WebShop, split: str) -> list[int]:
    return [int(task.id) for task in env.tasks(split)]


def small(count: int, per_product: int = 1, **options: Any) -> WebShop:
    """An environment with so many goals, the same number of them for each product."""
    products = lamps(count)
    goals = [goal(each) for each in products for _ in range(per_product)]
    return WebShop(World(shop=shop_of(products, goals), seed=0, fingerprint="small"), **options)


@pytest.fixture(scope="module")
def generated() -> WebShop:
    return made(products=200, admissible=True)


def bought(env: WebShop, *clicks: str) -> multiturn.envs.Step:
    env.step("search[lamp]")
    step = env.step("click[b000000001]")
    for click in (*clicks, "buy now"):
        step = env.step(f"click[{click}]")
    return step


def test_splits_are_the_originals(data: Path) -> None:
    env = made("webshop", path=str(data))
    assert numbers(env, "test") == list(range(500))
    assert numbers(env, "dev") == list(range(500, 1500))
    assert numbers(env, "train") == list(range(1500, 2000))
    assert {task.type for task in env.tasks("dev")} == {"garden"}
    assert {task.split for task in env.tasks("dev")} == {"dev"}
    assert set(SPLITS) == {"test", "dev", "train"}
    with pytest.raises(ConfigError, match="no split 'valid'; it has test, dev, train"):
        env.tasks("valid")


def test_few_goals_fill_the_first_splits() -> None:
    env = small(13)
    assert numbers(env, "test") == list(range(13))
    with pytest.raises(ConfigError, match="the split 'train' has no goals; there are 13 in all"):
        env.tasks("train")


@pytest.mark.parametrize("seed", range(3))
def test_every_split_of_the_smallest_made_up_shop_has_goals(seed: int) -> None:
    """The fewest goals for 200 products among the seeds 0 to 399 are 1,923."""
    env = made(products=200, seed=seed)
    assert [len(env.tasks(split)) for split in ("test", "dev")] == [500, 1000]
    assert len(env.tasks("train")) > 300


def test_limits() -> None:
    assert len(small(20, limit=3).tasks("test")) == 3
    assert len(small(20, limit={"test": 4}).tasks("test")) == 4
    assert len(small(20, limit={"train": 4}).tasks("test")) == 20
    assert numbers(small(20, limit=3), "test") == [0, 1, 2]


def test_goals_of_products_in_several_splits() -> None:
    """Three goals for each of 501 products, so that of the original's splits train has the last product.

    Of the lists, 0 in test asks for the product of 1 in train, 3 and 4 for that of 5; 6 for none of train's.
    """
    env = small(501, 3)
    assert numbers(env, "train") == [1500, 1501, 1502]
    assert env.overlap() == {"test": 0, "dev": 0}
    listed = {"test": [0, 3, 4, 6], "train": [1, 5, 1502]}
    assert small(501, 3, goals=listed).overlap() == {"test": 3, "dev": 0}
    kept = small(501, 3, goals=listed, exclude_overlap=True)
    assert kept.overlap() == {"test": 0, "dev": 0}
    assert (numbers(kept, "test"), numbers(kept, "train")) == ([0, 3, 4, 6], [1502])


@pytest.mark.parametrize(
    "task", ["", "x", "-1", "01", "1.0", "20", "999999999", "9" * 30, " 1", "\u0661", "1\n"]
)
def test_goals_that_there_are_not(task: str) -> None:
    with pytest.raises(ConfigError, match="tasks are the numbers from 0 to 19"):
        small(20).reset(task)


def test_an_episode() -> None:
    env = small(20)
    first = env.reset("7")
    assert first.observation.endswith("Find me easy clean table lamps [SEP] Search")
    assert (first.reward, first.terminated, first.success, first.valid) == (0.0, False, None, True)
    step = env.step("dance")
    assert (step.observation, step.valid, step.reward) == (first.observation, False, 0.0)
    step = env.step("search[<a> red]")
    assert not step.valid
    assert step.observation == (
        f"This action is not possible: a search for <a> does not work in this shop.\n{first.observation}"
    )
    last = bought(env)
    assert (last.reward, last.terminated, last.success, last.valid) == (1.0, True, True, True)
    assert last.info["reward_info"] == {
        "r_type": 1.0,
        "r_att": 1.0,
        "w_att": 0.5,
        "query_match": True,
        "category_match": True,
        "title_score": 1.0,
        "r_price": True,
        "w_price": 0.5,
    }
    for action in ("search[lamp]", "click[back to search]", "nonsense"):
        after = env.step(action)
        assert (after.observation, after.reward, after.terminated) == (last.observation, 0.0, True)
    assert env.expert_action() is None
    assert env.reset("7") == first


def test_only_the_whole_reward_is_a_success() -> None:
    products = [product("B000000001", options={"size": ("s", "xl")})]
    goals = [goal(products[0], options=(("size", "xl"),))]
    env = WebShop(World(shop=shop_of(products, goals), seed=0, fingerprint="small"))
    env.reset("0")
    step = bought(env, "s")
    assert (step.reward, step.success, step.terminated) == (2 / 3, False, True)
    env.reset("0")
    step = bought(env, "xl")
    assert (step.reward, step.success) == (1.0, True)


def test_there_has_to_be_an_episode() -> None:
    env = small(2)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"there is no episode; call reset\(task_id\) first"):
            env.step("search[lamp]")
        assert env.expert_action() is None
        env.reset("0")
        env.close()
        env.close()


def test_what_info_tells() -> None:
    env = small(20)
    env.reset("0")
    env.step("search[lamp]")
    info = env.step("click[b000000002]").info
    assert (info["page"], info["asin"], info["options"]) == (1, "B000000002", {})
    assert (info["asins"], info["keywords"]) == (["B000000002"], ["lamp"])
    assert info["top_asins"] == keys(20)
    assert info["url"] == "http://127.0.0.1:3000/item_page/0/B000000002/lamp/1/{}"
    buttons = ["back to search", "< prev", "description", "features", "reviews", "buy now"]
    assert info["available_actions"] == {"has_search_bar": False, "clickables": buttons}
    assert not {"admissible_commands", "reward_info"} & set(info)
    json.dumps(dict(info))


def test_admissible_commands() -> None:
    env = small(12, admissible=True)
    commands = env.reset("0").info["admissible_commands"]
    assert commands == ["search[table lamps]"], "one sample of what can be searched for"
    assert env.step("search[table lamps]").info["admissible_commands"] == sorted(
        ["click[back to search]", "click[next >]", *(f"click[{key.lower()}]" for key in keys(10))]
    )
    assert bought(env).info["admissible_commands"] == []


def test_admissible_commands_are_valid(generated: WebShop) -> None:
    tried = 0
    for number, task in enumerate(generated.tasks("train")[:15]):
        step = generated.reset(task.id)
        for turn in range(8):
            commands = step.info["admissible_commands"]
            assert isinstance(commands, list)
            if not commands:
                break
            step = generated.step(str(commands[(7 * number + 3 * turn) % len(commands)]))
            assert step.valid
            tried += 1
    assert tried > 60


def test_searches_at_random_are_the_same_in_every_episode(data: Path) -> None:
    env = made("webshop", path=str(data))
    env.reset("4")
    first = [env.step("search[<r>]").observation, env.step("click[next >]").observation]
    env.reset("5")
    other = env.step("search[<r>]").observation
    env.reset("4")
    assert [env.step("search[<r>]").observation, env.step("click[next >]").observation] == first
    assert first[0].partition("Page 1")[2] != other.partition("Page 1")[2]


@pytest.mark.parametrize("observation", ["text", "text_rich"])
def test_the_generated_shop_keeps_the_protocol(observation: str) -> None:
    env = multiturn.make("webshop-generated", products=200, observation=observation, admissible=True)
    report = multiturn.check_env(env, episodes=12)
    assert report.findings == (), report.describe()
    assert report.expert_returns == (1.0,) * 12
    assert all(0.0 <= total <= 1.0 for total in report.random_returns)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1000),
    st.lists(st.text() | st.text().map("search[{}]".format) | st.text().map("click[{}]".format), max_size=8),
)
def test_any_text_is_answered(generated: WebShop, number: int, actions: list[str]) -> None:
    step = generated.reset(str(number))
    for action in [*actions, "search[lamp]", "click[next >]"]:
        before, step = step, generated.step(action)
        assert step.reward == 0.0
        assert not step.terminated
        assert step.observation
        assert step.valid or step.observation.endswith(before.observation)
        json.dumps(dict(step.info))
