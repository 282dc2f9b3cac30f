"""From what a user hands to a trainer to a model, a tokenizer and rendered rows."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any, Final

from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoTokenizer, PreTrainedModel, set_seed

from multiturn.errors import ConfigError
from multiturn.models import load_policy
from multiturn.models.quantized import is_quantized, merged, quantization_of
from multiturn.models.wrapped import bare_model
from multiturn.tokens import Renderer
from multiturn.training.data import RenderedRows

if TYPE_CHECKING:
    from collections.abc import Callable

    from peft import PeftConfig
    from transformers import PreTrainedTokenizerBase

    from multiturn.training.config import TurnTrainingArguments
    from multiturn.training.rows import Rows
    from multiturn.trajectory import Json

__all__ = [
    "Rendering",
    "adapter_settings",
    "attach_adapter",
    "merge_adapter",
    "name_of",
    "open_model",
    "recompute_activations",
    "render_sets",
    "require_trainable",
]

_MOVES_WEIGHTS: Final = ("pissa", "olora", "corda", "loftq")
"""How the names of those starts of LoRA begin that take something out of the weights under the adapter."""


def open_model(
    model: str | PreTrainedModel | PeftModel, processing_class: PreTrainedTokenizerBase | None
) -> tuple[Any, PreTrainedTokenizerBase]:
    """The model and its tokenizer.

    Args:
        model: A name or path, or a model.
        processing_class: The tokenizer; None takes the one that belongs to the model.

    Raises:
        ConfigError: The model is neither, or no tokenizer is found.
    """
    if isinstance(model, str):
        policy = load_policy(model)
        return policy.model, processing_class or policy.tokenizer
    if not isinstance(model, PreTrainedModel | PeftModel):
        raise ConfigError(
            f"model is a {type(model).__name__}; give a name, a path or a transformers PreTrainedModel"
        )
    if processing_class is not None:
        return model, processing_class
    name = getattr(model.config, "_name_or_path", "") or ""
    try:
        return model, AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no tokenizer was given and none was found in {name!r}; pass processing_class=tokenizer"
        ) from error


class Rendering:
    """Renders datasets as the settings of a trainer say.

    Args:
        render_rows: `render_pairs` or `render_trajectories`.
        model: The model, whose own limit holds where `args` set none.
        tokenizer: Its tokenizer.
        args: The settings.

    Attributes:
        chat_template: The Jinja text to save with the trained model; None for the tokenizer's own.
        stop_ids: The token ids that end a turn.

    Raises:
        ConfigError: There is no such chat template.
    """

    def __init__(
        self,
        render_rows: Callable[..., RenderedRows[Any]],
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        args: TurnTrainingArguments,
    ) -> None:
        self._render_rows = render_rows
        self._renderer = Renderer(tokenizer, chat_template=args.chat_template)
        self._max_length = _model_limit(model) if args.max_length is None else args.max_length
        self._overlong = args.overlong
        self.chat_template = None if args.chat_template == "model" else self._renderer.template_source
        self.stop_ids = self._renderer.stop_ids

    def __call__(self, rows: Rows) -> RenderedRows[Any]:
        """Render the rows of one dataset."""
        return self._render_rows(rows, self._renderer, max_length=self._max_length, overlong=self._overlong)


def _model_limit(model: Any) -> int | None:
    """The tokens a model's context holds, where that is known."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if isinstance(limit, int) and limit > 0 else None


def render_sets(
    rows: Any,
    render: Callable[[Any], RenderedRows[Any]],
) -> Any:
    """Render a dataset, or each of several by name; what is rendered already and None stay as they are."""
    if rows is None or isinstance(rows, RenderedRows):
        return rows
    if isinstance(rows, dict):
        return {name: render_sets(each, render) for name, each in rows.items()}
    return render(rows)


def longest_of(*rows: Any) -> int:
    """The tokens, up to the last scored one, of the longest sequence of rendered datasets; 0 without any.

    Args:
        *rows: Rendered rows, such rows by name, or anything else, which is left out.
    """
    sets = [each for entry in rows for each in (entry.values() if isinstance(entry, dict) else [entry])]
    rendered = [row for each in sets if isinstance(each, RenderedRows) for row in each.rows]
    return max((sequence.scored_length for row in rendered for sequence in row.sequences), default=0)


