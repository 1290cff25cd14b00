"""The exact one-to-one matching of two dictionaries of features: the first step of *consistency*.

Rows of ``W_dec`` are normalised; the score of a pair of rows is the absolute cosine (or the signed one), and the
matching is the linear assignment optimum, rectangular allowed. Small problems go to scipy; large ones to
:mod:`sae_core.sparse_assignment`, which never holds the n x n matrix and proves its answer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sae_core.sparse_assignment import Assignment, assign

Method = Literal["auto", "dense", "sparse"]

DENSE_PAIRS = 1 << 22
"""Up to so many pairs of rows, 2048 x 2048, scipy on the full matrix takes a third of a second: less than it takes to
compile the sparse solver once."""
_CHUNK = 256
"""Rows converted to float64 at a time: few enough to stay in cache."""


@dataclass(frozen=True)
class Matching:
    """The best one-to-one matching of the rows of two dictionaries; all indices are row numbers of the inputs."""

    left: Int64[np.ndarray, " n"]
    """Matched rows of the first dictionary, ascending."""
    right: Int64[np.ndarray, " n"]
    """Their partners in the second dictionary."""
    cosine: Float[np.ndarray, " n"]
    """Signed cosine of every matched pair, float64, in [-1, 1]."""
    best_left: Float[np.ndarray, " n_a"]
    """Largest score of each row of the first dictionary with any row of the second; nan for excluded rows."""
    best_right: Float[np.ndarray, " n_b"]
    """Largest score of each row of the second dictionary with any row of the first; nan for excluded rows."""
    alternative_left: Float[np.ndarray, " n"]
    """Largest score of each matched row of the first dictionary with a row that is not its partner; nan if none."""
    alternative_right: Float[np.ndarray, " n"]
    """The same for the matched rows of the second dictionary."""
    signed: bool
    """Whether the score is the cosine itself instead of its absolute value."""
    gap: float
    """No matching has a mean score above ``mcc + gap`` (0 for scipy; the residual of the certificate otherwise)."""
    tolerance: float
    """Largest gap that counts as proven."""
    n_excluded_left: int
    """Rows of zeros in the first dictionary: they have no direction and take no part."""
    n_excluded_right: int

    @property
    def score(self) -> Float[np.ndarray, " n"]:
        """What the matching maximises: the absolute cosine, or the cosine when signed."""
        return self.cosine if self.signed else np.absolute(self.cosine)

    @property
    def mcc(self) -> float:
        """Mean score over the matched pairs: the mean correlation coefficient, in [0, 1] ([-1, 1] when signed)."""
        return float(self.score.mean())

    @property
    def certified(self) -> bool:
        """Whether no other matching is better by more than the tolerance."""
        return self.gap <= self.tolerance

    @property
    def upper_bound(self) -> float:
        """No matching has a larger mean score; equals ``mcc`` when certified."""
        return self.mcc if self.certified else self.mcc + self.gap

    @property
    def margin_left(self) -> Float[np.ndarray, " n"]:
        """Score of every matched pair minus the best alternative of its left row; nan where there is none."""
        return np.asarray(self.score - self.alternative_left)

    @property
    def margin_right(self) -> Float[np.ndarray, " n"]:
        """Score of every matched pair minus the best alternative of its right row; nan where there is none."""
        return np.asarray(self.score - self.alternative_right)


def match(
    W_a: Float[Tensor | np.ndarray, "n_a d_a"],
    W_b: Float[Tensor | np.ndarray, "n_b d_b"],
    signed: bool = False,
    tolerance: float = 1e-6,
    method: Method = "auto",
    names: tuple[str, str] = ("left", "right"),
) -> Matching:
    """Match the rows of two dictionaries one to one so that the mean absolute cosine is as large as possible.

    The value is MCC of Song et al. 2025 (arXiv 2505.20254, eq. 3): symmetric, unchanged when features are permuted,
    scaled or flipped, or when both dictionaries are rotated together. The mean is over ``min(n_a, n_b)`` pairs, rows
    of zeros left out and counted.

    Args:
        W_a: one feature a row, any floating dtype, on any device.
        W_b: likewise, as wide.
        signed: maximise the cosine itself; the released code of the paper does so, its text does not.
        tolerance: gap between the matching and the proven bound that counts as exact.
        method: ``dense`` (scipy), ``sparse`` (memory-bounded), or ``auto`` by the number of pairs.
        names: what the errors call the two dictionaries.

    Raises:
        ValueError: if the dictionaries are not matrices of equal width, if a row is not finite (the message names
            dictionary and row), or if a dictionary has no row with a direction.
    """
    a, b = (_matrix(W, name) for W, name in zip((W_a, W_b), names, strict=True))
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"dictionaries must have the same d_in: {names[0]} has {a.shape[1]}, {names[1]} has {b.shape[1]}; "
            "compare runs that were trained on the same activations"
        )
    kept_a, kept_b = _rows_with_direction(a, names[0]), _rows_with_direction(b, names[1])
    dense = method == "dense" or (method == "auto" and len(kept_a) * len(kept_b) <= DENSE_PAIRS)
    if dense:
        found = _assign_dense(unit_rows(a, kept_a, torch.float64), unit_rows(b, kept_b, torch.float64), signed)
    else:
        found = assign(
            unit_rows(a, kept_a, torch.float32), unit_rows(b, kept_b, torch.float32), signed=signed, tolerance=tolerance
        )
    left, right = kept_a.numpy()[found.left], kept_b.numpy()[found.right]
    cosine = _paired_cosines(a, b, left, right)
    score = cosine if signed else np.abs(cosine)
    return Matching(
        left=left,
        right=right,
        cosine=cosine,
        best_left=_best(found.best_left, kept_a, len(a), left, score),
        best_right=_best(found.best_right, kept_b, len(b), right, score),
        alternative_left=found.alternative_left,
        alternative_right=found.alternative_right,
        signed=signed,
        gap=found.gap,
        tolerance=tolerance,
        n_excluded_left=len(a) - len(kept_a),
        n_excluded_right=len(b) - len(kept_b),
    )


def unit_rows(
    W: Float[Tensor, "n d_in"], rows: Int64[Tensor, " m"], dtype: torch.dtype = torch.float64
) -> Float[Tensor, "m d_in"]:
    """The chosen rows scaled to unit length in float64, returned in ``dtype``."""
    out = torch.empty(len(rows), W.shape[1], dtype=dtype, device=W.device)
    for start, chunk in _chunks(len(rows)):
        x = _scaled(W[rows[chunk].to(W.device)])
        out[start : start + len(x)] = x / torch.linalg.vecdot(x, x).sqrt()[:, None]
    return out


def rows_with_direction(W: Float[Tensor | np.ndarray, "n d_in"], name: str) -> Int64[np.ndarray, " m"]:
    """Indices of the rows that are not zero.

    Raises:
        ValueError: if ``W`` is no matrix, has a row that is not finite, or only rows of zeros.
    """
    return _rows_with_direction(_matrix(W, name), name).numpy()


def _matrix(W: Tensor | np.ndarray, name: str) -> Tensor:
    tensor = torch.as_tensor(W).detach()
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise ValueError(
            f"{name}: a dictionary is a matrix (features, d_in) with at least one row and one column: "
            f"got shape {tuple(tensor.shape)}"
        )
    return tensor


def _rows_with_direction(W: Tensor, name: str) -> Int64[Tensor, " m"]:
    largest = torch.cat([W[chunk].abs().amax(dim=1) for _, chunk in _chunks(len(W))]).cpu()
    finite = torch.isfinite(largest)  # amax hands NaN on
    if not finite.all():
        bad = (~finite).nonzero().flatten()
        raise ValueError(
            f"{name}: row {int(bad[0])} is not finite (NaN or infinite), {len(bad)} of {len(W)} rows are; "
            "this SAE did not train properly: leave it out or train it again"
        )
    kept = (largest > 0).nonzero().flatten()
    if len(kept) == 0:
        raise ValueError(f"{name}: all {len(W)} rows are zero, so no feature has a direction; check the weights")
    return kept


def _scaled(x: Tensor) -> Tensor:
    """Rows in float64, divided by their largest entry, so that squares neither overflow nor vanish."""
    x = x.double()
    return x / x.abs().amax(dim=1, keepdim=True)


def _assign_dense(a: Float[Tensor, "n_a d"], b: Float[Tensor, "n_b d"], signed: bool) -> Assignment:
    score = (a @ b.T).cpu().numpy()
    if not signed:
        np.abs(score, out=score)
    left, right = linear_sum_assignment(score, maximize=True)
    best_left, best_right = score.max(axis=1), score.max(axis=0)
    score[left, right] = -np.inf
    alternative_left, alternative_right = score.max(axis=1)[left], score.max(axis=0)[right]
    return Assignment(
        left=left.astype(np.int64),
        right=right.astype(np.int64),
        best_left=best_left,
        best_right=best_right,
        alternative_left=np.where(np.isfinite(alternative_left), alternative_left, np.nan),
        alternative_right=np.where(np.isfinite(alternative_right), alternative_right, np.nan),
        gap=0.0,
    )


def _paired_cosines(a: Tensor, b: Tensor, left: np.ndarray, right: np.ndarray) -> Float[np.ndarray, " n"]:
    rows_a, rows_b = torch.from_numpy(left).to(a.device), torch.from_numpy(right).to(b.device)
    out = np.empty(len(left))
    for start, chunk in _chunks(len(left)):
        x, y = _scaled(a[rows_a[chunk]]), _scaled(b[rows_b[chunk]]).to(a.device)
        norms = torch.linalg.vecdot(x, x) * torch.linalg.vecdot(y, y)
        cosine = torch.linalg.vecdot(x, y) / norms.sqrt()
        out[start : start + len(cosine)] = cosine.clamp(-1, 1).cpu().numpy()
    return out


def _best(best: np.ndarray, kept: Tensor, n: int, matched: np.ndarray, score: np.ndarray) -> Float[np.ndarray, " n"]:
    """The best scores at the places of all rows; never below that of the match, which rounding could put above."""
    out = np.full(n, np.nan)
    out[kept.numpy()] = best
    out[matched] = np.maximum(out[matched], score)
    return out


def _chunks(n: int) -> Iterator[tuple[int, slice]]:
    for start in range(0, n, _CHUNK):
        yield start, slice(start, start + _CHUNK)
