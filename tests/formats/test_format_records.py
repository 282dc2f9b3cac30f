"""Records as other programs write them: what they become, and what is said of those that are none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from multiturn.errors import ConfigError, DataError
from multiturn.formats import BadRecord, Context, detect, format_named
from multiturn.formats.base import reward_of
from multiturn.trajectory import Message, Outcome, PreferencePair, Trajectory

USER = {"role": "user", "content": "Find the cup."}
YES = {"role": "assistant", "content": "take cup"}
NO = {"role": "assistant", "content": "sleep"}
SEEN = {"role": "user", "content": "A cup."}
HUMAN, GPT = {"from": "human", "value": "Find the cup."}, {"from": "gpt", "value": "take cup"}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "shelf"}'}}
LOOK = {"type": "function", "function": {"name": "look", "arguments": {"at": "shelf"}}}

RECORDS: dict[str, list[dict[str, Any]]] = {
    "multiturn": [
        Trajectory(id="a", task_id="t", messages=(Message(role="user", content="x"),)).to_json(),
        {"schema": 1, "prompt": [USER], "chosen": [YES], "rejected": [NO]},
    ],
    "trl": [
        {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
        {"chosen": [USER, YES], "rejected": [USER, NO], "tools": [{"name": "look"}]},
        {"prompt": None, "chosen": [USER, YES], "rejected": [USER, NO]},
    ],
    "openai": [
        {"messages": [USER, YES], "tools": [{"type": "function", "function": {"name": "look"}}]},
        {"messages": [{"role": "developer", "content": [{"type": "text", "text": "Act."}]}, USER, YES]},
    ],
    "ms-swift": [
        {"messages": [USER, YES], "rejected_messages": [USER, NO]},
        {"messages": [USER, YES], "rejected_response": "sleep"},
        {"messages": [USER, {"role": "tool_call", "content": '{"name": "look"}'}]},
    ],
    "sharegpt": [
        {"conversations": [HUMAN, GPT], "system": "Act."},
        {"prompt": [HUMAN], "chosen": [GPT], "rejected": [GPT], "id": 3},
        {"conversations": [HUMAN], "chosen": GPT, "rejected": GPT},
    ],
    "agentgym": [{"conversations": [{**HUMAN, "loss": None}, {**GPT, "loss": True}], "item_id": "webshop_3"}],
}


def read(name: str, record: dict[str, Any], **options: Any) -> Any:
    return format_named(name).read(record, Context(default_id="line-1", **options))


@pytest.mark.parametrize(("name", "record"), [(n, r) for n, found in RECORDS.items() for r in found])
def test_a_record_shows_its_format(name: str, record: dict[str, Any]) -> None:
    assert detect([record]).name == name
    item = read(name, record)
    assert isinstance(item, PreferencePair) == (not {"rejected", "rejected_messages"}.isdisjoint(record)) or (
        "rejected_response" in record
    )


def test_most_rows_decide_and_broken_ones_are_passed_over() -> None:
    assert detect([DataError("x"), 3, {"odd": 1}, RECORDS["trl"][0]]).name == "trl"
    assert detect([RECORDS["openai"][0], *RECORDS["ms-swift"]]).name == "ms-swift"


def test_what_was_tried_is_said() -> None:
    with pytest.raises(DataError) as caught:
        detect([{"question": "?", "answer": "!"}])
    assert "none of the first 1 rows is in a format that is known (their columns: answer, question)" in str(
        caught.value
    )
    assert all(f"  {name}: " in str(caught.value) for name in RECORDS)
    with pytest.raises(ConfigError, match="--from: there is no format 'alpaca'; use one of multiturn, "):
        format_named("alpaca")


def test_an_openai_log() -> None:
    """Roles, text parts and arguments take our form; the rest of the columns goes where it belongs."""
    record = {
        "id": 7,
        "messages": [
            {"role": "developer", "content": "Act."},
            {"role": "user", "content": [{"type": "text", "text": "Find "}, {"type": "text", "text": "it."}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Hm."},
            {"role": "tool", "tool_call_id": "c1", "content": "A cup."},
            {"role": "assistant", "content": "Done.", "refusal": None},
        ],
        "functions": [{"name": "look"}],
        "score": 0.5,
        "success": True,
        "outcome": "truncated",
        "split": "train",
        "model": "m",
        "info": {"cost": 3},
    }
    context = Context()
    item = format_named("openai").read(record, context)
    assert item == Trajectory(
        id="7",
        task_id=item.task_id if isinstance(item, Trajectory) else "",
        messages=(
            Message(role="system", content="Act."),
            Message(role="user", content="Find it."),
            Message(
                role="assistant",
                content="",
                tool_calls=({**CALL, "function": {"name": "look", "arguments": {"at": "shelf"}}},),
            ),
            Message(role="tool", content="A cup.", tool_call_id="c1"),
            Message(role="assistant", content="Done."),
        ),
        tools=({"type": "function", "function": {"name": "look"}},),
        reward=0.5,
        success=True,
        outcome=Outcome.TRUNCATED,
        split="train",
        info={"cost": 3, "model": "m"},
    )
    assert context.unread == {"message field 'reasoning_content'": 1}


def test_the_same_prompt_is_the_same_task() -> None:
    first = read("openai", {"messages": [USER, YES]})
    other = read("openai", {"messages": [USER, NO]})
    third = read("openai", {"messages": [SEEN, NO]})
    assert first.task_id == other.task_id != third.task_id
    assert first.task_id.startswith("prompt-")
    assert read("openai", {"messages": [USER, YES], "task_id": 5}).task_id == "5"
    bare, unlike = (read("openai", {"messages": [said, USER, YES]}) for said in (YES, NO))
    assert bare.task_id.startswith("conversation-")
    assert bare.task_id != unlike.task_id, "nothing says that these two attempted the same"


@pytest.mark.parametrize(
    "arguments", ['{"a": 1, "a": 2}', "look at it", "[1]", "", '{"a": ' + "[" * 100_000, "null"]
)
def test_arguments_that_are_no_object_stay_as_they_are(arguments: str) -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": arguments}}
    item = read("openai", {"messages": [USER, {"role": "assistant", "tool_calls": [call]}]})
    assert item.messages[1].tool_calls == (call,)
    assert format_named("openai").write(item)["messages"][1]["tool_calls"] == [call]  # type: ignore[index]


def test_the_function_calls_of_old() -> None:
    said = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}}
    item = read("openai", {"messages": [USER, said, {"role": "function", "name": "look", "content": "ok"}]})
    assert item.messages[1].tool_calls == (
        {"type": "function", "function": {"name": "look", "arguments": {}}},
    )
    assert item.messages[2] == Message(role="tool", content="ok", name="look")


@pytest.mark.parametrize(("name", "mark"), [("openai", {"weight": 0}), ("ms-swift", {"loss": False})])
def test_first_turns_that_nobody_learns_are_context(name: str, mark: dict[str, Any]) -> None:
    ok = {"role": "assistant", "content": "OK", **mark}
    item = read(name, {"messages": [USER, ok, SEEN, YES, SEEN, {**YES, "weight": 1}]})
    assert (item.context_turns, item.num_turns, len(item.prompt)) == (1, 2, 3)
    assert format_named(name).write(item)["messages"][1] == ok  # type: ignore[index]
    with pytest.raises(
        BadRecord, match="assistant turn 1 is marked as not to be learned, but turn 0"
    ) as caught:
        read(name, {"messages": [USER, YES, SEEN, ok]})
    assert caught.value.reason == "unscored_turn"
    with pytest.raises(BadRecord, match="no assistant turn to learn from"):
        read(name, {"messages": [USER, ok]})


def test_agentgym() -> None:
    said = [
        {"from": "human", "loss": None, "value": "Rules."},
        {"from": "gpt", "loss": False, "value": "OK"},
        {"from": "human", "loss": None, "value": "Find the cup."},
        {"from": "gpt", "loss": True, "value": "take cup"},
    ]
    record = {"conversations": said, "item_id": "alfworld_3"}
    item = read("agentgym", record)
    assert (item.id, item.task_id, item.context_turns, item.num_turns) == ("line-1", "alfworld_3", 1, 1)
    assert format_named("agentgym").write(item) == record


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("trl", {"prompt": [USER], "chosen": [{**YES, "weight": 0}, SEEN, YES], "rejected": [NO]}),
        (
            "trl",
            {"prompt": [USER], "chosen": [YES], "rejected": [{**NO, "weight": 0}, SEEN, {**NO, "weight": 1}]},
        ),
        ("sharegpt", {"prompt": [HUMAN], "chosen": [{**GPT, "weight": 0}], "rejected": [GPT]}),
        ("sharegpt", {"conversations": [HUMAN, {**GPT, "weight": 0}, HUMAN, GPT]}),
    ],
)
@pytest.mark.parametrize("mark", ["weight", "loss"])
def test_marks_that_a_format_does_not_read_are_counted(name: str, record: dict[str, Any], mark: str) -> None:
    marked = json.loads(json.dumps(record).replace("weight", mark))
    context = Context(default_id="line-1")
    format_named(name).read(marked, context)
    assert context.unread == {f"message field {mark!r}": 1}


def test_marks_in_a_prompt_say_nothing() -> None:
    context = Context(default_id="line-1")
    marked = {"prompt": [USER, {**YES, "loss": False}, USER], "chosen": [YES], "rejected": [NO]}
    format_named("trl").read(marked, context)
    assert not context.unread


def test_etos_pairs_and_llama_factorys() -> None:
    ok = {"from": "gpt", "value": "OK"}
    eto = read(
        "sharegpt", {"id": 3, "prompt": [HUMAN, ok, HUMAN], "chosen": [GPT, HUMAN, GPT], "rejected": [ok]}
    )
    assert [message.role for message in eto.prompt] == ["user", "assistant", "user"]
    assert (eto.id, len(eto.chosen), eto.rejected[0].content) == ("3", 3, "OK")
    factory = read("sharegpt", {"conversations": [HUMAN], "chosen": GPT, "rejected": ok, "system": "Act."})
    assert factory.prompt[0] == Message(role="system", content="Act.")
    assert (factory.chosen[0].content, factory.rejected[0].content) == ("take cup", "OK")


def test_sharegpts_tools() -> None:
    said = [
        HUMAN,
        {"from": "function_call", "value": '{"name": "look", "arguments": {"at": "shelf"}}'},
        {"from": "observation", "value": "A cup."},
        {"from": "function_call", "value": '[{"name": "a"}, {"name": "b"}]'},
    ]
    item = read("sharegpt", {"conversations": said, "tools": '[{"name": "look"}]'})
    assert item.messages[1].tool_calls == (LOOK,)
    assert item.messages[2].role == "tool"
    assert len(item.messages[3].tool_calls) == 2
    assert item.tools == ({"name": "look"},)


def test_ms_swifts_pairs() -> None:
    """A response stands for the last message alone; whole conversations part at their first turn."""
    whole = [USER, YES, SEEN, YES]
    answer = read("ms-swift", {"messages": whole, "rejected_response": "sleep"})
    assert (len(answer.prompt), len(answer.chosen), answer.rejected[0].content) == (3, 1, "sleep")
    both = read("ms-swift", {"messages": whole, "rejected_messages": [USER, YES, SEEN, NO]})
    assert (len(both.prompt), len(both.chosen), len(both.rejected)) == (1, 3, 3)
    context = [USER, {**YES, "loss": False}, SEEN]
    marked = read("ms-swift", {"messages": [*context, YES], "rejected_messages": [*context, NO]})
    assert (len(marked.prompt), len(marked.chosen)) == (3, 1)


def test_ms_swifts_calls_belong_to_the_message_before() -> None:
    call = {"role": "tool_call", "content": json.dumps({"name": "look", "arguments": {"at": "shelf"}})}
    said = [USER, YES, call, call, {"role": "tool_response", "content": "ok"}, call]
    item = read("ms-swift", {"messages": said})
    assert [message.role for message in item.messages] == ["user", "assistant", "tool", "assistant"]
    assert item.messages[1] == Message(role="assistant", content="take cup", tool_calls=(LOOK, LOOK))
    assert format_named("ms-swift").write(item)["messages"] == said


@pytest.mark.parametrize(
    ("name", "record", "reason", "says"),
    [
        ("trl", {"chosen": "good", "rejected": "bad"}, "no_messages", "'chosen' is a string; give a list"),
        ("trl", {"chosen": [YES], "rejected": [NO]}, "no_shared_prompt", "share no message before the first"),
        (
            "trl",
            {"prompt": [USER], "chosen": [SEEN], "rejected": [NO]},
            "no_turns",
            "chosen has no assistant",
        ),
        ("trl", {**RECORDS["trl"][0], "tools": "look"}, "bad_tools", "'tools' is text and no JSON"),
        ("trl", {**RECORDS["trl"][0], "tools": [3]}, "bad_tools", "'tools' must be a list of JSON objects"),
        ("trl", {**RECORDS["trl"][0], "id": [3]}, "bad_id", r"'id' is \[3\]; use a string or a number"),
        ("openai", {"messages": [USER]}, "no_turns", "no assistant turn to learn from"),
        ("openai", {"messages": [3]}, "bad_message", r"must be a JSON object, not int \(messages\[0\]\)"),
        ("openai", {"messages": [{"role": "bot"}]}, "bad_role", r"role is 'bot'; .* \(messages\[0\]\)"),
        ("openai", {"messages": [{"role": ["bot"]}]}, "bad_role", "role is "),
        (
            "openai",
            {"messages": [{"role": "user"}]},
            "bad_message",
            r"content is NoneType; .* \(messages\[0\]",
        ),
        (
            "openai",
            {"messages": [USER, YES], "reward": "1"},
            "bad_reward",
            "reward is '1'; it must be a finite",
        ),
        ("openai", {"messages": [USER, YES], "score": float("inf")}, "bad_reward", "score is inf"),
        (
            "openai",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "not_text",
            "a part of type 'image_url'; multiturn reads text only",
        ),
        ("ms-swift", {"messages": [USER], "rejected_response": "x"}, "bad_message", "stands for the last"),
        (
            "ms-swift",
            {"messages": [USER, YES], "rejected_messages": [USER, NO], "rejected_tools": [{"name": "x"}]},
            "bad_tools",
            "'rejected_tools' differ from 'tools'",
        ),
        (
            "ms-swift",
            {"messages": [{"role": "tool_call", "content": "look"}]},
            "bad_tool_call",
            "must be JSON",
        ),
        ("sharegpt", {"conversations": [{"from": "bing", "value": "x"}]}, "bad_role", "is from 'bing'; use"),
        (
            "sharegpt",
            {"conversations": [{"from": "gpt", "value": 3}]},
            "bad_message",
            "value is int; it must",
        ),
        ("sharegpt", {"conversations": [HUMAN, GPT], "system": 3}, "bad_message", "'system' is int"),
    ],
)
def test_records_that_are_none(name: str, record: dict[str, Any], reason: str, says: str) -> None:
    with pytest.raises(BadRecord, match=says) as caught:
        read(name, record)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("fields", "names", "expected"),
    [
        ({"reward": 0.5}, ("reward", "score"), (0.5, "reward")),
        ({"reward": None, "score": 1}, ("reward", "score"), (1.0, "score")),
        ({"won": True}, ("won",), (1.0, "won")),
        ({"info": {"score": 0.25}}, ("info.score",), (0.25, "")),
        ({"info": 3}, ("info.score",), (None, "")),
        ({}, ("reward",), (None, "")),
    ],
)
def test_where_a_return_is_found(fields: dict[str, Any], names: tuple[str, ...], expected: Any) -> None:
    assert reward_of(fields, names) == expected


def test_the_field_of_returns_can_be_named_for_our_own_files_too() -> None:
    messages = (Message(role="user", content="x"), Message(role="assistant", content="y"))
    own = Trajectory(id="a", task_id="t", messages=messages, reward=0.5, info={"score": 0.25}).to_json()
    assert read("multiturn", own).reward == 0.5
    assert read("multiturn", own, reward_fields=("info.score",)).reward == 0.25


def test_context_turns_of_our_own_files() -> None:
    said = (Message(role="user", content="x"), *[Message(role="assistant", content=c) for c in "ab"])
    own = Trajectory(id="a", task_id="t", messages=said, context_turns=1)
    assert Trajectory.from_json(own.to_json()) == own
    assert (own.prompt, own.num_turns, own.turns[0].message) == (said[:2], 1, said[2])
    assert "context_turns" not in Trajectory(id="a", task_id="t", messages=said).to_json()
    for wrong in (-1, 0.5, "1", True):
        with pytest.raises(DataError, match="context_turns is"):
            Trajectory.from_json({**own.to_json(), "context_turns": wrong})