def require_trainable(model: Any) -> None:
    """Refuse a model that training could not change.

    Raises:
        ConfigError: No parameter may be trained.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "no parameter of the model may be trained; load its adapter with is_trainable=True, or give a "
            "peft_config"
        )


def name_of(model: Any) -> str:
    """The name, hub id or folder that a model was loaded from; empty for one that was made in memory."""
    return str(getattr(bare_model(model).config, "_name_or_path", "") or "")


def recompute_activations(model: Any, args: TurnTrainingArguments) -> None:
    """Set a model to recompute its activations, if the settings say so.

    Transformers does it too, when training begins, but by then a pass of the model has been checked.
    """
    if getattr(args, "activation_checkpointing", None) or args.gradient_checkpointing:
        # Transformers 5.23 has another name for it than versions before.
        name = "activation_checkpointing_enable"
        getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")()


def adapter_settings(model: Any) -> dict[str, Json]:
    """What an adapter's settings are called in a card, and what they are; empty without an adapter."""
    if not isinstance(model, PeftModel):
        return {}
    config: Any = model.peft_config[model.active_adapter]
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    bits = quantization_of(model)
    settings: dict[str, Json] = {"adapter": kind if bits is None else f"{kind} on 4 bits ({bits.upper()})"}
    for name, field in (("rank", "r"), ("alpha", "lora_alpha"), ("dropout", "lora_dropout")):
        if hasattr(config, field):
            settings[f"adapter's {name}"] = getattr(config, field)
    targets = getattr(config, "target_modules", None)
    if targets:
        # A place may be named with its whole path; that every layer has it goes without saying.
        places = [targets] if isinstance(targets, str) else {name.rpartition(".")[2] for name in targets}
        settings["adapter's places"] = ", ".join(sorted(places))
    return settings


def merge_adapter(model: Any) -> Any:
    """The model with its adapter, if it has one, merged into its weights (the adapter is gone then).

    Raises:
        ConfigError: The weights are quantized, and would round the adapter away.
    """
    if isinstance(model, PeftModel) and is_quantized(model):
        raise ConfigError(
            "the model's adapter would be merged into weights of 4 bits, which rounds it away; merge and "
            "save it first (`multiturn sft` and `train` do), and load that model quantized"
        )
    return merged(model)


def attach_adapter(model: Any, peft_config: PeftConfig | None, args: TurnTrainingArguments) -> Any:
    """The model with a fresh adapter; the same for the same seed.

    Args:
        model: A model without an adapter.
        peft_config: The adapter's settings; None attaches nothing.
        args: Gives the seed.

    Raises:
        ConfigError: The model's weights are quantized, and there is no adapter to train; or the adapter's
            settings would change more than the adapter.
    """
    if is_quantized(model) and peft_config is None and not isinstance(model, PeftModel):
        raise ConfigError("weights of 4 bits cannot be trained themselves; give a peft_config (LoRA)")
    if peft_config is None:
        return model
    if is_quantized(model):
        # Norms, embeddings and the head in float32; all of them frozen.
        prepare: Any = prepare_model_for_kbit_training
        model = prepare(model, use_gradient_checkpointing=False)
    _require_plain_start(peft_config)
    set_seed(args.seed)
    # PEFT fills in the settings it is given; the caller may want to use them again.
    peft_config = copy.deepcopy(peft_config)
    peft_config.inference_mode = False  # as settings are that come with a loaded adapter
    with warnings.catch_warnings():
        # PEFT still asks transformers by a name that newer versions call deprecated.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        adapted = get_peft_model(model, peft_config)
    if getattr(args, "activation_checkpointing", None) or args.gradient_checkpointing:
        adapted.enable_input_require_grads()
    return adapted


def _require_plain_start(peft_config: PeftConfig) -> None:
    """Refuse adapters without which the model is not the one it was.

    Raises:
        ConfigError: It is such an adapter.
    """
    start = getattr(peft_config, "init_lora_weights", True)
    if isinstance(start, str) and start.startswith(_MOVES_WEIGHTS):
        raise ConfigError(
            f"peft_config: init_lora_weights {start!r} changes the weights under the adapter, so that the "
            "reference, and whatever the saved adapter is put on, would be another model; use True or "
            "'gaussian'"
        )
    bias = getattr(peft_config, "bias", "none")
    if bias != "none":
        raise ConfigError(
            f"peft_config: bias {bias!r} trains weights under the adapter, so that the reference would move "
            "with the policy; use 'none'"
        )
