"""Training: one loop for every architecture, seeded, resumable, and sparse where the architecture allows it."""

from sae_core.training.artifact import train_run
from sae_core.training.loop import Batches, Observer, TrainingResult, train

__all__ = ["Batches", "Observer", "TrainingResult", "train", "train_run"]
