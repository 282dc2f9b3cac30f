"""The partition function cancels under length normalization, and does not without: shown on a small tree.

The tree is a finite decision process whose states are histories. In every state there are three actions;
action 0 ends the episode, the others are answered by one of two observations, and the third turn ends it
anyway. So trajectories have one, two or three turns. Policies, transitions and rewards are drawn at random.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping

import pytest
import torch

from multiturn.objective import PairLogps, dmpo, dpo

ACTIONS, OBSERVATIONS, MAX_TURNS = 3, 2, 3
BETA = 0.4

State = tuple[tuple[int, int], ...]
"""A history: the (action, observation) pairs so far."""
Policy = Mapping[State, list[float]]
Place = tuple[State, int]
"""A state and an action taken in it."""


@dataclasses.dataclass(frozen=True)
class Tree:
    """States with the environment's share of the probability of reaching each."""

    environment: Mapping[State, float]

    def places(self) -> Iterator[Place]:
        yield from itertools.product(self.environment, range(ACTIONS))

    def reach(self, policy: Policy, place: Place) -> float:
        """P(s_t = s, a_t = a) under a policy; the history tells t and all earlier actions."""
        state, action = place
        chance = self.environment[state] * policy[state][action]
        for turn, (earlier, _) in enumerate(state):
            chance *= policy[state[:turn]][earlier]
        return chance

    def occupancy(self, policy: Policy, gamma: float) -> dict[Place, float]:
        """M1: the discounted share of time spent in each state-action pair; sums to 1."""
        raw = {place: gamma ** len(place[0]) * self.reach(policy, place) for place in self.places()}
        total = sum(raw.values())
        return {place: mass / total for place, mass in raw.items()}

    def trajectories(self) -> list[list[Place]]:
        """Every complete trajectory as the places it goes through."""
        return [
            [(state[:turn], state[turn][0]) for turn in range(len(state))] + [(state, action)]
            for state, action in self.places()
            if action == 0 or len(state) == MAX_TURNS - 1
        ]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.fixture
def tree(generator: torch.Generator) -> Tree:
    environment: dict[State, float] = {(): 1.0}
    for depth in range(MAX_TURNS - 1):
        for state in [s for s in environment if len(s) == depth]:
            for action in range(1, ACTIONS):
                chances = torch.rand(OBSERVATIONS, generator=generator, dtype=torch.float64).softmax(0)
                for observation, chance in enumerate(chances.tolist()):
                    environment[(*state, (action, observation))] = environment[state] * chance
    return Tree(environment)


def random_policy(tree: Tree, generator: torch.Generator) -> Policy:
    return {
        state: torch.randn(ACTIONS, generator=generator, dtype=torch.float64).softmax(0).tolist()
        for state in tree.environment
    }


def discount(gamma: float, num_turns: int) -> float:
    """1 + g + ... + g^(T-1), what length normalization divides by."""
    return math.fsum(gamma**turn for turn in range(num_turns))


def discounted_sum(values: Mapping[Place, float], trajectory: list[Place], gamma: float) -> float:
    return math.fsum(gamma**turn * values[place] for turn, place in enumerate(trajectory))


def pairs_of(tree: Tree) -> list[tuple[list[Place], list[Place]]]:
    return list(itertools.combinations(tree.trajectories(), 2))


