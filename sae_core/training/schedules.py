"""How learning rate and sparsity penalty change over a training run. Part of the training stage."""

import math

from sae_core.config import LearningRate, TrainingConfig


def learning_rate(lr: LearningRate, d_sae: int) -> float:
    """The number behind ``auto``: ``2e-4 / sqrt(d_sae / 2 ** 14)`` (Gao et al. 2024, figure 3)."""
    return 2e-4 / math.sqrt(d_sae / 2**14) if lr == "auto" else lr


def learning_rate_factor(step: int, config: TrainingConfig) -> float:
    """Factor on the learning rate of step ``step`` (from 0): a linear rise, one, a linear fall to zero; in (0, 1]."""
    decay_start = config.decay_start * config.n_steps
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if step >= decay_start:
        return (config.n_steps - step) / (config.n_steps - decay_start)
    return 1.0


def sparsity_factor(step: int, config: TrainingConfig) -> float:
    """Factor on the sparsity penalty of step ``step`` (from 0): rises linearly to one; in (0, 1]."""
    return min(1.0, (step + 1) / max(1, config.sparsity_warmup_steps))
