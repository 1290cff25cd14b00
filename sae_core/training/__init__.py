"""Training: one loop for every architecture, seeded, resumable, and sparse where the architecture allows it."""

from sae_core.training.artifact import train_run, train_runs
from sae_core.training.loop import Batches, train
from sae_core.training.run import DivergedError, Job, Observer, TrainingResult
from sae_core.training.together import train_together

__all__ = [
    "Batches",
    "DivergedError",
    "Job",
    "Observer",
    "TrainingResult",
    "train",
    "train_run",
    "train_runs",
    "train_together",
]