@pytest.mark.parametrize("gamma", [0.3, 0.7, 1.0])
def test_z_cancels_with_length_normalization_and_not_without(
    tree: Tree, generator: torch.Generator, gamma: float
) -> None:
    """M2 and M3, for any reward at all.

    The optimum is d* = d_ref exp(r / beta) / Z with one Z, so beta log(d* / d_ref) = r - beta log Z in every
    place. Summed with weights g^t / (1 + ... + g^(T-1)), which add up to 1, a trajectory is off by
    -beta log Z whatever its length: differences are exact. Summed with the weights g^t alone it is off by
    -beta log Z (1 + ... + g^(T-1)), and a difference by that for T_w minus that for T_l.
    """
    reference = tree.occupancy(random_policy(tree, generator), gamma)
    assert math.fsum(reference.values()) == pytest.approx(1.0)
    reward = {place: 1 + torch.randn((), generator=generator).item() for place in tree.places()}
    z = math.fsum(reference[place] * math.exp(reward[place] / BETA) for place in tree.places())
    optimum = {place: reference[place] * math.exp(reward[place] / BETA) / z for place in tree.places()}
    assert math.fsum(optimum.values()) == pytest.approx(1.0)
    implied = {place: BETA * math.log(optimum[place] / reference[place]) for place in tree.places()}
    assert abs(BETA * math.log(z)) > 0.1, "otherwise there would be nothing to cancel"

    lengths = set()
    for chosen, rejected in pairs_of(tree):
        lengths.add((len(chosen), len(rejected)))
        plain, normalized = {}, {}
        for name, values in (("true", reward), ("implied", implied)):
            sums = [discounted_sum(values, trajectory, gamma) for trajectory in (chosen, rejected)]
            plain[name] = sums[0] - sums[1]
            normalized[name] = sums[0] / discount(gamma, len(chosen)) - sums[1] / discount(
                gamma, len(rejected)
            )
        assert normalized["implied"] == pytest.approx(normalized["true"], abs=1e-12)
        off = -BETA * math.log(z) * (discount(gamma, len(chosen)) - discount(gamma, len(rejected)))
        assert plain["implied"] - plain["true"] == pytest.approx(off, abs=1e-12)
        assert (abs(off) > 1e-3) == (len(chosen) != len(rejected))
    assert {(1, 3), (2, 3), (3, 3)} <= lengths


def test_the_closed_form_is_the_optimum_over_distributions(tree: Tree, generator: torch.Generator) -> None:
    """M2: no other distribution over places has more E[r] - beta KL; the optimum is worth beta log Z."""
    reference = tree.occupancy(random_policy(tree, generator), 0.7)
    mass = torch.tensor(list(reference.values()), dtype=torch.float64)
    reward = torch.randn(len(mass), generator=generator, dtype=torch.float64)

    def objective(distribution: torch.Tensor) -> float:
        return float((distribution * (reward - BETA * (distribution / mass).log())).sum())

    log_z = torch.logsumexp(mass.log() + reward / BETA, 0)
    logits = mass.log() + reward / BETA
    best = objective(logits.softmax(0))
    assert best == pytest.approx(BETA * log_z.item())
    for scale in (1e-3, 0.1, 1.0):
        noise = scale * torch.randn(len(mass), generator=generator, dtype=torch.float64)
        assert objective((logits + noise).softmax(0)) < best


def pair_logps(policy: Policy, reference: Policy, pairs: list[tuple[list[Place], list[Place]]]) -> PairLogps:
    """The interface of the objectives, from the log-probabilities of every action of the pairs."""

    def logps(chances: Policy, trajectories: list[list[Place]]) -> torch.Tensor:
        values = torch.full((len(trajectories), MAX_TURNS), math.nan, dtype=torch.float64)
        for row, trajectory in enumerate(trajectories):
            for turn, (state, action) in enumerate(trajectory):
                values[row, turn] = math.log(chances[state][action])
        return values

    chosen, rejected = [w for w, _ in pairs], [loser for _, loser in pairs]
    return PairLogps(
        policy_chosen=logps(policy, chosen),
        policy_rejected=logps(policy, rejected),
        reference_chosen=logps(reference, chosen),
        reference_rejected=logps(reference, rejected),
        num_turns_chosen=torch.tensor([len(w) for w in chosen]),
        num_turns_rejected=torch.tensor([len(loser) for loser in rejected]),
    )


@dataclasses.dataclass(frozen=True)
class Solved:
    """All pairs of trajectories of a tree, for a reward whose optimal policy is known.

    Any policy is optimal for some reward: r = beta log(d^pi / d_ref) + beta log Z, with any number for Z.

    Attributes:
        logps: What the objectives see: nothing but the actions' log-probabilities.
        rewards: ``[pairs]`` discounted reward sums of either side.
        scales: ``[pairs]`` discounted lengths 1 + g + ... + g^(T-1) of either side.
        leftover: What is added to the reward in every place: beta log Z, and beta times the log of the ratio
            of the normalizers of M1, since the two policies differ in how long their episodes are.
    """

    logps: PairLogps
    rewards: tuple[torch.Tensor, torch.Tensor]
    scales: tuple[torch.Tensor, torch.Tensor]
    leftover: float

    @property
    def expected(self) -> torch.Tensor:
        """The differences of the length-normalized rewards."""
        return self.rewards[0] / self.scales[0] - self.rewards[1] / self.scales[1]


