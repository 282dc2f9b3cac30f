"""From what a user hands to a trainer to a model, a tokenizer and rendered rows."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

from peft import PeftModel, get_peft_model
from transformers import AutoTokenizer, PreTrainedModel, set_seed

from multiturn.errors import ConfigError
from multiturn.models import load_policy
from multiturn.tokens import Renderer
from multiturn.training.data import RenderedRows

if TYPE_CHECKING:
    from collections.abc import Callable

    from peft import PeftConfig
    from transformers import PreTrainedTokenizerBase

    from multiturn.training.config import TurnTrainingArguments

__all__ = ["attach_adapter", "length_limit", "merge_adapter", "open_model", "render_sets", "renderer_for"]

RowT = TypeVar("RowT")


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


def renderer_for(tokenizer: PreTrainedTokenizerBase, args: TurnTrainingArguments) -> Renderer:
    """The renderer that `args` asks for."""
    return Renderer(tokenizer, chat_template=args.chat_template)


def length_limit(model: Any, args: TurnTrainingArguments) -> int | None:
    """The tokens a conversation may have: the user's limit, or the model's own where it is known."""
    if args.max_length is not None:
        return args.max_length
    text_config = model.config.get_text_config()
    limit = getattr(text_config, "max_position_embeddings", None)
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


def merge_adapter(model: Any) -> Any:
    """The model with its adapter, if it has one, merged into its weights (the adapter is gone then)."""
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


def attach_adapter(model: Any, peft_config: PeftConfig | None, args: TurnTrainingArguments) -> Any:
    """The model with a fresh adapter; the same for the same seed.

    Args:
        model: A model without an adapter.
        peft_config: The adapter's settings; None attaches nothing.
        args: Gives the seed.
    """
    if peft_config is None:
        return model
    set_seed(args.seed)
    # PEFT fills in the settings it is given; the caller may want to use them again.
    with warnings.catch_warnings():
        # PEFT still asks transformers by a name that newer versions call deprecated.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        adapted = get_peft_model(model, copy.deepcopy(peft_config))
    if getattr(args, "activation_checkpointing", None) or args.gradient_checkpointing:
        adapted.enable_input_require_grads()
    return adapted
