"""Model cards: what they say, that nothing in them is taken for markup, and results that come later."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from training_samples import lora, pairs, policy, trajectories

from multiturn.cache import is_complete
from multiturn.models import save_policy
from multiturn.models.load import DEFAULT_MODEL
from multiturn.training import DMPOConfig, DMPOTrainer, SFTConfig, SFTTrainer, train_preference, train_sft
from multiturn.training.model_card import DEFAULT_HUB_ID, Origin, Trained, add_results, hub_id, write_card

if TYPE_CHECKING:
    from collections.abc import Mapping

HOSTILE = "x|y`<script>alert(1)</script>\n---\nlicense: mit\n# Heading [a](b) \x1b[31m\ud800"


def metadata(card: str) -> Any:
    """The YAML at the top, as Hugging Face reads it."""
    empty, block, rest = card.split("---\n", 2)
    assert empty == ""
    assert rest
    return yaml.safe_load(block)


def table(card: str) -> Mapping[str, str]:
    """Every row of two cells; of several with one name the first."""
    rows = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    return {row[0]: row[1] for row in reversed(rows) if len(row) == 2}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A model that was trained with DMPO through an adapter."""
    args = DMPOConfig(
        output_dir=str(tmp_path / "shop" / "training" / "dmpo"),
        max_steps=2,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=2e-3,
        logging_steps=1,
        chat_template="compact",
        seed=5,
        bf16=True,
    )
    train_preference(policy(), pairs(6), args, peft_config=lora())
    return tmp_path / "shop" / "training" / "dmpo" / "model"


def test_it_says_how_the_model_was_trained(trained: Path) -> None:
    card = (trained / "README.md").read_text(encoding="utf-8")
    assert metadata(card) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["multiturn", "dmpo", "agents"],
    }
    assert "# shop-dmpo-seed5" in card
    said = table(card)
    fingerprint = policy().fingerprint
    expected = {
        "objective": "dmpo",
        "weighting": "phi",
        "beta": "0.1",
        "gamma": "0.7",
        "learning rate": "0.002",
        "rows of an optimizer step": "4",
        "precision (weights+computation)": "float32+bfloat16",
        "adapter's rank": "4",
        "chat template": "compact",
        "layout": "forest",
        "fingerprint of its weights": fingerprint,
        "reference": "the initial model (cached)",
        "rows": "6 of 6",
        "scored turns": "27",  # pairs() has 1+2+3+1+2+3 chosen turns and 1+4+3+2+1+4 rejected ones
        "optimizer steps": "2",
    }
    assert {name: said[name] for name in expected} == expected
    assert "rewards/margins (last record)" in said
    assert "license" not in metadata(card)
    assert str(trained.parents[2]) not in card  # nobody's folders
    adapter = (trained.parent / "model-adapter" / "README.md").read_text(encoding="utf-8")
    assert metadata(adapter)["library_name"] == "peft"
    assert "AutoPeftModelForCausalLM" in adapter


def test_only_what_the_objective_reads_is_shown(tmp_path: Path) -> None:
    tiny = policy()
    for options, shown, absent in (
        ({"objective": "dpo"}, {"weighting": "uniform"}, {"gamma", "label_smoothing"}),
        ({"objective": "cdpo", "label_smoothing": 0.2}, {"label_smoothing": "0.2"}, {"gamma"}),
        ({"objective": "simpo", "beta": 2.0}, {"beta": "2", "target_margin": "0.5"}, {"reference"}),
    ):
        args = DMPOConfig(output_dir=str(tmp_path), **options)
        trainer = DMPOTrainer(tiny.model, args, train_dataset=pairs(2), processing_class=tiny.tokenizer)
        said = table(trainer.card())
        assert shown.items() <= said.items()
        assert not absent & said.keys()


def test_the_base_model_is_handed_on(tmp_path: Path) -> None:
    """SFT knows the hub id of what it started from; DMPO finds it in the card of the SFT model."""
    tiny = policy()
    tiny.model.config._name_or_path = "some-org/Base-1B"
    options: dict[str, Any] = {"max_steps": 1, "save_strategy": "no"}
    initial = tiny.fingerprint
    args = SFTConfig(output_dir=str(tmp_path / "sft"), **options)
    train_sft(tiny, trajectories(2), args, peft_config=lora())
    first = (tmp_path / "sft" / "model" / "README.md").read_text(encoding="utf-8")
    assert metadata(first)["base_model"] == "some-org/Base-1B"
    assert table(first)["fingerprint of its weights"] == initial
    pairwise = DMPOConfig(output_dir=str(tmp_path / "dmpo"), **options)
    trainer = DMPOTrainer(str(tmp_path / "sft" / "model"), pairwise, train_dataset=pairs(2))
    card = trainer.card()
    assert metadata(card)["base_model"] == "some-org/Base-1B"
    assert table(card)["initial model"] == "sft/model"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (DEFAULT_MODEL, DEFAULT_HUB_ID),
        ("org/name-7B", "org/name-7B"),
        ("/somebody/model", None),
        ("a: b/c", None),
        ("", None),
    ],
)
def test_hub_ids(name: str, found: str | None) -> None:
    assert hub_id(name) == found


