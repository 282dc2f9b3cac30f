"""What the turns of some pairs are worth to the reference and to every policy trained on them.

The report colours turns by it. Nothing is computed twice: sums are kept in the run's reference cache, so a
killed attempt loses some seconds at most.
"""

from __future__ import annotations

import gc
import json
import math
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn.utils.rnn import pad_sequence

from multiturn.errors import DataError
from multiturn.files import whole_file
from multiturn.jsonl import read_pairs
from multiturn.models import ReferenceCache, load_policy, reference_turn_logps
from multiturn.models.rope import length_limit
from multiturn.pipeline.methods import PREFERENCE, SFT
from multiturn.progress import progress
from multiturn.tokens import Renderer
from multiturn.training.data import RenderedPair, render_pairs
from multiturn.training.objectives import PairTask, find_objective, find_weighting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from multiturn.models import Policy
    from multiturn.pipeline.config import Config
    from multiturn.pipeline.run_directory import RunDirectory
    from multiturn.pipeline.train_settings import PreferenceSettings
    from multiturn.tokens import Layout, Rendered
    from multiturn.trajectory import PreferencePair

__all__ = ["PAIRS_SCORED", "models_without_weights", "read_pair_scores", "score_pairs", "spread"]

PAIRS_SCORED: Final = 40
"""Pairs whose turns are scored, where no other number is asked for."""
TOKENS_SCORED: Final = 60_000
"""Tokens of these pairs at most, so that long episodes do not take the time of a training."""

_SCHEMA: Final = 1
_SIDES: Final = ("chosen", "rejected")
_TOKENS_AT_ONCE: Final = 2048
_WEIGHTS: Final = "model.safetensors*"


def score_pairs(config: Config, directory: RunDirectory, *, limit: int = PAIRS_SCORED) -> dict[str, Any]:
    """Score the turns of some pairs and write them to the run's ``pair_scores.json``, all or nothing.

    The file holds, for each of these pairs and each method that trained on them (after its first round), the
    log-probability (nats) of every scored turn under the reference and under the trained policy, its weight
    and its implicit reward (M10).

    Args:
        config: The run's configuration.
        directory: The run's folder, with its pairs and models.
        limit: The number of pairs at most; they are spread evenly over all.

    Returns:
        ``says``, ``pairs`` (scored) and ``missing`` (methods whose model is not there).

    Raises:
        DataError: There are no pairs, or one is not usable.
    """
    missing = models_without_weights(config, directory)
    methods = [name for name in config.of_kind(PREFERENCE) if not {SFT, name} & set(missing)]
    entries = _score(config, directory, methods, limit) if methods and limit > 0 else []
    record = {"schema": _SCHEMA, "precision": config.precision, "pairs": entries}
    with whole_file(directory.pair_scores, errors="backslashreplace") as file:
        json.dump(record, file, ensure_ascii=False, allow_nan=False)
    says = f"turns of {len(entries)} pairs under {len(methods)} policies"
    if missing:
        says += f" (no model of {', '.join(missing)})"
    return {"says": says, "pairs": len(entries), "missing": missing}


def models_without_weights(config: Config, directory: RunDirectory) -> list[str]:
    """The policies that the scores need and whose weights are not in the run's folder."""
    needed = (SFT, *config.of_kind(PREFERENCE))
    return [name for name in needed if not list(directory.model(name).glob(_WEIGHTS))]


def read_pair_scores(path: Path, pairs: Sequence[PreferencePair]) -> dict[int, dict[str, Any]]:
    """The scores that `score_pairs` wrote.

    Args:
        path: The file; where there is none, nothing was scored.
        pairs: The run's pairs. Scores of other ones are left out.

    Returns:
        For the index of each scored pair, by method and side (``chosen``, ``rejected``): the nats of each
        turn, or None, as ``reference`` and ``policy``; and ``weights`` and ``rewards`` of each turn, or None,
        or None for all.

    Raises:
        DataError: The file is no file of scores.
    """
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["schema"] != _SCHEMA:
            raise DataError(f"has schema {record['schema']!r}, not {_SCHEMA}; delete it", path=path)
        return {
            entry["index"]: entry["methods"]
            for entry in record["pairs"]
            if entry["index"] < len(pairs) and pairs[entry["index"]].id == entry["id"]
        }
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"is no file of pair scores ({error!r}); delete it", path=path) from None


