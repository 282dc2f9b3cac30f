"""The rule for noisy trajectories, threshold by threshold."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiturn.errors import ConfigError
from multiturn.pairs.noise import NoiseRule, action_text, noise_reasons
from multiturn.trajectory import Message, Trajectory


def episode(*steps: tuple[str, str | None]) -> Trajectory:
    """An episode from (action, observation) pairs; an observation of None is left out."""
    messages = [Message(role="user", content="Find the cup.")]
    for action, observation in steps:
        messages.append(Message(role="assistant", content=action))
        if observation is not None:
            messages.append(Message(role="user", content=observation))
    return Trajectory(id="x#0", task_id="x", messages=tuple(messages))


def said(*texts: str) -> Trajectory:
    return episode(*((text, f"answer {i}") for i, text in enumerate(texts)))


def test_a_plain_episode_is_clean() -> None:
    assert noise_reasons(said("go to shelf 1", "take cup 1 from shelf 1", "go to desk 1")) == ()


def test_three_times_the_same_is_a_repeated_action_and_twice_is_not() -> None:
    step = ("go to shelf 1", "Nothing happens.")
    assert noise_reasons(episode(step, step)) == ()
    assert noise_reasons(episode(step, step, step)) == ("repeated_action",)


def test_the_same_action_with_other_answers_is_not_noise() -> None:
    assert noise_reasons(episode(*(("next page", f"page {i}") for i in range(9)))) == ()


def test_the_last_turn_needs_no_observation() -> None:
    step = ("go to shelf 1", "Nothing happens.")
    assert noise_reasons(episode(step, step, (step[0], None))) == ("repeated_action",)


def test_thoughts_case_and_blanks_do_not_hide_a_repetition() -> None:
    steps = [(f"Thought: try {i}\nAction: Go  to shelf 1", "Nothing happens.") for i in range(3)]
    assert noise_reasons(episode(*steps)) == ("repeated_action",)


def test_a_cycle_of_two_needs_three_rounds() -> None:
    """A B A B is two rounds of (A, B), A B A B A B three: 2 and 4 equalities at distance 2."""
    there, back = ("go to shelf 1", "shelf"), ("go to desk 1", "desk")
    assert noise_reasons(episode(*[there, back] * 2)) == ()
    assert noise_reasons(episode(*[there, back] * 3)) == ("repeated_cycle",)


def test_a_cycle_longer_than_the_rule_looks_for_is_not_noise() -> None:
    lap = [(f"go to shelf {i}", "shelf") for i in range(9)]
    assert noise_reasons(episode(*lap * 3)) == ()
    assert noise_reasons(episode(*lap * 3), NoiseRule(max_cycle=9)) == ("repeated_cycle",)


@pytest.mark.parametrize("text", ["", "   ", "...", "?!?!", "\n\n", "—"])
def test_a_turn_without_a_word_is_noise(text: str) -> None:
    assert noise_reasons(said("go to shelf 1", text)) == ("no_words",)


def test_a_tool_call_needs_no_words() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = (
        Message(role="user", content="Look."),
        Message(role="assistant", content="", tool_calls=(call,)),
    )
    assert noise_reasons(Trajectory(id="x", task_id="x", messages=messages)) == ()


def test_tool_calls_are_part_of_the_action_and_their_ids_are_not() -> None:
    def call(identity: str, name: str) -> Message:
        return Message(role="assistant", content="", tool_calls=({"id": identity, "function": name},))

    assert action_text(call("1", "look")) == action_text(call("2", "look"))
    assert action_text(call("1", "look")) != action_text(call("1", "open"))


@pytest.mark.parametrize(
    ("text", "noisy"),
    [
        ("a" * 63, False),
        ("a" * 64, True),
        ("cup " * 15, False),  # 60 characters
        ("cup " * 16, True),  # 64 characters
        ("put the red cup on the shelf. " * 3, False),  # 90 characters, but three times only
        ("put the red cup on the shelf. " * 4, True),
        ("I start well and then " + "the " * 40 + "end", True),
        (" ".join(f"shelf {i}" for i in range(200)), False),
    ],
)
def test_repetition_within_a_turn(*, text: str, noisy: bool) -> None:
    assert (noise_reasons(said(text)) == ("repeated_text",)) == noisy


def test_unprintable_text_is_noise_above_a_tenth() -> None:
    assert noise_reasons(said("abcdefghi\ufffd")) == ()  # exactly a tenth
    assert noise_reasons(said("abcdefgh\ufffd")) == ("unprintable_text",)
    assert noise_reasons(said("a\nb\tc\r\n")) == ()
    assert noise_reasons(said("ab\x00\x1b")) == ("unprintable_text",)
    assert noise_reasons(said("\ud800 lone")) == ("unprintable_text",)


def test_words_of_other_scripts_are_words() -> None:
    assert noise_reasons(said("去书架", "اذهب إلى الرف", "идти к полке")) == ()


def test_several_reasons_come_in_the_documented_order() -> None:
    assert noise_reasons(episode(*[("...", "Nothing happens.")] * 3)) == ("repeated_action", "no_words")


def test_a_huge_turn_is_judged_quickly() -> None:
    text = "".join(chr(97 + (i * i) % 23) + str(i) for i in range(150_000))
    assert len(text) > 900_000
    assert noise_reasons(said(text)) == ()


@pytest.mark.parametrize(
    "broken", [{"repeats": 1}, {"text_repeats": 0}, {"max_cycle": 0}, {"unprintable": 2.0}]
)
def test_thresholds_out_of_range_are_refused(broken: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        NoiseRule(**broken)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.text(max_size=12), st.sampled_from(["x", "y"])), max_size=6), st.integers(3, 5))
def test_whatever_is_repeated_thrice_is_noise(steps: list[tuple[str, str]], times: int) -> None:
    """Any block of up to 8 turns, three times in a row, is a repeated action or a cycle."""
    reasons = noise_reasons(episode(*steps * times))
    assert bool({"repeated_action", "repeated_cycle"} & set(reasons)) == bool(steps)


RULES = st.builds(
    NoiseRule, text_span=st.integers(1, 12), text_repeats=st.integers(2, 4), text_piece=st.integers(1, 5)
)


def repeats_by_hand(text: str, rule: NoiseRule) -> bool:
    """Whether some stretch is as long as the rule says and equals itself a period later, letter by letter."""
    for period in range(1, rule.text_piece + 1):
        least = max(rule.text_span, rule.text_repeats * period)
        for begin in range(len(text) - least + 1):
            stretch = text[begin : begin + least]
            if len(stretch) > period and stretch[period:] == stretch[:-period]:
                return True
    return False


@settings(deadline=None, max_examples=300)
@given(
    st.text("ab", max_size=24)
    | st.builds(lambda a, b, n: a + b * n, *[st.text("abc", max_size=6)] * 2, st.integers(1, 6)),
    RULES,
)
def test_no_repetition_is_overlooked(text: str, rule: NoiseRule) -> None:
    """What is not looked at closely has none, whatever the thresholds."""
    assert ("repeated_text" in noise_reasons(said("x " + text), rule)) == repeats_by_hand("x " + text, rule)
