"""WebShop against recordings of the original: the world, rewards, searches, every page of every episode."""

from __future__ import annotations

import importlib.util
import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from webshop_samples import prepare_nouns, recorded, recorded_nouns

import multiturn
from multiturn.envs.webshop.analysis import analyze
from multiturn.envs.webshop.goals import Goal
from multiturn.envs.webshop.products import read_products
from multiturn.envs.webshop.reward import purchase_reward
from multiturn.envs.webshop.shelf import MemoryShelf
from multiturn.envs.webshop.titles import SPACY_MODELS, SpacyNouns, TableNouns
from multiturn.envs.webshop.world import World, make_world, open_world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from multiturn.envs.base import Step
    from multiturn.envs.webshop.environment import WebShop
    from multiturn.envs.webshop.shop import Session, Shop

AT_RANDOM = "<r> random.seed(4243) before the first step"
"""What the original draws from random numbers that the environment seeds for itself."""


@pytest.fixture(scope="module")
def worlds(shared_data: Path) -> dict[bool, World]:
    """The recorded world, without and with pages of properties."""
    folder = shared_data / "webshop"
    items, attributes, human = (
        json.loads((folder / name).read_text(encoding="utf-8"))
        for name in ("items_shuffle_1000.json", "items_ins_v2_1000.json", "items_human_ins_subset.json")
    )
    nouns = TableNouns(recorded_nouns(shared_data))
    shelf = MemoryShelf(read_products(items, attributes, human))
    return {
        shown: make_world(
            shelf, human=False, seed=0, nouns=nouns, fingerprint="recorded", show_attributes=shown
        )
        for shown in (False, True)
    }


@pytest.fixture(scope="module")
def shop(worlds: dict[bool, World]) -> Shop:
    return worlds[False].shop


