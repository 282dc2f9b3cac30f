"""Loading models and reading per-turn log-probabilities off them."""

from multiturn.models.attention import forest_attention
from multiturn.models.facts import ModelFacts, model_facts
from multiturn.models.load import ModelSpec, load_policy, load_tokenizer, scratch_policy
from multiturn.models.logps import Head, turn_logps
from multiturn.models.modes import adapter_off, evaluating, recomputing
from multiturn.models.policy import Policy, save_policy, weights_fingerprint
from multiturn.models.reference import reference_turn_logps
from multiturn.models.reference_cache import ReferenceCache

__all__ = [
    "Head",
    "ModelFacts",
    "ModelSpec",
    "Policy",
    "ReferenceCache",
    "adapter_off",
    "evaluating",
    "forest_attention",
    "load_policy",
    "load_tokenizer",
    "model_facts",
    "recomputing",
    "reference_turn_logps",
    "save_policy",
    "scratch_policy",
    "turn_logps",
    "weights_fingerprint",
]
