"""The feature directions of an SAE, as the matching sees them, and where they come from.

Part of *formats*.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from sae_core.formats.checkpoint import Checkpoint
from sae_core.formats.sources import Source


@dataclass(frozen=True)
class Dictionary:
    """Feature directions of one SAE."""

    name: str
    """Short name for people: the last part of a path, or repository and folder."""
    W_dec: Float32[np.ndarray, "d_sae d_out"]
    """Decoder, rows are features; mapped from the file where that is possible."""
    W_enc: Float32[np.ndarray, "d_in d_sae"] | None
    """Encoder, columns are features; None when unknown."""
    architecture: str | None
    """Name in ``ARCHITECTURES``; None when only the dictionary is known, or the SAE cannot be run."""
    source: Source


def to_dictionary(checkpoint: Checkpoint, name: str, source: Source) -> Dictionary:
    """The directions of a checkpoint that was checked."""
    W_enc = None if checkpoint.W_enc is None else _numbers(checkpoint.W_enc)
    return Dictionary(name, _numbers(checkpoint.W_dec), W_enc, checkpoint.architecture, source)


def _numbers(tensor: Tensor) -> Float32[np.ndarray, "_ _"]:
    numbers: np.ndarray = tensor.detach().float().numpy()
    return numbers