@pytest.mark.parametrize(
    "text", ["", "---\nbase_model: [a/b]\n---\n", "---\nbase_model: 'a b/c'\n---\n", "---\n{\n---\n", "---\n"]
)
def test_a_card_that_does_not_say_where_a_model_comes_from(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    assert hub_id(str(tmp_path)) is None


def test_texts_from_elsewhere_are_shown_and_mean_nothing(tmp_path: Path) -> None:
    args = SFTConfig(output_dir=str(tmp_path), run_name=HOSTILE, chat_template="../a|b\n---.jinja")
    blank = policy_facts(tmp_path, objective={"objective": HOSTILE}, warnings=[HOSTILE], method=HOSTILE)
    card = write_card(blank, args, Origin(name=HOSTILE), adapter=False)
    card.encode("utf-8")
    assert set(metadata(card)) == {"library_name", "pipeline_tag", "tags"}
    assert "<script" not in card.replace("\\<script", "")
    assert "\x1b" not in card
    assert not any(line.startswith("license") for line in card.splitlines())
    assert card.count("\n# ") == 1
    rows = [line for line in card.splitlines() if line.startswith("| objective")]
    assert [line.replace("\\|", "").count("|") for line in rows] == [3]


def test_nothing_from_elsewhere_becomes_a_link(tmp_path: Path) -> None:
    text = "see https://a.example, www.b.example, &lt;b&gt; and @somebody"
    blank = policy_facts(tmp_path, warnings=[text])
    card = write_card(blank, SFTConfig(output_dir=str(tmp_path)), Origin(), adapter=False)
    assert "Warning: see https\\://a.example, www\\.b.example, \\&lt;b\\&gt; and \\@somebody" in card


def test_a_template_given_as_text_is_no_name(tmp_path: Path) -> None:
    args = SFTConfig(output_dir=str(tmp_path), chat_template="{% for m in messages %}<{{ m }}/>{% endfor %}")
    card = write_card(policy_facts(tmp_path), args, Origin(name=str(Path.home() / "model")), adapter=False)
    assert "| chat template | given as text |" in card
    assert "| initial model | model |" in card
    assert "| optimizer steps at most" not in card


def test_results_are_added_and_replaced(trained: Path) -> None:
    card = trained / "README.md"
    before = card.read_text(encoding="utf-8")
    first = [{"split": "test", "average reward": 0.25, "episodes": 8}]
    assert add_results(card, first)
    assert add_results(card, [{**first[0], "average reward": 0.5, "split": HOSTILE}], note="95% intervals")
    text = card.read_text(encoding="utf-8")
    assert "0.25" not in text
    assert "| split | average reward | episodes |" in text
    assert "| 0.5 | 8 |" in text
    assert "95% intervals" in text
    assert text.count("## Evaluation") == 1
    assert text.index("## Evaluation") < text.index("## Loading")
    assert is_complete(trained)
    assert add_results(card, [])
    assert card.read_text(encoding="utf-8") == before
    assert sorted(path.name for path in trained.iterdir() if path.name.endswith(".partial")) == []


def test_results_for_cards_that_people_changed(tmp_path: Path) -> None:
    assert not add_results(tmp_path / "README.md", [{"a": 1}])
    (tmp_path / "README.md").write_text("# Mine\n")
    assert add_results(tmp_path / "README.md", [{"a": 1}])
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("# Mine\n\n<!-- evaluation -->\n\n## Evaluation\n\n| a |\n| --- |\n| 1 |\n")


def test_a_card_is_part_of_a_saved_folder(tmp_path: Path) -> None:
    folder = save_policy(policy(), tmp_path / "model", card="# Card\n")
    assert (folder / "README.md").read_text() == "# Card\n"
    assert "README.md" in json.loads((folder / "complete.json").read_text())["sizes"]


def policy_facts(folder: Path, **changed: Any) -> Trained:
    """What a training of nothing says of itself."""
    tiny = policy()
    rows, args = trajectories(1), SFTConfig(output_dir=str(folder))
    facts = SFTTrainer(tiny.model, args, train_dataset=rows, processing_class=tiny.tokenizer).trained()
    return dataclasses.replace(facts, **changed)
