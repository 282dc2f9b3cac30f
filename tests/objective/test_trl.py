"""Uniform weights are TRL's DPO, where every completion token is the assistant's."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from multiturn.objective import PairLogps, dpo

if TYPE_CHECKING:
    from pathlib import Path

BETA = 0.3
ROWS = [
    {"prompt": "open the drawer", "chosen": "take the key from the drawer", "rejected": "go to the bed"},
    {"prompt": "look", "chosen": "go", "rejected": "take the drawer go to the key open the bed"},
    {"prompt": "take the key", "chosen": "open the bed", "rejected": "look look look look"},
]
PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"


def tiny_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for row in ROWS for text in row.values() for word in text.split()})
    vocabulary = {word: index for index, word in enumerate([PAD, EOS, UNKNOWN, *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens([PAD, EOS, UNKNOWN])
    build: Any = PreTrainedTokenizerFast  # its constructor is not typed
    return build(tokenizer_object=inner, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN)


def tiny_llama(tokenizer: Any, *, seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,  # far from uniform predictions
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def turn_sums(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Each sequence's log-probabilities ``[2 B, 2]``: the first token of its completion, and all others."""
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    targets = batch["input_ids"][:, 1:, None]
    tokens = logits[:, :-1].log_softmax(-1).gather(2, targets).squeeze(2)
    place = batch["completion_mask"][:, 1:].cumsum(1) * batch["completion_mask"][:, 1:]
    return torch.stack([torch.where(which, tokens, 0.0).sum(1) for which in (place == 1, place > 1)], 1)


def test_dpo_is_trls_sigmoid_loss_in_value_and_in_every_gradient(tmp_path: Path) -> None:
    """A real `trl.DPOTrainer` on a tiny random Llama, with its own tokenization, collator and loss.

    The other side of the comparison is plain: the model's logits, log_softmax, sums, `dpo`. How a
    completion is divided into turns does not matter to uniform weights.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other packages warn about on import is not ours
        pytest.importorskip("trl", reason="the comparison needs TRL")
        datasets = pytest.importorskip("datasets")
        from trl.trainer.dpo_config import DPOConfig
        from trl.trainer.dpo_trainer import DPOTrainer

        tokenizer = tiny_tokenizer()
        model, reference = tiny_llama(tokenizer, seed=1), tiny_llama(tokenizer, seed=2)
        trainer: Any = DPOTrainer(
            model=model,
            ref_model=reference,
            args=DPOConfig(
                output_dir=str(tmp_path),
                beta=BETA,
                loss_type=["sigmoid"],
                use_cpu=True,
                bf16=False,
                report_to=[],
                gradient_checkpointing=False,
            ),
            train_dataset=datasets.Dataset.from_list(ROWS),
            processing_class=tokenizer,
        )
        batch = trainer.data_collator(list(trainer.train_dataset))
        model.train()
        theirs = trainer.compute_loss(model, dict(batch))
        their_gradients = torch.autograd.grad(theirs, list(model.parameters()))

    assert bool((batch["attention_mask"] == 0).any()), "the batch has padding"
    policy = turn_sums(model, batch)
    with torch.no_grad():
        baseline = turn_sums(reference, batch)
    pairs = len(ROWS)
    two_turns = torch.full((pairs,), 2)
    output = dpo(
        PairLogps(
            policy_chosen=policy[:pairs],
            policy_rejected=policy[pairs:],
            reference_chosen=baseline[:pairs],
            reference_rejected=baseline[pairs:],
            num_turns_chosen=two_turns,
            num_turns_rejected=two_turns,
        ),
        beta=BETA,
    )
    assert output.metrics["rewards/margins"].abs().max() > 0.1, "policy and reference differ"
    torch.testing.assert_close(output.loss, theirs, rtol=1e-5, atol=1e-7)
    gradients = torch.autograd.grad(output.loss, list(model.parameters()))
    for (name, _), ours, expected in zip(model.named_parameters(), gradients, their_gradients, strict=True):
        assert expected.abs().max() > 0, name
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    logged = trainer._metrics["train"]
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"):
        assert output.metrics[name].mean().item() == pytest.approx(logged[name][0], rel=1e-5), name
    assert output.metrics["rewards/accuracies"].mean().item() == logged["rewards/accuracies"][0]
