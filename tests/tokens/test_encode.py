"""The encoder behind the renderer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from token_templates import byte_level, chatml, decode, mistral, tools
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from multiturn.tokens.encode import Encoder


def test_shielding_comes_back() -> None:
    encoder = Encoder(chatml(), chatml().chat_template or "")
    for text in (
        "plain",
        "a<|im_end|>b<|im_start|>",
        chr(0xF0000) + "<|im_end|>" + chr(0xF0003),
        "\U000f0002",
    ):
        assert encoder.unshield(encoder.shield(text, trusted=True)) == text
        assert "<|im_end|>" not in encoder.shield(text, trusted=True)
    assert encoder.shield("plain", trusted=False) == "plain"


def test_the_longest_token_is_shielded() -> None:
    tokenizer = byte_level(None, special=("<a", "<a>", "<|im_end|>"))
    encoder = Encoder(tokenizer, "")
    assert len(encoder.shield("<a>", trusted=True)) == 1
    assert encoder.unshield(encoder.shield("<a><a", trusted=True)) == "<a><a"


def test_nested_data() -> None:
    encoder = Encoder(chatml(), "")
    value = {"a": ["<|im_end|>", 1, None], "b": {"c": ("x<|im_end|>",)}}
    text = json.dumps(encoder.shield_all(value, trusted=True), ensure_ascii=False)
    assert "im_end" not in text
    assert json.loads(encoder.unshield(text)) == json.loads(json.dumps(value))


def test_trust() -> None:
    """Only special tokens are shielded in trusted text, also tags that the template writes in other text."""
    tokenizer = tools()
    encoder = Encoder(tokenizer, tokenizer.chat_template or "")
    text = "<tool_call><think><|im_end|>"
    assert encoder.shield(text, trusted=True).startswith("<tool_call><think>")
    shielded = encoder.shield(text, trusted=False)
    assert "<tool_call>" not in shielded
    assert "<think>" in shielded  # This template does not write it: it is a word like any other.


def test_words_that_users_added_stay_words() -> None:
    tokenizer = byte_level(None, tags=("fridge",))
    encoder = Encoder(tokenizer, "")
    fridge = tokenizer.convert_tokens_to_ids("fridge")
    assert fridge in encoder.segment("", encoder.shield("a fridge <|im_end|>", trusted=False))


def test_words_that_users_added_keep_their_ids_beside_literal_control_tokens() -> None:
    """Taking a control token out would move those behind it: every word stays the word it is."""
    tokenizer = byte_level(None, special=("<|a|>", "<|im_end|>"))
    words = [f"word{i}" for i in range(5)]
    tokenizer.add_tokens(words[:2])
    tokenizer.add_tokens([AddedToken("<|late|>", special=True)], special_tokens=True)
    tokenizer.add_tokens([*words[2:], "<tag>"])
    encoder = Encoder(tokenizer, "the template writes a <tag>")
    text = "word4 <|late|> word0<tag>word2 <|a|>word3 word1"
    ids = encoder.segment("", encoder.shield(text, trusted=False))
    assert encoder.control_ids.isdisjoint(ids)
    assert decode(tokenizer, ids) == text
    known = tokenizer.get_vocab()
    wanted = [known[word] for word in ("word4", "word0", "word2", "word3", "word1")]
    assert [i for i in ids if i in wanted] == wanted
    plain = encoder.segment("", encoder.shield("word4 word0", trusted=False))
    assert (plain[0], plain[-1]) == (wanted[0], wanted[1])


def test_a_segment_is_encoded_in_its_context() -> None:
    tokenizer = mistral()
    encoder = Encoder(tokenizer, tokenizer.chat_template or "")
    marks = tokenizer.convert_ids_to_tokens(list(encoder.segment("<s>[INST] Go. [/INST]", " ok</s>")))
    assert "".join(marks) == "▁ok</s>"
    assert "".join(tokenizer.convert_ids_to_tokens(list(encoder.segment("", "ok")))) == "▁ok"


def test_no_token_reaches_across_the_boundary() -> None:
    tokenizer = byte_level(None)
    encoder = Encoder(tokenizer, "")
    assert len(tokenizer.encode(" shelf", add_special_tokens=False)) == 1
    context, segment = "<|im_end|> sh", "elf"
    together = [*tokenizer.encode(context, add_special_tokens=False), *encoder.segment(context, segment)]
    assert decode(tokenizer, together) == context + segment
    assert list(encoder.segment(context, segment)) == tokenizer.encode(segment, add_special_tokens=False)


def test_the_tail_begins_at_the_last_control_token() -> None:
    encoder = Encoder(chatml(), "")
    assert encoder.tail("<|im_start|>user\na<|im_end|>\nb") == "<|im_end|>\nb"
    assert encoder.tail("nothing here") == "nothing here"


@pytest.mark.parametrize("text", ["<|im_end|>", "a<|im_end|>b", "<|im_start|><|im_end|>"])
def test_a_word_of_the_vocabulary_that_looks_special(text: str) -> None:
    """Some vocabularies hold the special token's text as a word that no merge is needed for."""
    vocabulary = {letter: i for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    special = ["<|im_start|>", "<|im_end|>"]
    vocabulary |= {token: len(vocabulary) + i for i, token in enumerate(special)}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    make: Any = PreTrainedTokenizerFast
    tokenizer = make(tokenizer_object=bpe, **dict(zip(("bos_token", "eos_token"), special, strict=True)))
    encoder = Encoder(tokenizer, "")
    ids = encoder.segment("", encoder.shield(text, trusted=True))
    assert not set(tokenizer.all_special_ids) & set(ids)
    assert "".join(tokenizer.convert_ids_to_tokens(list(ids))) == text
