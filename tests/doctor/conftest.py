"""A small run that a doctor can look over in a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

TINY = """\
name: tiny
model: {scratch: {vocab_size: 400, hidden_size: 32, layers: 1, heads: 2}}
precision: fp32
environment: {name: household, options: {size: tiny, train: 12, test: 4}, max_turns: 14}
prompt: {chat_template: compact, format: action, instructions: none}
expert: {tasks: 8}
sft: {tasks: 6, epochs: 2, batch_size: 2, learning_rate: 1.0e-3}
explore: {slots: 3, tasks: 5, max_new_tokens: 40}
preference: {batch_size: 2, epochs: 2, learning_rate: 1.0e-3}
methods: {best_of_n: {}, dmpo: {}, dpo: {objective: dpo}}
evaluate: {slots: 2, tasks: 3, max_new_tokens: 40}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Its configuration; the run's folder, ``run`` beside it, is not there yet."""
    path = tmp_path / "tiny.yaml"
    path.write_text(f"{TINY}output: {tmp_path / 'run'}\n", encoding="utf-8")
    return path