def solved(tree: Tree, generator: torch.Generator, gamma: float, *, log_z: float = 1.7) -> Solved:
    reference, policy = random_policy(tree, generator), random_policy(tree, generator)
    occupancy_ref, occupancy = (tree.occupancy(p, gamma) for p in (reference, policy))
    reward = {
        place: BETA * (math.log(occupancy[place] / occupancy_ref[place]) + log_z) for place in tree.places()
    }
    z = math.fsum(occupancy_ref[place] * math.exp(reward[place] / BETA) for place in tree.places())
    assert math.log(z) == pytest.approx(log_z), "the policy's occupancy is the optimum d* of this reward"
    first: Place = ((), 0)
    normalizers = [d[first] / p[()][0] for d, p in ((occupancy, policy), (occupancy_ref, reference))]
    pairs = pairs_of(tree)

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    return Solved(
        logps=pair_logps(policy, reference, pairs),
        rewards=(
            column([discounted_sum(reward, chosen, gamma) for chosen, _ in pairs]),
            column([discounted_sum(reward, rejected, gamma) for _, rejected in pairs]),
        ),
        scales=(
            column([discount(gamma, len(chosen)) for chosen, _ in pairs]),
            column([discount(gamma, len(rejected)) for _, rejected in pairs]),
        ),
        leftover=BETA * (log_z + math.log(normalizers[0] / normalizers[1])),
    )


@pytest.mark.parametrize("gamma", [1e-6, 0.3, 0.7, 1.0 - 1e-12, 1.0])
def test_dmpo_recovers_reward_differences_from_the_optimal_policy(
    tree: Tree, generator: torch.Generator, gamma: float
) -> None:
    """M4 to M6, end to end: tree -> optimal policy -> log-ratios of turns -> `dmpo` -> reward differences.

    From the policy's log-probabilities alone, the margins of `dmpo` are the differences of the normalized
    discounted rewards, exactly, for trajectories of whatever lengths.
    """
    case = solved(tree, generator, gamma)
    output = dmpo(case.logps, beta=BETA, gamma=gamma)
    torch.testing.assert_close(output.metrics["rewards/margins"], case.expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(output.losses, -torch.nn.functional.logsigmoid(case.expected))


@pytest.mark.parametrize("gamma", [0.3, 0.7, 1.0])
def test_without_normalization_a_constant_times_the_length_stays_behind(
    tree: Tree, generator: torch.Generator, gamma: float
) -> None:
    """Each side times its 1 + ... + g^(T-1): the margin misses by beta log Z for each unit of that length."""
    case = solved(tree, generator, gamma)
    metrics = dmpo(case.logps, beta=BETA, gamma=gamma).metrics
    margins = metrics["rewards/chosen"] * case.scales[0] - metrics["rewards/rejected"] * case.scales[1]
    missing = (case.rewards[0] - case.rewards[1]) - margins
    torch.testing.assert_close(missing, case.leftover * (case.scales[0] - case.scales[1]), rtol=0, atol=1e-12)
    assert missing[case.scales[0] != case.scales[1]].abs().min() > 0.01


@pytest.mark.parametrize("gamma", [1e-6, 0.3, 0.7, 1.0])
def test_uniform_weights_recover_another_reward(tree: Tree, generator: torch.Generator, gamma: float) -> None:
    case = solved(tree, generator, gamma)
    assert (dpo(case.logps, beta=BETA).metrics["rewards/margins"] - case.expected).abs().max() > 0.1


@pytest.mark.parametrize("gamma", [0.1, 0.3, 0.7])
def test_the_misprinted_weights_do_not_recover_the_reward(
    tree: Tree, generator: torch.Generator, gamma: float
) -> None:
    """Eq. 16 of the paper prints (1 - g^(T-t)) / (1 - g^T), which is ours divided by g^t."""
    case = solved(tree, generator, gamma)
    output = dmpo(case.logps, beta=BETA, gamma=gamma)
    assert output.turn_rewards_chosen is not None
    assert output.turn_rewards_rejected is not None
    growth = gamma ** -torch.arange(MAX_TURNS, dtype=torch.float64)
    margins = (output.turn_rewards_chosen * growth).sum(1) - (output.turn_rewards_rejected * growth).sum(1)
    assert (margins - case.expected).abs().max() > 0.1
