"""Training: SFT, DMPO and trajectory DPO on one `transformers.Trainer`."""

from multiturn.training.checkpoints import latest_checkpoint
from multiturn.training.config import DMPOConfig, SFTConfig, TurnTrainingArguments
from multiturn.training.data import DataReport, RenderedRows, render_pairs, render_trajectories
from multiturn.training.preference import DMPOTrainer, train_preference
from multiturn.training.sft import SFTTrainer, train_sft
from multiturn.training.trainer import TurnTrainer

__all__ = [
    "DMPOConfig",
    "DMPOTrainer",
    "DataReport",
    "RenderedRows",
    "SFTConfig",
    "SFTTrainer",
    "TurnTrainer",
    "TurnTrainingArguments",
    "latest_checkpoint",
    "render_pairs",
    "render_trajectories",
    "train_preference",
    "train_sft",
]
