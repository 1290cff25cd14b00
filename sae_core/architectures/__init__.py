"""Sparse autoencoder architectures, one a file.

A new one is a final subclass of ``TrainableSae`` that says what ``activate`` and ``loss`` are, a config class in
``sae_core.config`` with its ``architecture`` name, and a line in ``ARCHITECTURES``; one that can only be run is a
subclass of ``Sae``. Where most codes are zero, ``sparse_rule`` also gives it the fast training step.
"""

from collections.abc import Callable
from typing import Any, cast

from sae_core.architectures.base import Conventions, Sae
from sae_core.architectures.batch_topk import BatchTopK
from sae_core.architectures.gated import Gated
from sae_core.architectures.jumprelu import JumpReLU
from sae_core.architectures.matryoshka import MatryoshkaBatchTopK
from sae_core.architectures.p_anneal import PAnneal
from sae_core.architectures.standard import Standard
from sae_core.architectures.standard_april import StandardApril
from sae_core.architectures.topk import TopK
from sae_core.architectures.trainable import WITHOUT_WARMUP, Loss, Moment, SparseRule, TrainableSae, trainable
from sae_core.config import SaeConfig

ARCHITECTURES: dict[str, type[Sae]] = {
    kind.architecture: kind
    for kind in (Standard, StandardApril, TopK, BatchTopK, JumpReLU, Gated, PAnneal, MatryoshkaBatchTopK)
}
"""Every architecture by its name in configs and files."""


def build(config: SaeConfig, d_in: int, seed: int) -> TrainableSae:
    """An untrained SAE: decoder rows random of unit length, the encoder their transpose, biases zero.

    Args:
        config: a variant, as in a study file.
        d_in: width of the activations.
        seed: seed of the initial weights; the global generator is untouched.

    Raises:
        ValueError: if the architecture is unknown or cannot be trained, or the sizes are impossible.
    """
    settings = config.model_dump(exclude={"architecture", *(set(SaeConfig.model_fields) - {"d_sae"})})
    name = getattr(config, "architecture", type(config).__name__)
    kind = ARCHITECTURES.get(name)
    if kind is not None and issubclass(kind, TrainableSae) and kind.trained_with != Conventions():
        settings["conventions"] = kind.trained_with
    return trainable(create(name, d_in, **settings)).initialise(seed)


def create(architecture: str, d_in: int, d_sae: int, **settings: Any) -> Sae:
    """An SAE with all parameters zero, to load weights into.

    Args:
        settings: the other arguments of the architecture's constructor.

    Raises:
        ValueError: if the architecture is unknown or the sizes are impossible.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; known are {', '.join(sorted(ARCHITECTURES))}")
    make = cast(Callable[..., Sae], ARCHITECTURES[architecture])
    return make(d_in, d_sae, **settings)


__all__ = [
    "ARCHITECTURES",
    "WITHOUT_WARMUP",
    "BatchTopK",
    "Conventions",
    "Gated",
    "JumpReLU",
    "Loss",
    "MatryoshkaBatchTopK",
    "Moment",
    "PAnneal",
    "Sae",
    "SparseRule",
    "Standard",
    "StandardApril",
    "TopK",
    "TrainableSae",
    "build",
    "create",
    "trainable",
]
