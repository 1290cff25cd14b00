"""True features: random directions, or random directions pushed apart. Part of the *synthetic* stage."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

_RATE = 0.25
"""Step of the descent, where 1/6 is sure to go downhill and 1/2 at times goes uphill."""
_MAX_STEPS, _TOLERANCE = 400, 1e-4
"""The descent ends after so many steps, or when one of them gains less than this share."""


def gaussian(d_gt: int, d_in: int, rng: np.random.Generator) -> Float[Tensor, "d_gt d_in"]:
    """Independent, uniformly random directions: rows of iid normals, scaled to unit length. float32.

    Raises:
        ValueError: if a size is not positive.
    """
    return _random_rows(d_gt, d_in, rng).float()


def orthogonalised(d_gt: int, d_in: int, rng: np.random.Generator) -> Float[Tensor, "d_gt d_in"]:
    """Random directions pushed apart: unit rows, float32.

    Up to ``d_in`` rows are exactly orthonormal, and uniformly random otherwise. More rows cannot be: the squared
    cosines of different rows add up to at least ``d_gt^2 / d_in - d_gt`` (Welch 1974; Benedetto & Fickus 2003). Many
    dictionaries reach that sum, also such with nearly equal rows. So the fourth powers of the cosines are minimised, by
    gradient descent from random directions: the sum of the squares ends within a few percent of its bound, and the
    largest cosine far below that of random directions (0.24 instead of 0.76 for 32 in 16 dimensions).

    A step costs ``4 d_gt^2 d_in`` multiplications: milliseconds for 32 features, seconds for 800.

    Raises:
        ValueError: if a size is not positive.
    """
    rows = _random_rows(d_gt, d_in, rng)
    if d_gt <= d_in:
        Q, R = torch.linalg.qr(rows.T)
        orthonormal: Tensor = Q * R.diagonal().sign()
        return orthonormal.T.float().contiguous()
    before = float("inf")
    for _ in range(_MAX_STEPS):
        cosines = (rows @ rows.T).fill_diagonal_(0)
        squares = cosines.square()
        after = float(squares.square().sum())
        if after > before * (1 - _TOLERANCE):
            break
        before = after
        # The curvature is at most 6 times the largest squared cosine times that of a dictionary that spreads evenly.
        step = _RATE / (float(squares.max()) * d_gt / d_in)
        rows = normalize(rows - step * (squares * cosines) @ rows)
    return rows.float()


def _random_rows(d_gt: int, d_in: int, rng: np.random.Generator) -> Tensor:
    if min(d_gt, d_in) < 1:
        raise ValueError(f"a dictionary needs at least one row and one column: got d_gt={d_gt}, d_in={d_in}")
    return normalize(torch.from_numpy(rng.standard_normal((d_gt, d_in))))
