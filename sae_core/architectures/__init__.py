"""Sparse autoencoder architectures, one a file.

A new one that can be read and run is a final subclass of ``Sae`` that says what ``activate`` is, and a line in
``ARCHITECTURES``. One that can be trained has a config class in ``sae_core.config`` (with its ``architecture`` name),
extends ``TrainableSae`` and says what its ``loss`` is. Where its codes are the positive pre-activations or the largest
of them, ``sparse_rule`` also gives it the fast training step.
"""

from collections.abc import Callable
from typing import Any, cast

from sae_core.architectures.base import Conventions, Loss, Sae, SparseRule, TrainableSae, trainable
from sae_core.architectures.gated import Gated
from sae_core.architectures.jumprelu import JumpReLU
from sae_core.architectures.standard import Standard
from sae_core.architectures.topk import TopK
from sae_core.config import SaeConfig

ARCHITECTURES: dict[str, type[Sae]] = {kind.architecture: kind for kind in (TopK, Standard, JumpReLU, Gated)}
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
    settings = config.model_dump(exclude={"architecture", "lr"})
    sae = create(getattr(config, "architecture", type(config).__name__), d_in, **settings)
    return trainable(sae).initialise(seed)


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
    "Conventions",
    "Gated",
    "JumpReLU",
    "Loss",
    "Sae",
    "SparseRule",
    "Standard",
    "TopK",
    "TrainableSae",
    "build",
    "create",
    "trainable",
]
