"""PCA whitening of activations for training, and the way back (Saraswatula and Klindt 2025, arXiv 2511.13981).

Part of the training stage. An SAE is trained on ``(x - mean) matrix``; at its end the transform is folded into it, so
that it reads activations as they are. Its codes stay the same; its decoder rows then have any length, because lengths
moved into codes would change which of them are the largest.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Float64
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_core.architectures import Sae
from sae_core.formats.saelens_folds import unwhitened
from sae_core.shards import Shards
from sae_core.whole_files import write_whole

FILE = "whitening.safetensors"
MAX_TOKENS = 262_144
"""Tokens that mean and covariance are measured on, the first ones as stored, which is shuffled."""
SMALLEST_SHARE = 1e-6
"""Eigenvalues of the covariance are raised to this share of their mean: a direction with less variance is rounding of
the stored numbers more than anything else, and is not blown up to unit variance."""
_BLOCK = 8192


@dataclass(frozen=True)
class Whitening:
    """An affine map and its inverse, in float64."""

    mean: Float64[Tensor, " d_in"]
    matrix: Float64[Tensor, "d_in d_in"]
    """Columns are eigenvectors of the covariance over the roots of their eigenvalues."""
    inverse: Float64[Tensor, "d_in d_in"]
    mean_squared_norm: float
    """Of the whitened activations: d_in, less what the smallest directions lack."""

    def apply(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        """Whitened activations, float32."""
        return (x.float() - self.mean.float()) @ self.matrix.float()

    @torch.no_grad()
    def fold(self, sae: Sae) -> Sae:
        """Turn an SAE of whitened activations into the same SAE of activations as they are, in place."""
        weights = sae.state_dict()  # the tensors of the SAE themselves
        mean, matrix, inverse = (part.to(sae.W_dec.device) for part in (self.mean, self.matrix, self.inverse))
        folded = unwhitened(weights, mean, matrix, inverse, sae.conventions.subtract_b_dec)
        for name, tensor in folded.items():
            weights[name].copy_(tensor)
        return sae

    def write(self, folder: Path) -> None:
        """Write ``whitening.safetensors``, with the names that SAELens gives the parts."""
        parts = {
            "mean": self.mean,
            "matrix": self.matrix,
            "inverse_matrix": self.inverse,
            "mean_squared_norm": torch.tensor(self.mean_squared_norm, dtype=torch.float64),
        }
        write_whole(folder / FILE, lambda part: save_file({n: t.contiguous() for n, t in parts.items()}, part))


def read_whitening(folder: Path) -> Whitening | None:
    """What ``write`` wrote; None where there is none."""
    if not (folder / FILE).is_file():
        return None
    parts = load_file(folder / FILE)
    return Whitening(parts["mean"], parts["matrix"], parts["inverse_matrix"], float(parts["mean_squared_norm"]))


def measure_whitening(shards: Shards) -> Whitening:
    """The whitening of stored activations, from one pass over at most ``MAX_TOKENS`` of them.

    Raises:
        ValueError: if there are not more tokens than dimensions, or the activations do not vary.
    """
    if shards.n_tokens <= shards.d_in:
        raise ValueError(
            f"whitening needs more tokens than d_in = {shards.d_in}: got {shards.n_tokens}; read more text, or set "
            "whiten to false"
        )
    n, total = 0, torch.zeros(shards.d_in, dtype=torch.float64)
    products = torch.zeros(shards.d_in, shards.d_in, dtype=torch.float64)
    origin: Tensor | None = None
    for block in shards.in_order(_BLOCK):
        x = block.activations[: MAX_TOKENS - n].double()
        # Near their mean, squares lose nothing to a mean that is far larger than what varies.
        origin = x.mean(0) if origin is None else origin
        x -= origin
        n, total, products = n + len(x), total + x.sum(0), products + x.T @ x
        if n == MAX_TOKENS:
            break
    assert origin is not None
    centre = total / n
    values, directions = torch.linalg.eigh(products / n - torch.outer(centre, centre))
    if not values.mean() > 0:
        raise ValueError("activations do not vary, so they cannot be whitened; set whiten to false")
    # An eigenvector is known up to its sign: the largest entry is made positive.
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    directions = directions * largest.sign()
    raised = values.clamp_min(SMALLEST_SHARE * float(values.mean()))
    roots = raised.sqrt()
    norm = float((values.clamp_min(0) / raised).sum())
    return Whitening(origin + centre, directions / roots, (directions * roots).T.contiguous(), norm)