@pytest.fixture
def data(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the data files, for which the nouns are in the cache."""
    monkeypatch.setenv("MULTITURN_CACHE", str(tmp_path))
    folder = shared_data / "webshop"
    prepare_nouns(folder, recorded_nouns(shared_data))
    return folder


def episodes(shared: Path) -> list[dict[str, Any]]:
    return recorded(shared, "ws_episodes") + recorded(shared, "ws_quirks")


def as_recorded(goal: Goal) -> dict[str, Any]:
    pairs = [option for option in goal.options if isinstance(option, tuple)]
    return {
        "asin": goal.asin,
        "category": goal.category,
        "query": goal.query,
        "name": goal.name,
        "product_category": goal.product_category,
        "instruction_text": goal.instruction,
        "attributes": list(goal.attributes),
        "price_upper": goal.price_upper,
        "goal_options": dict(pairs) if len(pairs) == len(goal.options) else list(goal.options),
        "weight": goal.weight,
    }


def test_products_and_prices(shared_data: Path, shop: Shop) -> None:
    rows = recorded(shared_data, "ws_prices")
    assert [row["asin"] for row in rows] == list(shop.shelf)
    assert len(rows) == 1000
    for row in rows:
        product = shop.shelf[row["asin"]]
        found = (list(product.pricing), product.price_tag, shop.prices[row["asin"]])
        assert found == (row["pricing"], row["Price"], row["price"]), row["asin"]


def test_synthetic_goals(shared_data: Path, shop: Shop) -> None:
    rows = recorded(shared_data, "ws_goals")
    assert len(shop.goals) == 6910
    assert len(rows) == 3455
    for row in rows:
        assert as_recorded(shop.goals[row["goal_idx"]]) | {"goal_idx": row["goal_idx"]} == row


def test_human_goals(shared_data: Path, data: Path) -> None:
    goals = open_world(data, human=True, seed=0).shop.goals
    rows = recorded(shared_data, "ws_human_world")
    assert [as_recorded(goal) | {"goal_idx": number} for number, goal in enumerate(goals)] == [
        row | {"goal_options": row["goal_options"] or {}} for row in rows
    ]
    assert any(row["goal_options"] for row in rows)


def test_sessions_at_random(shared_data: Path, shop: Shop) -> None:
    for row in recorded(shared_data, "ws_random_resets"):
        shop.rng.seed(row["seed"])
        session, number = shop.enter_at_random()
        assert (session.name, number) == (row["session"], row["goal_idx"])
        assert session.goal == shop.goals[number]


@pytest.mark.parametrize(("name", "count"), [("ws_rewards", 1501), ("ws_rewards_human", 200)])
def test_rewards(shared_data: Path, shop: Shop, name: str, count: int) -> None:
    rows = recorded(shared_data, name)
    assert len(rows) == count
    for row in rows:
        wanted = row["goal"]
        options = wanted["goal_options"]
        goal = Goal(
            **{key: wanted[key] for key in ("asin", "category", "query", "name", "product_category")},
            instruction=wanted["instruction_text"],
            attributes=tuple(wanted["attributes"]),
            price_upper=wanted["price_upper"],
            options=tuple(options.items()) if isinstance(options, dict) else tuple(options),
        )
        reward = purchase_reward(
            shop.shelf[row["asin"]], goal, price=row["price"], options=row["options"], nouns=shop.nouns
        )
        assert reward.total == row["reward"], row["id"]
        assert reward.parts == row["info"], row["id"]
        if "num_attr_matches" in row:
            assert reward.attribute_matches == row["num_attr_matches"]
            assert reward.option_matches == row["num_option_matches"]


def test_what_is_searched(shared_data: Path, shop: Shop) -> None:
    rows = recorded(shared_data, "ws_lucene_tokens")
    assert len(rows) == 1000
    for row in rows:
        assert analyze(shop.shelf[row["asin"]].indexed_text) == row["tokens"], row["asin"]


def test_searches(shared_data: Path, shop: Shop) -> None:
    rows = recorded(shared_data, "ws_search")
    assert len(rows) == 300
    for row in rows:
        assert shop.found(row["query"].split(" ")) == row["asins"], row["query"]


def seen(session: Session) -> dict[str, Any]:
    return {
        "observation": session.text,
        "observation_rich": session.rich_text,
        "available_actions": {
            "has_search_bar": session.has_search_bar,
            "clickables": list(session.clickables),
        },
        "url": session.url,
        "page": session.page,
        "asin": session.asin,
        "options": session.options,
        "asins": set(session.visited),
        "keywords": session.keywords,
    }


def expected(row: dict[str, Any]) -> dict[str, Any]:
    state = row["state"] | {"asins": set(row["state"]["asins"])}
    names = ("observation", "observation_rich", "available_actions", "url")
    return {**{name: row[name] for name in names}, **state}


def test_every_page_of_every_episode(shared_data: Path, worlds: dict[bool, World]) -> None:
    steps, spent = 0, 0.0
    for episode in episodes(shared_data):
        shop = worlds[episode["show_attrs"]].shop
        began = time.process_time()
        session = shop.enter(episode["goal_idx"])
        seed = re.search(r"random\.seed\((\d+)\)", str(episode.get("sub")))
        if seed is not None:
            shop.rng.seed(int(seed[1]))
        assert as_recorded(session.goal) == episode["goal"]
        assert shop.prices[episode["goal"]["asin"]] == episode["price"]
        assert seen(session) == expected(episode["reset"])
        for step in episode["steps"]:
            where = f"episode {episode['id']}: {step['action']!r}"
            before = seen(session)
            answer = shop.act(session, step["action"])
            if "error" in step:
                assert not answer.valid, where
                assert answer.complaint, where
                assert seen(session) == before, where
                continue
            assert seen(session) == expected(step), where
            if "top_asins" in step:
                assert session.found == step["top_asins"], where
            # The original's invalid actions are told by the type of their reward.
            assert answer.valid is isinstance(step["reward"], float), where
            paid = 0.0 if answer.purchase is None else answer.purchase.total
            assert (paid, answer.purchase is not None) == (step["reward"], step["done"]), where
            if answer.purchase is not None:
                assert answer.purchase.parts == step["verbose_info"], where
            steps += 1
        spent += time.process_time() - began
    assert steps > 1100
    assert steps / spent > 500, "every step compared in both modes, it has to do 500 a second"


def answers(env: WebShop, episode: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Step]]:
    """The recorded steps, and the environment's answers to the same actions."""
    yield episode["reset"], env.reset(str(episode["goal_idx"]))
    for step in episode["steps"]:
        yield step, env.step(step["action"])


@pytest.mark.parametrize("mode", ["text", "text_rich"])
def test_the_environment_answers_as_recorded(shared_data: Path, data: Path, mode: str) -> None:
    key = {"text": "observation", "text_rich": "observation_rich"}[mode]
    envs: dict[bool, Any] = {
        shown: multiturn.make("webshop", path=str(data), observation=mode, show_attributes=shown)
        for shown in (False, True)
    }
    assert envs[False].fingerprint != envs[True].fingerprint
    kept = [episode for episode in episodes(shared_data) if episode.get("sub") != AT_RANDOM]
    assert len(kept) == 136
    frozen = 0
    for episode in kept:
        last = None
        for row, step in answers(envs[episode["show_attrs"]], episode):
            where = f"episode {episode['id']}: {row.get('action', 'reset')!r}"
            if last is not None and last.terminated:  # the original goes on after the purchase
                assert (step.observation, step.reward, step.terminated) == (last.observation, 0.0, True)
                frozen += 1
                continue
            if "error" in row:
                assert last is not None
                complaint, _, page = step.observation.partition("\n")
                assert complaint.startswith("This action is not possible: "), where
                assert (page, step.valid) == (last.observation, False), where
                last = step
                continue
            assert step.observation == row[key], where
            assert step.info["available_actions"] == row["available_actions"], where
            assert step.info["url"] == row["url"], where
            names = ("page", "asin", "options", "keywords")
            assert {name: step.info[name] for name in names} == {name: row["state"][name] for name in names}
            if "top_asins" in row:
                assert step.info["top_asins"] == row["top_asins"], where
            if "action" in row:
                assert (step.reward, step.terminated) == (row["reward"], row["done"]), where
                assert step.valid is isinstance(row["reward"], float), where
                assert step.success is (row["reward"] == 1.0 if row["done"] else None), where
                assert step.info.get("reward_info") == row.get("verbose_info"), where
            last = step
    assert frozen == sum(
        len(episode["steps"]) - 1 - next(number for number, step in enumerate(episode["steps"]) if done(step))
        for episode in kept
        if any(map(done, episode["steps"]))
    )


def done(step: dict[str, Any]) -> bool:
    return bool(step.get("done"))


def test_the_recordings_cover_what_there_is(shared_data: Path) -> None:
    """If this fails, equality above says less than it seems to."""
    rows = episodes(shared_data)
    steps = [step for row in rows for step in row["steps"]]
    clicked = {step["action"].lower() for step in steps}
    assert {f"click[{name}]" for name in ("description", "features", "reviews", "attributes")} <= clicked
    assert {"click[buy now]", "click[next >]", "click[< prev]", "click[back to search]"} <= clicked
    rewards = {step["reward"] for step in steps if step.get("done")}
    assert {0.0, 1.0} < rewards
    assert any(isinstance(step.get("reward"), int) for step in steps), "an invalid action"
    assert any("[clicked button]" in step.get("observation_rich", "") for step in steps)
    types = {row["info"]["r_type"] for row in recorded(shared_data, "ws_rewards")}
    assert types == {0.0, 0.1, 0.5, 1.0}
    assert [row["sub"] for row in rows if AT_RANDOM in str(row.get("sub"))] == [AT_RANDOM]


@pytest.mark.slow
def test_nouns_as_spacy_sees_them(shared_data: Path) -> None:
    if importlib.util.find_spec("spacy") is None or not any(map(importlib.util.find_spec, SPACY_MODELS)):
        pytest.skip("spaCy and its small English model are not installed: pip install 'multiturn[webshop]'")
    nouns = SpacyNouns()
    table = recorded_nouns(shared_data)
    assert len(table) > 900
    assert {title: nouns(title) for title in table} == table
