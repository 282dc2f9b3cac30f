"""WebShop as an environment."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal

from multiturn.envs.base import Step, Task
from multiturn.envs.webshop.expert import Oracle
from multiturn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from multiturn.envs.base import ExpertAction
    from multiturn.envs.webshop.shop import Answer, Session
    from multiturn.envs.webshop.world import World
    from multiturn.trajectory import Json

__all__ = ["MODES", "SPLITS", "WebShop"]

SPLITS: Final[Mapping[str, tuple[int, int | None]]] = {
    "test": (0, 500),
    "dev": (500, 1500),
    "train": (1500, None),
}
"""The numbers of the goals of each split, as in the original."""

MODES: Final = ("text", "text_rich")

_MOST_TOLD: Final = 1000  # a search for a whole category finds more
_REVISION: Final = 1  # raised whenever this package changes what an episode looks like

_INSTRUCTIONS: Final = (
    "You are in a web shop and buy what a customer asks for. Each turn you see a page. Actions are "
    "search[words], wherever there is a search bar, and click[button], with a button of the page as it "
    'stands there: a product\'s key, an option, "Next >", "< Prev", "Back to Search", '
    '"Description", "Features", "Reviews", "Buy Now". Find a product that has what was asked for '
    "and costs no more than was said, choose its options, then buy it: that ends the task. Give one action "
    "in each turn."
)


class WebShop:
    """WebShop; made by `webshop` and `webshop_generated`, which document the options.

    Observation: the page. Action: ``search[...]`` or ``click[...]``. Reward: the shop's own, in [0, 1], for
    the purchase, which ends the episode; solved is a purchase of reward 1. A step is invalid when the
    original would change nothing.

    Args:
        world: Products, goals, prices and search.
        name: What reports call it.
        mode: How pages are written, one of `MODES`.
        max_turns: The turn limit.
        limit: How many goals a split has at most; one number, or one for each split.
        goals: For splits that are given by a list, the numbers of their goals.
        exclude_overlap: Whether goals whose product is asked for in another split are left out of ``train``.
        admissible: Whether `Step.info` lists the admissible commands.
    """

    instructions = _INSTRUCTIONS
    invalid_observation = "This is no action. Use search[words] or click[button]."

    def __init__(
        self,
        world: World,
        *,
        name: str = "webshop",
        mode: Literal["text", "text_rich"] = "text",
        max_turns: int = 10,
        limit: Mapping[str, int] | int | None = None,
        goals: Mapping[str, Sequence[int]] | None = None,
        exclude_overlap: bool = False,
        admissible: bool = False,
    ) -> None:
        self.name = name
        self.world = world
        self._mode = mode
        self._max_turns = max_turns
        self._limit = limit
        self._exclude_overlap = exclude_overlap
        self._admissible = admissible
        self._splits = self._numbers(goals or {})
        self.fingerprint = f"{name}-{_REVISION}-{world.fingerprint}-{mode}"
        if exclude_overlap:
            self.fingerprint += "-no-overlap"
        if goals:
            listed = repr(sorted((split, tuple(numbers)) for split, numbers in goals.items()))
            self.fingerprint += f"-{hashlib.sha256(listed.encode()).hexdigest()[:8]}"
        self._session: Session | None = None
        self._oracle: Oracle | None = None
        self._last: Step | None = None

    @property
    def max_turns(self) -> int:
        """The turn limit."""
        return self._max_turns

    def tasks(self, split: str) -> list[Task]:
        """The goals of a split; a task's id is its goal's number, its type the category.

        Raises:
            ConfigError: There is no such split, or it has no goals.
        """
        if split not in self._splits:
            raise ConfigError(f"{self.name} has no split {split!r}; it has {', '.join(self._splits)}")
        numbers = self._splits[split]
        if not numbers:
            count = len(self.world.shop.goals)
            raise ConfigError(f"{self.name}: the split {split!r} has no goals; there are {count} in all")
        most = self._limit if isinstance(self._limit, int) or self._limit is None else self._limit.get(split)
        goals = self.world.shop.goals
        return [Task(id=str(number), split=split, type=goals[number].category) for number in numbers[:most]]

    def overlap(self) -> dict[str, int]:
        """How many goals of each other split ask for a product that a goal of ``train`` asks for."""
        goals = self.world.shop.goals
        trained = {goals[number].asin for number in self._splits.get("train", ())}
        return {
            split: sum(goals[number].asin in trained for number in numbers)
            for split, numbers in self._splits.items()
            if split != "train"
        }

    def reset(self, task_id: str) -> Step:
        """Enter the shop with a goal.

        Raises:
            ConfigError: There is no such goal.
        """
        goals = len(self.world.shop.goals)
        if re.fullmatch(r"0|[1-9][0-9]{0,8}", task_id) is None or int(task_id) >= goals:
            raise ConfigError(
                f"{self.name} has no task {task_id!r}; tasks are the numbers from 0 to {goals - 1}"
            )
        # Searches at random draw the same products in every episode of a goal.
        self.world.shop.rng.seed(f"{self.world.seed}/{task_id}")
        self._session = self.world.shop.enter(int(task_id))
        self._oracle = Oracle(self.world.shop, self._session)
        self._last = self._step(self._session)
        return self._last

    def step(self, action: str) -> Step:
        """Take one action; after the purchase, show its page again.

        Raises:
            ConfigError: There is no episode.
        """
        session, last = self._session, self._last
        if session is None or last is None:
            raise ConfigError(f"{self.name}: there is no episode; call reset(task_id) first")
        if last.terminated:
            return replace(last, reward=0.0)
        self._last = self._step(session, self.world.shop.act(session, action))
        return self._last

    def expert_action(self) -> ExpertAction | None:
        """What an oracle would do, who knows the goal's product and the reward of every purchase."""
        if self._oracle is None or self._last is None or self._last.terminated:
            return None
        return self._oracle.act()

    def close(self) -> None:
        """Forget the episode."""
        self._session = self._oracle = self._last = None

    def _numbers(self, listed: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
        goals = self.world.shop.goals
        count = len(goals)
        splits = {
            split: list(range(min(start, count), count if end is None else min(end, count)))
            for split, (start, end) in SPLITS.items()
        }
        for split, numbers in listed.items():
            missing = [number for number in numbers if not 0 <= number < count]
            if missing:
                raise ConfigError(
                    f"the split {split!r} names the goal {missing[0]}, but there are {count} goals"
                )
            splits[split] = list(numbers)
        if self._exclude_overlap:
            tested = {goals[n].asin for split, numbers in splits.items() if split != "train" for n in numbers}
            splits["train"] = [n for n in splits["train"] if goals[n].asin not in tested]
        return splits

    def _step(self, session: Session, answer: Answer | None = None) -> Step:
        page = session.text if self._mode == "text" else session.rich_text
        purchase = None if answer is None else answer.purchase
        complaint = "" if answer is None else answer.complaint
        return Step(
            observation=f"This action is not possible: {complaint}.\n{page}" if complaint else page,
            reward=0.0 if purchase is None else purchase.total,
            terminated=purchase is not None,
            success=None if purchase is None else purchase.total == 1.0,
            valid=answer is None or answer.valid,
            info=self._info(session),
        )

    def _info(self, session: Session) -> dict[str, Json]:
        buttons = list(session.clickables)
        info: dict[str, Json] = {
            "url": session.url,
            "page": session.page,
            "asin": session.asin,
            "options": dict(session.options),
            "asins": list(session.visited),
            "keywords": session.keywords,
            "top_asins": session.found[:_MOST_TOLD],
            "available_actions": {"has_search_bar": session.has_search_bar, "clickables": buttons},
        }
        if session.purchase is not None:
            info["reward_info"] = dict(session.purchase.parts)
        if self._admissible:
            clicks = [f"click[{button}]" for button in buttons if button != "search"]
            searches = [f"search[{session.goal.query}]"] if session.has_search_bar else []
            info["admissible_commands"] = sorted(Counter(clicks + searches))
        return info
