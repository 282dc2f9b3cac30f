"""The cached decoder gives what computing every conversation anew gives, in whatever order it is asked."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from multiturn.agents.decoder import CachedDecoder, PlainDecoder, make_decoder
from multiturn.agents.snapshot import decoding_copy

VOCABULARY = 97
ROWS = 4
TOKENS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    **TOKENS,
}
CONFIGS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "qwen2-sliding": lambda: transformers.Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=2
    ),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=16),
    "mistral-sliding": lambda: transformers.MistralConfig(**SIZES, sliding_window=7),
    "gemma": lambda: transformers.GemmaConfig(**SIZES, head_dim=16),
    "gemma2": lambda: transformers.Gemma2Config(
        **SIZES, head_dim=16, sliding_window=6, query_pre_attn_scalar=16
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SIZES, head_dim=16, sliding_window=6, query_pre_attn_scalar=16
    ),
    # All positions of a row beyond 70 tokens turn in another way.
    "phi3-longrope": lambda: transformers.Phi3Config(
        **SIZES,
        original_max_position_embeddings=70,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [1.0, 2.0, 5.0, 9.0],
            "original_max_position_embeddings": 70,
            "factor": 256 / 70,
        },
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256, **TOKENS
    ),
}


def make_model(name: str) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = load(CONFIGS[name]())
    for parameter in model.parameters():
        parameter.data = parameter.data.double()
    return model


def load(config: Any) -> PreTrainedModel:
    factory: Any = AutoModelForCausalLM
    model: PreTrainedModel = factory.from_config(config)
    model.train(mode=False)
    return model


def random_work(rng: np.random.Generator) -> list[tuple[int, list[int]]]:
    rows = rng.permutation(ROWS)[: rng.integers(1, ROWS, endpoint=True)]
    counts = [rng.choice([1, 1, 1, 2, 13, 70]) for _ in rows]
    return [(int(r), rng.integers(VOCABULARY, size=n).tolist()) for r, n in zip(rows, counts, strict=True)]


@pytest.mark.parametrize("name", list(CONFIGS))
def test_equals_plain(name: str) -> None:
    """30 random passes with rows cut back and copied in between; every logit agrees in float64.

    The limit is 1e-12, or 1e-6 for Gemma 2, whose own attention takes its softmax in float32.
    """
    model = make_model(name)
    fast = make_decoder(decoding_copy(model, torch.float64), rows=ROWS, max_length=256)
    plain = PlainDecoder(decoding_copy(model, torch.float64), rows=ROWS)
    assert isinstance(fast, CachedDecoder)
    rng = np.random.default_rng(1)
    for _ in range(30):
        for decoder in (fast, plain):
            for row in range(ROWS):
                if len(decoder.ids[row]) > 180:
                    decoder.keep(row, 10)
        if rng.random() < 0.3:
            row = int(rng.integers(ROWS))
            length = int(rng.integers(len(plain.ids[row]), endpoint=True))
            fast.keep(row, length)
            plain.keep(row, length)
        if rng.random() < 0.3:
            source, target = rng.permutation(ROWS)[:2].tolist()
            length = int(rng.integers(len(plain.ids[source]), endpoint=True))
            fast.copy(source, target, length)
            plain.copy(source, target, length)
        work = random_work(rng)
        torch.testing.assert_close(
            fast.step(work), plain.step(work), rtol=0.0, atol=1e-6 if name == "gemma2" else 1e-12
        )
        assert fast.ids == plain.ids


@pytest.mark.parametrize("fast", [True, False])
def test_a_row_that_grows_long_is_as_if_computed_alone(fast: bool) -> None:  # noqa: FBT001
    """Also on the way back, and beside short ones; 70 is the limit."""
    model = make_model("phi3-longrope")
    copy = decoding_copy(model, torch.float64)
    decoder = CachedDecoder(copy, rows=3, max_length=256) if fast else PlainDecoder(copy, rows=3)

    def check(work: list[tuple[int, list[int]]]) -> None:
        got = decoder.step(work)
        with torch.no_grad():
            alone = [model(input_ids=torch.tensor([decoder.ids[row]])).logits[0, -1] for row, _ in work]
        torch.testing.assert_close(got, torch.stack(alone), rtol=0.0, atol=1e-12)

    first = [(7 * i) % VOCABULARY for i in range(68)]
    check([(0, first), (1, [5, 6]), (2, [9] * 75)])
    for token in range(5):  # one token at a time over the limit
        check([(1, [token]), (0, [token + 10])])
    decoder.copy(0, 1, 30)  # a beginning of a long row is short again
    check([(2, [1]), (1, [2, 3])])
    decoder.keep(2, 69)
    check([(0, [4]), (2, [8])])
    check([(2, [8, 8])])


def test_room_follows_the_longest_row() -> None:
    """An eighth more in blocks of 64: 60 tokens take 128, enough for 70; 200 take 256; back at 20, 64 do."""
    decoder = CachedDecoder(decoding_copy(make_model("llama"), torch.float64), rows=2, max_length=256)
    # 4 layers, keys and values, 2 rows, 2 heads, 8 numbers of 8 bytes a head.
    one_token = 4 * 2 * 2 * 2 * 8 * 8
    sizes = []
    for length in (60, 70, 200, 20):
        decoder.keep(0, 0)
        decoder.step([(0, [3] * length)])
        sizes.append(decoder.nbytes // one_token)
    assert sizes == [128, 128, 256, 64]
    decoder.free()
    assert decoder.nbytes == 0


def test_everything_is_moved_a_few_times_only_while_a_row_grows() -> None:
    decoder = CachedDecoder(decoding_copy(make_model("llama"), torch.float64), rows=1, max_length=2048)
    sizes = []
    for _ in range(100):
        decoder.step([(0, [3] * 20)])
        sizes.append(decoder.nbytes)
    assert len(set(sizes)) < 20
    assert decoder.nbytes <= 2048 * 4 * 2 * 2 * 8 * 8


def test_room_that_is_right_is_left_alone() -> None:
    """Ten tokens are less than half of the smallest room; it is not allocated again at every pass."""
    decoder = CachedDecoder(decoding_copy(make_model("llama"), torch.float64), rows=1, max_length=256)
    decoder.step([(0, [3] * 10)])
    before = list(decoder._cache._keys.values())
    decoder.step([(0, [3])])
    after = decoder._cache._keys.values()
    assert all(old is new for old, new in zip(before, after, strict=True))


def test_a_row_that_does_not_fit_is_refused() -> None:
    decoder = CachedDecoder(decoding_copy(make_model("llama"), torch.float64), rows=1, max_length=100)
    decoder.step([(0, [3] * 100)])
    with pytest.raises(ValueError, match="limit is 100"):
        decoder.step([(0, [3])])
    assert decoder.ids[0] == [3] * 100


@pytest.mark.parametrize(
    "config",
    [
        transformers.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, **TOKENS),
        transformers.Lfm2Config(**SIZES, layer_types=["conv", "full_attention", "conv", "full_attention"]),
    ],
    ids=["alibi", "convolutions"],
)
def test_other_models_fall_back(config: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A model that does not keep plain keys and values still decodes, and says that it is slow."""
    model = load(config)
    with caplog.at_level(logging.WARNING, logger="multiturn"):
        decoder = make_decoder(decoding_copy(model, torch.float32), rows=2, max_length=64)
    assert isinstance(decoder, PlainDecoder)
    assert "cannot decode from the fast cache" in caplog.text
    logits = decoder.step([(1, [5, 6, 7]), (0, [8])])
    wanted = model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False).logits[0, -1]
    torch.testing.assert_close(logits[0], wanted, rtol=1e-4, atol=1e-5)
