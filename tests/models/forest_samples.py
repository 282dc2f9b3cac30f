"""Conversations that have beginnings in common."""

from __future__ import annotations

from hypothesis import strategies as st
from model_samples import conversation

from multiturn.tokens import NO_TURN, Rendered


def branch(trunk: Rendered, at: int, *turns: int, seed: int, prompt: int = 3) -> Rendered:
    """The first `at` tokens of a conversation, then turns of the given numbers of tokens.

    Without a prompt between them the first of these goes on with the turn of the last token, if it has one.
    """
    new = conversation(*turns, seed=seed, prompt=prompt)
    goes_on = prompt == 0 and trunk.turns[at - 1] != NO_TURN
    first = 1 + max(trunk.turns[:at], default=NO_TURN) - goes_on
    tail = tuple(turn if turn == NO_TURN else turn + first for turn in new.turns)
    return Rendered(trunk.token_ids[:at] + new.token_ids, trunk.turns[:at] + tail, first + len(turns))


def pair_with_shared_turns() -> list[Rendered]:
    """Two assistant turns in common, then two more on one side and one on the other."""
    chosen = conversation(3, 2, 4, 1, seed=11)
    return [chosen, branch(chosen, 10, 5, seed=12)]


def fork_inside_a_turn() -> list[Rendered]:
    """The tokens of the second turn part after its first; one turn more on one side."""
    chosen = conversation(2, 4, 1, seed=13)
    return [chosen, branch(chosen, 8, 3, 2, 1, seed=14, prompt=0)]


def pairs_with_one_expert() -> list[Rendered]:
    """Three pairs that have their chosen side in common, which rejected ones leave early and late."""
    expert = conversation(3, 1, 4, 2, seed=15)
    rejected = [branch(expert, 4, 2, seed=16), branch(expert, 9, 1, 3, seed=17), conversation(2, 2, seed=18)]
    return [side for other in rejected for side in (expert, other)]


def beginning_of_another() -> list[Rendered]:
    whole = conversation(2, 3, 1, seed=19)
    return [whole, Rendered(whole.token_ids[:10], whole.turns[:10], 2)]


FAMILIES = {
    family.__name__: family
    for family in (pair_with_shared_turns, fork_inside_a_turn, pairs_with_one_expert, beginning_of_another)
}


def everybody() -> list[Rendered]:
    """All families in one forest, and a stranger; paths are longer than the windows of sample models."""
    return [row for family in FAMILIES.values() for row in family()] + [conversation(1, 5, seed=20, prompt=9)]


@st.composite
def families(draw: st.DrawFn) -> list[Rendered]:
    """Up to six conversations, most of which begin as others do."""
    lengths = st.lists(st.integers(1, 3), min_size=1, max_size=3)
    seeds = st.integers(0, 1000)
    rows = [conversation(*draw(lengths), seed=draw(seeds), prompt=draw(st.integers(1, 3)))]
    for _ in range(draw(st.integers(0, 5))):
        trunk = draw(st.sampled_from(rows))
        at = draw(st.integers(1, trunk.scored_length))
        other = branch(trunk, at, *draw(lengths), seed=draw(seeds), prompt=draw(st.integers(0, 2)))
        rows.append(other if draw(st.booleans()) else trunk)
    return rows
