"""Uniform weights are TRL's DPO and its relatives, where every completion token is the assistant's."""

from __future__ import annotations

import dataclasses
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
import torch
from torch import Tensor

from multiturn.objective import PAIR_OBJECTIVES, PairLogps, dpo

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


Gradients: TypeAlias = "tuple[Tensor, ...]"


class Comparison:
    """A real `trl.DPOTrainer` on a tiny random Llama, with its own tokenization, collator and losses.

    The other side is plain: the model's logits, log_softmax, sums, and an objective of ours. How a completion
    is divided into turns does not matter to uniform weights.
    """

    def __init__(self, folder: Path) -> None:
        datasets = pytest.importorskip("datasets")
        from trl.trainer.dpo_config import DPOConfig
        from trl.trainer.dpo_trainer import DPOTrainer

        tokenizer = tiny_tokenizer()
        self.model, self.reference = tiny_llama(tokenizer, seed=1), tiny_llama(tokenizer, seed=2)
        self.trainer: Any = DPOTrainer(
            model=self.model,
            ref_model=self.reference,
            args=DPOConfig(
                output_dir=str(folder),
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
        self.model.train()

    def batch(self, rows: slice) -> dict[str, Tensor]:
        """Some of the rows, as its collator batches them."""
        examples = [self.trainer.train_dataset[i] for i in range(len(ROWS))]
        return dict(self.trainer.data_collator(examples[rows]))

    def theirs(
        self, batch: dict[str, Tensor], loss: str, label_smoothing: float = 0.0
    ) -> tuple[Tensor, Gradients]:
        """Its loss of that type, and the derivatives for every parameter."""
        self.trainer.loss_types, self.trainer.label_smoothing = [loss], label_smoothing
        self.trainer._metrics["train"].clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value: Tensor = self.trainer.compute_loss(self.model, dict(batch))
        return value, torch.autograd.grad(value, list(self.model.parameters()))

    def pairs(self, batch: dict[str, Tensor]) -> PairLogps:
        """Our view of the batch."""
        policy = turn_sums(self.model, batch)
        with torch.no_grad():
            baseline = turn_sums(self.reference, batch)
        tokens = batch["completion_mask"].sum(1)
        pairs = len(policy) // 2
        two_turns = torch.full((pairs,), 2)
        return PairLogps(
            policy_chosen=policy[:pairs],
            policy_rejected=policy[pairs:],
            reference_chosen=baseline[:pairs],
            reference_rejected=baseline[pairs:],
            num_turns_chosen=two_turns,
            num_turns_rejected=two_turns,
            num_tokens_chosen=tokens[:pairs],
            num_tokens_rejected=tokens[pairs:],
        )

    def same(self, ours: Tensor, theirs: Tensor, expected: Gradients) -> None:
        """Ours is theirs in value and in every derivative."""
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
        found = torch.autograd.grad(ours, list(self.model.parameters()))
        for (name, _), one, other in zip(self.model.named_parameters(), found, expected, strict=True):
            assert other.abs().max() > 0, name
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * other.abs().max().item())


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other packages warn about on import is not ours
        pytest.importorskip("trl", reason="the comparison needs TRL")
        return Comparison(tmp_path_factory.mktemp("trl"))


def test_dpo_is_trls_sigmoid_loss_in_value_and_in_every_gradient(comparison: Comparison) -> None:
    batch = comparison.batch(slice(None))
    assert bool((batch["attention_mask"] == 0).any()), "the batch has padding"
    theirs, gradients = comparison.theirs(batch, "sigmoid")
    output = dpo(comparison.pairs(batch), beta=BETA)
    assert output.metrics["rewards/margins"].abs().max() > 0.1, "policy and reference differ"
    comparison.same(output.loss, theirs, gradients)
    logged = comparison.trainer._metrics["train"]
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"):
        assert output.metrics[name].mean().item() == pytest.approx(logged[name][0], rel=1e-5), name
    assert output.metrics["rewards/accuracies"].mean().item() == logged["rewards/accuracies"][0]


@pytest.mark.parametrize(
    ("name", "loss", "label_smoothing", "rows"),
    [
        ("hinge", "hinge", None, slice(None)),
        ("robust", "robust", 0.2, slice(None)),
        # Its label smoothing of the plain loss is only left in this one, which sorts a batch's log-ratios:
        # of one pair there is nothing to sort.
        ("cdpo", "aot", 0.2, slice(0, 1)),
        ("cdpo", "aot", 0.2, slice(1, 2)),
    ],
)
def test_other_links_are_trls_losses(
    comparison: Comparison, name: str, loss: str, label_smoothing: float | None, rows: slice
) -> None:
    batch = comparison.batch(rows)
    theirs, gradients = comparison.theirs(batch, loss, label_smoothing or 0.0)
    objective = PAIR_OBJECTIVES[name]
    ours = objective(comparison.pairs(batch), beta=BETA, gamma=1.0, label_smoothing=label_smoothing).loss
    comparison.same(ours, theirs, gradients)


def test_ipo_is_trls_on_log_probabilities_divided_by_tokens(comparison: Comparison) -> None:
    """TRL averages log-ratios over tokens, we sum them (M21): without the division it is another loss."""
    batch = comparison.batch(slice(None))
    theirs, gradients = comparison.theirs(batch, "ipo")
    logps = comparison.pairs(batch)
    means = {}
    for side in ("chosen", "rejected"):
        tokens = getattr(logps, f"num_tokens_{side}")[:, None]
        for model in ("policy", "reference"):
            means[f"{model}_{side}"] = getattr(logps, f"{model}_{side}") / tokens
    ours = PAIR_OBJECTIVES["ipo"](dataclasses.replace(logps, **means), beta=BETA, gamma=1.0).loss
    comparison.same(ours, theirs, gradients)
    summed = PAIR_OBJECTIVES["ipo"](comparison.pairs(batch), beta=BETA, gamma=1.0).loss
    assert not torch.isclose(summed, theirs, rtol=0.1)


def test_simpo_is_the_simpo_of_trls_cpo(comparison: Comparison) -> None:
    """Its trainer's own function, given the means over tokens that it would compute."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("trl.experimental.cpo", reason="this TRL has no CPO")
    logps = comparison.pairs(comparison.batch(slice(None)))
    assert logps.num_tokens_chosen is not None
    assert logps.num_tokens_rejected is not None
    trainer = SimpleNamespace(
        alpha=0.0,
        beta=2.0,
        simpo_gamma=0.6,
        loss_type="simpo",
        label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )
    losses, chosen, rejected = module.CPOTrainer.cpo_loss(
        trainer,
        logps.policy_chosen.sum(1) / logps.num_tokens_chosen,
        logps.policy_rejected.sum(1) / logps.num_tokens_rejected,
    )
    output = PAIR_OBJECTIVES["simpo"](logps, beta=2.0, gamma=1.0, target_margin=0.6)
    torch.testing.assert_close(output.losses, losses, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(output.metrics["rewards/chosen"], chosen)
    torch.testing.assert_close(output.metrics["rewards/rejected"], rejected)
    by_sums = [logps.policy_chosen, logps.policy_rejected]
    expected = torch.autograd.grad(losses.mean(), by_sums, retain_graph=True)
    for ours, theirs in zip(torch.autograd.grad(output.loss, by_sums), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
