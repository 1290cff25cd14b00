"""What happens when in a training run: learning rate, sparsity penalty, checkpoints, and how many steps there are.

Part of the training stage.
"""

import math
from collections.abc import Iterable

from pydantic import ValidationError

from sae_core.config import LearningRate, TrainingConfig

PAPER_CHECKPOINTS = (0.0, 0.001, 0.00316, 0.01, 0.0316, 0.1, 0.2, 0.3, 0.316, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the steps after which Song et al. 2025 kept their SAEs, but for the last."""


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


def steps_at(shares: Iterable[float], config: TrainingConfig) -> set[int]:
    """Numbers of steps done at these shares of them all; shares that a short run cannot tell apart give one."""
    return {round(share * config.n_steps) for share in shares}


def checkpoint_steps(config: TrainingConfig) -> set[int]:
    """Numbers of steps after which the SAE is kept; never all of them, which is the SAE itself."""
    shares = PAPER_CHECKPOINTS if config.checkpoints == "paper" else config.checkpoints
    return steps_at(shares, config) - {config.n_steps}


def fitted_to(config: TrainingConfig, n_tokens: int) -> TrainingConfig:
    """The settings for a training text of so many tokens: with fewer steps where it ends and is not to be repeated.

    Raises:
        ValueError: if it does not hold a batch, or too few for the schedules.
    """
    n_steps = n_tokens // config.batch_size
    if n_steps == 0:
        raise ValueError(
            f"the training text is too small: {n_tokens:,} tokens, fewer than a batch of {config.batch_size:,}; "
            "lower training.batch_size, read more text (corpus.n_tokens), or raise training.data_fraction"
        )
    if config.on_data_end == "repeat" or n_steps >= config.n_steps:
        return config
    try:
        return TrainingConfig.model_validate({**config.model_dump(), "n_steps": n_steps})
    except ValidationError as error:
        reasons = "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())
        raise ValueError(
            f"the training text is too small: {n_tokens:,} tokens are {n_steps:,} steps of {config.batch_size:,} when "
            f"none is seen twice, and n_steps={config.n_steps:,} was asked for: {reasons}; read more text "
            "(corpus.n_tokens), or set training.on_data_end to repeat"
        ) from None