def spread(count: int, limit: int) -> list[int]:
    """At most ``limit`` of the numbers from 0 to ``count - 1``, spread evenly, in order."""
    if count <= limit:
        return list(range(count))
    return [position * count // limit for position in range(limit)]


def _score(
    config: Config, directory: RunDirectory, methods: Sequence[str], limit: int
) -> list[dict[str, Any]]:
    """One model in memory at a time: the reference first, then each method's."""
    pairs = read_pairs(directory.pairs)
    picked = spread(len(pairs), limit)
    reference = load_policy(str(directory.model(SFT)))
    rendered = {
        name: _rendered(reference, [pairs[i] for i in picked], config.method(name), config)
        for name in methods
    }
    kept = _within(TOKENS_SCORED, list(rendered.values()))
    rows = {name: [versions[i] for i in kept] for name, versions in rendered.items()}
    with progress("turns", total=len(methods) + 1) as bar:
        wanted = [pair for versions in rows.values() for pair in versions if pair is not None]
        scorer = _Scorer(directory.reference, config.precision, reference, wanted)
        before = scorer.sums(reference, wanted)
        del reference
        bar.advance(note=SFT)
        after: dict[str, dict[Rendered, Tensor]] = {}
        for name in methods:
            gc.collect()
            policy = load_policy(str(directory.model(name)))
            after[name] = scorer.sums(policy, [pair for pair in rows[name] if pair is not None])
            del policy
            bar.advance(note=name)
    return [
        {
            "index": picked[position],
            "id": pairs[picked[position]].id,
            "methods": {
                name: _sides(pair, before, after[name], config.method(name))
                for name in methods
                if (pair := rows[name][row]) is not None
            },
        }
        for row, position in enumerate(kept)
    ]


class _Scorer:
    """Runs models over pairs, all in the layout in which the reference is known already.

    Args:
        folder: The cache's folder.
        precision: ``bf16`` or ``fp32``.
        reference: The reference.
        pairs: What will be scored.
    """

    def __init__(
        self, folder: Path, precision: str, reference: Policy, pairs: Sequence[RenderedPair]
    ) -> None:
        self._folder = folder
        self._autocast = torch.bfloat16 if precision == "bf16" else None
        sequences = [sequence for pair in pairs for sequence in pair.sequences]
        longest = max((sequence.scored_length for sequence in sequences), default=0)
        limit = length_limit(reference.model)
        fits = limit is None or longest <= limit
        layouts: tuple[Layout, ...] = ("padded", "forest") if fits else ("padded",)

        def known(layout: Layout) -> int:
            cache = self._cache(reference, layout)
            return sum(cache.get(sequence) is not None for sequence in sequences)

        # Padded wins where nothing is known: every model takes it.
        self._layout = max(layouts, key=known)

    def sums(self, policy: Policy, pairs: Sequence[RenderedPair]) -> dict[Rendered, Tensor]:
        """Every sequence's per-turn sums ``[T]`` in nats."""
        different = dict.fromkeys(sequence for pair in pairs for sequence in pair.sequences)
        sequences = sorted(different, key=lambda sequence: sequence.token_ids)  # kin beside each other
        model: Any = policy.model
        cache = self._cache(policy, self._layout)  # the fingerprint is taken where the weights are
        known = {sequence: cache.get(sequence) for sequence in sequences}
        missing = [sequence for sequence, sums in known.items() if sums is None]
        found: dict[Rendered, Tensor] = {}
        if missing:
            if torch.accelerator.is_available():
                model.to(torch.accelerator.current_accelerator())
            computed = reference_turn_logps(
                model,
                missing,
                max_tokens=_TOKENS_AT_ONCE,
                layout=self._layout,
                cache=cache,
                autocast=self._autocast,
            )
            found = dict(zip(missing, computed, strict=True))
        return found | {sequence: sums for sequence, sums in known.items() if sums is not None}

    def _cache(self, policy: Policy, layout: Layout) -> ReferenceCache:
        return ReferenceCache.of(
            self._folder,
            policy.model,
            autocast=self._autocast,
            fingerprint=policy.fingerprint,
            layout=layout,
        )


def _rendered(
    policy: Policy, pairs: Sequence[PreferencePair], settings: PreferenceSettings, config: Config
) -> list[RenderedPair | None]:
    """Each pair as a method's training saw it; None where it was dropped."""
    renderer = Renderer(policy.tokenizer, chat_template=config.prompt.chat_template)
    model: Any = policy.model
    own_limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    found: list[RenderedPair | None] = []
    for pair in pairs:
        rows = render_pairs(
            [pair], renderer, max_length=settings.max_length or own_limit, overlong=settings.overlong
        ).rows
        found.append(rows[0] if rows else None)
    return found


def _within(limit: int, methods: Sequence[Sequence[RenderedPair | None]]) -> list[int]:
    """The positions of pairs that have at most so many tokens together, spread over all; one at least."""
    costs = [
        max(sum(s.scored_length for s in pair.sequences) if pair is not None else 0 for pair in versions)
        for versions in zip(*methods, strict=True)
    ]
    count = len(costs)
    while count > 1 and sum(costs[i] for i in spread(len(costs), count)) > limit:
        count -= 1
    return spread(len(costs), count)


def _sides(
    pair: RenderedPair,
    before: dict[Rendered, Tensor],
    after: dict[Rendered, Tensor],
    settings: PreferenceSettings,
) -> dict[str, dict[str, Any]]:
    """What is written of a pair and a method; weights and rewards are the training objective's own."""
    found: dict[str, dict[str, Any]] = {
        side: {
            "reference": _numbers(before[sequence]),
            "policy": _numbers(after[sequence]),
            "weights": None,
            "rewards": None,
        }
        for side, sequence in zip(_SIDES, pair.sequences, strict=True)
    }
    if settings.objective == "sft":
        return found
    task = PairTask(settings.objective, settings.beta, settings.gamma, weighting=settings.weighting)
    weighting = (
        find_objective(settings.objective).weighting
        if settings.weighting is None
        else find_weighting(settings.weighting, settings.gamma)
    )
    counts = torch.tensor([sequence.num_turns for sequence in pair.sequences])
    output = task.score(
        pad_sequence([after[sequence] for sequence in pair.sequences], batch_first=True),
        pad_sequence([before[sequence] for sequence in pair.sequences], batch_first=True),
        counts,
        torch.tensor([sequence.scored_tokens for sequence in pair.sequences]),
    )
    weights = weighting(counts, settings.gamma)
    rewards = (output.turn_rewards_chosen, output.turn_rewards_rejected)
    for row, (side, reward) in enumerate(zip(_SIDES, rewards, strict=True)):
        if reward is not None:
            turns = int(counts[row])
            found[side]["weights"] = _numbers(weights[row, :turns])
            found[side]["rewards"] = _numbers(reward[0, :turns])
    return found


def _numbers(sums: Tensor) -> list[float | None]:
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in sums.tolist()]
