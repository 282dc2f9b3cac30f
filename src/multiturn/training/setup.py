"""From what a user hands to a trainer to a model, a tokenizer and rendered rows."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

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
    from multiturn.training.rows import Rows

__all__ = [
    "Rendering",
    "attach_adapter",
    "merge_adapter",
    "open_model",
    "render_sets",
    "require_trainable",
]


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
