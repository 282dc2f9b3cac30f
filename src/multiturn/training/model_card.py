"""The card of a trained model: what it is, how it came about, what it can be loaded with."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.metadata
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from multiturn.cache import SEAL, seal
from multiturn.files import whole_file
from multiturn.models.load import DEFAULT_MODEL
from multiturn.training.trackers import run_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from multiturn.training.config import TurnTrainingArguments
    from multiturn.training.data import DataReport
    from multiturn.trajectory import Json

__all__ = ["Origin", "Trained", "add_results", "hub_id", "write_card"]

DEFAULT_HUB_ID: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Where the weights of `DEFAULT_MODEL` come from."""
PACKAGES: Final = ("multiturn", "torch", "transformers", "tokenizers", "accelerate", "peft", "bitsandbytes")
RESULTS: Final = ("<!-- evaluation -->", "<!-- end of evaluation -->")
"""What stands before and behind the part of a card that `add_results` replaces."""
LOAD_MODEL: Final = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")  # of this folder
model = AutoModelForCausalLM.from_pretrained("PATH")
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
output = model.generate(**inputs, max_new_tokens=256, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```

Or `vllm serve PATH`, which takes the chat template and the tokens that end a turn from this folder, too."""
LOAD_ADAPTER: Final = """```python
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained("PATH")  # with the model that it was trained on
model = model.merge_and_unload()  # weights of its own: for vLLM, or to save them
```"""
MERGED_BEFORE: Final = (
    "The initial model had an adapter merged into it in memory: load it, merge that one, and put this one on "
    "the result."
)
LONGEST: Final = 600
"""Characters of a text from elsewhere that a card shows at most."""

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MARKUP: Final = re.compile(
    r"([\\`*{}\[\]<>|#~$!&@]|:(?=//)|(?<=www)\.|(?<![^\W_])_|_(?![^\W_]))", re.IGNORECASE
)
"""What Markdown might take for its own, addresses and names among it; an underscore within a word is none."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a model was trained from.

    Attributes:
        name: The name, hub id or folder of the initial model; empty for one that was made in memory.
        fingerprint: Of its weights.
        merged: Whether an adapter was merged into it before the training, in memory.
        reference: Where the reference's log-probabilities came from; None without a reference.
        reference_name: What the reference was, if not the initial model.
        reference_fingerprint: Of the reference's weights.
    """

    name: str = ""
    fingerprint: str = ""
    merged: bool = False
    reference: str | None = None
    reference_name: str | None = None
    reference_fingerprint: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training has to say of itself.

    Attributes:
        method: What was trained, for example ``"DMPO"``.
        objective: The objective's settings.
        adapter: The adapter's settings; empty for full fine-tuning.
        precision: The dtype of the weights, and of the computation where it is another.
        layout: How batches were laid out in the end.
        data: What became of the rows.
        data_fingerprint: A hash of the rows as they were trained on.
        log: The trainer's records.
        warnings: The warnings of the training.
        steps: Optimizer steps.
        seconds: Seconds of training.
    """

    method: str
    objective: Mapping[str, Json]
    adapter: Mapping[str, Json]
    precision: str
    layout: str
    data: DataReport
    data_fingerprint: str
    log: Sequence[Mapping[str, Any]]
    warnings: Sequence[str]
    steps: int
    seconds: float


def write_card(trained: Trained, args: TurnTrainingArguments, origin: Origin, *, adapter: bool) -> str:
    """The text of a card, with the metadata that Hugging Face reads at its top.

    Texts from elsewhere (names, warnings) are shown as they are and are never markup.

    Args:
        trained: What was trained, and how it went.
        args: The settings.
        origin: What it was trained from.
        adapter: Whether the card stands beside an adapter, not beside a whole model.
    """
    parts = [
        _metadata(trained.method, hub_id(origin.name), adapter=adapter),
        f"# {_plain(args.run_name or run_name(Path(args.output_dir or '.'), trained.method, args.seed))}",
        _what(trained.method, adapter=adapter),
        "## Recipe",
        _table(("setting", "value"), _recipe(trained, args)),
        "## Trained from",
        _table(("", ""), _lineage(origin)),
        "## Data",
        _table(("", ""), _data(trained)),
        "## How the training ended",
        _table(("", ""), _outcome(trained)),
        *(f"Warning: {_plain(warning)}" for warning in trained.warnings),
        *RESULTS,
        "## Loading",
        _loading(args, origin, adapter=adapter),
        "## Versions",
        _table(("package", "version"), _versions().items()),
        f"Written on {dt.datetime.now(dt.UTC).date().isoformat()}.",
        "## Licence",
        "See the base model's, and that of the data; then say so in a line `license:` at the top.",
    ]
    return "\n\n".join(parts) + "\n"


def add_results(card: Path, rows: Sequence[Mapping[str, object]], *, note: str = "") -> bool:
    """Show results of an evaluation in a model's card, in the place of those that it showed before.

    Args:
        card: The card's file.
        rows: The rows of the table; the first one's keys name its columns. Numbers that are no whole ones
            are shown with four significant digits.
        note: What to say below the table.

    Returns:
        Whether there is a card; a model without one stays without.

    Raises:
        OSError: The card cannot be read or written.
    """
    if not card.is_file():
        return False
    text = card.read_text(encoding="utf-8", errors="replace")
    begin, end = RESULTS
    columns = tuple(rows[0]) if rows else ()
    shown = [begin]
    if rows:
        shown += ["## Evaluation", _table(columns, [[row.get(name, "") for name in columns] for row in rows])]
    shown += [_plain(note)] if note else []
    before, found, rest = text.partition(begin)
    after = rest.partition(end)[2] if found and end in rest else "\n"
    content = before.rstrip("\n") + "\n\n" + "\n\n".join([*shown, end]) + after
    with whole_file(card) as file:
        file.write(content)
    if (card.parent / SEAL).is_file():  # the folder's record knows the sizes of its files
        seal(card.parent)
    return True


def hub_id(name: str) -> str | None:
    """Where on the hub a model comes from, if that is known.

    Args:
        name: A name, a hub id or a folder. A folder is asked for the base model in its card.
    """
    folder = Path(name).expanduser() if name else None
    if folder is not None and folder.is_dir():
        if folder.name.startswith(DEFAULT_MODEL):
            return DEFAULT_HUB_ID
        return _base_in_card(folder / "README.md")
    if name == DEFAULT_MODEL:
        return DEFAULT_HUB_ID
    return name if _HUB_ID.fullmatch(name) else None


def _base_in_card(card: Path) -> str | None:
    """The base model that another card names."""
    try:
        parts = card.read_text(encoding="utf-8").split("---\n", 2)
        metadata = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    base = metadata.get("base_model") if isinstance(metadata, dict) else None
    return base if isinstance(base, str) and _HUB_ID.fullmatch(base) else None


def _metadata(method: str, base: str | None, *, adapter: bool) -> str:
    content: dict[str, Any] = {"library_name": "peft" if adapter else "transformers"}
    if base is not None:
        content["base_model"] = base
    tags = ["multiturn", re.sub(r"[^a-z0-9.-]+", "-", method.lower()), "agents"]
    content |= {"pipeline_tag": "text-generation", "tags": tags}
    return f"---\n{yaml.safe_dump(content, sort_keys=False)}---"


def _what(method: str, *, adapter: bool) -> str:
    kind = "An adapter" if adapter else "A language model"
    return f"{kind} for agents that act over many turns, trained by multiturn with {_plain(method)}."


def _recipe(trained: Trained, args: TurnTrainingArguments) -> list[tuple[str, object]]:
    # Which one it is stands in another field in newer versions of transformers.
    checkpointing = getattr(args, "activation_checkpointing", None) or args.gradient_checkpointing
    rows_at_once = args.per_device_train_batch_size * max(1, args.world_size)
    return [
        *trained.objective.items(),
        ("learning rate", f"{args.learning_rate:g}"),
        ("schedule", f"{_value(args.lr_scheduler_type)}, warm-up {args.warmup_steps:g}"),
        ("optimizer", f"{_value(args.optim)}, weight decay {args.weight_decay:g}"),
        ("gradients clipped to a norm of", args.max_grad_norm),
        ("epochs", f"{args.num_train_epochs:g}"),
        *((("optimizer steps at most, whatever the epochs", args.max_steps),) if args.max_steps > 0 else ()),
        ("rows of an optimizer step", rows_at_once * args.gradient_accumulation_steps),
        ("tokens of a pass at most", args.max_tokens_per_batch or "no limit"),
        ("tokens of a conversation at most", args.max_length or "the model's own limit"),
        ("longer conversations", args.overlong),
        ("precision (weights+computation)", trained.precision),
        *trained.adapter.items(),
        ("gradient checkpointing", "on" if checkpointing else "off"),
        ("chat template", _template(args)),
        ("layout", trained.layout),
        ("seed", args.seed),
    ]


def _lineage(origin: Origin) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [
        ("initial model", _short(origin.name) + (", its adapter merged" if origin.merged else "")),
        ("fingerprint of its weights", origin.fingerprint or "unknown"),
    ]
    if origin.reference is not None:
        what = "the initial model" if origin.reference_name is None else _short(origin.reference_name)
        rows.append(("reference", f"{what} ({origin.reference})"))
        rows.append(("fingerprint of its weights", origin.reference_fingerprint or "unknown"))
    return rows


def _data(trained: Trained) -> list[tuple[str, object]]:
    data = trained.data
    return [
        ("rows", f"{data.used} of {data.rows}"),
        ("scored turns", data.turns),
        ("tokens", f"{data.tokens}, {data.scored_tokens} of them scored"),
        ("conversations cut at a turn", data.cut),
        ("SHA-256 of ids, tokens and turns, first digits", trained.data_fingerprint or "unknown"),
    ]


def _outcome(trained: Trained) -> list[tuple[str, object]]:
    nothing: Mapping[str, Any] = {}
    last = next((record for record in reversed(trained.log) if "loss" in record), nothing)
    evaluated = next((record for record in reversed(trained.log) if "eval_loss" in record), nothing)
    names = ("loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")
    kept = (*names, "logratios/chosen", "logratios/rejected")
    return [
        ("optimizer steps", trained.steps),
        ("seconds", round(trained.seconds)),
        *((f"{name} (last record)", last[name]) for name in kept if name in last),
        *(
            (f"{name} (held-out rows)", evaluated[f"eval_{name}"])
            for name in kept
            if f"eval_{name}" in evaluated
        ),
    ]


def _loading(args: TurnTrainingArguments, origin: Origin, *, adapter: bool) -> str:
    template = f"The tokenizer has the chat template of the training ({_plain(_template(args))})"
    if not adapter:
        return f"{LOAD_MODEL}\n\n{template}; no other one fits."
    merged = f" {MERGED_BEFORE}" if origin.merged else ""
    return f"{LOAD_ADAPTER}\n\n{template}, where there is one in this folder.{merged}"


def _template(args: TurnTrainingArguments) -> str:
    """The name of a template; of a file its name alone, for its folder is nobody's business."""
    known = {"model": "the model's own", "compact": "compact"}
    if "{{" in args.chat_template or "{%" in args.chat_template:
        return "given as text"
    return known.get(args.chat_template, Path(args.chat_template).name)


def _short(name: str) -> str:
    """A model's name without the folders of somebody's machine."""
    if not name:
        return "a model in memory"
    if _HUB_ID.fullmatch(name):
        return name
    folder = Path(name)
    # The folder's own name tells little ("model"), that of somebody's home too much.
    parent = "" if folder.parent in (Path.home(), Path(folder.anchor)) else folder.parent.name
    return f"{parent}/{folder.name}" if parent else folder.name


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _table(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        f"| {' | '.join(cell if number == 1 else _plain(cell) for cell in map(_number, line))} |"
        for number, line in enumerate(lines)
    )


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _value(setting: object) -> object:
    """What an enumeration's member stands for."""
    return getattr(setting, "value", setting)


def _plain(text: object) -> str:
    """A text from anywhere as one line of Markdown that shows it and means nothing."""
    shown = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return _MARKUP.sub(r"\\\1", " ".join(shown.split())[:LONGEST])
