"""Rank statistics of *similarity*: correlation, correlation given a third variable, AUC, bins."""

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

from sae_core.config import Result


class SimilarityBin(Result):
    """Matched pairs whose absolute cosine lies in a bin, all pairs of runs together."""

    low: float
    """Lower edge of the absolute cosine."""
    high: float
    n: int
    mean_cosine: float | None
    mean_similarity: float | None
    sd_similarity: float | None
    """Standard deviation over the pairs of the bin (n - 1); None below two pairs."""
    mean_decoy: float | None
    """Mean similarity of their decoys."""


def spearman(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float | None:
    """Spearman's rank correlation, in [-1, 1], ties by mean rank; None where it is not defined (constant, n < 3)."""
    return _correlation(rankdata(x), rankdata(y)) if len(x) >= 3 else None


def partial_spearman(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], given: Float[np.ndarray, " n"]
) -> float | None:
    """Rank correlation of x and y with ``given`` held fixed, in [-1, 1].

    The correlation of what linear regression on the ranks of ``given`` leaves of the ranks of x and of y. None where
    it is not defined: fewer than four points, or nothing is left of one of them.
    """
    if len(x) < 4:
        return None
    z = rankdata(given) - (len(x) + 1) / 2
    return _correlation(_residual(rankdata(x), z), _residual(rankdata(y), z))


def _residual(ranks: np.ndarray, z: np.ndarray) -> np.ndarray:
    centred: np.ndarray = ranks - ranks.mean()
    square = float(z @ z)
    if square > 0:
        centred = centred - (centred @ z / square) * z
    return centred


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    a, b = a - a.mean(), b - b.mean()
    # Ranks are of the order of n, their squares sum to n^3: what is far below that is rounding.
    noise = 1e-12 * len(a) ** 3
    if a @ a <= noise or b @ b <= noise:
        return None
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def auc(positive: Float[np.ndarray, " n"], negative: Float[np.ndarray, " m"]) -> float | None:
    """Probability that a positive value exceeds a negative one, ties counted half, in [0, 1] (Mann-Whitney)."""
    n, m = len(positive), len(negative)
    if n == 0 or m == 0:
        return None
    ranks = rankdata(np.concatenate([positive, negative]))[:n]
    return float((ranks.sum() - n * (n + 1) / 2) / (n * m))


def equal_count_bins(
    cosine: Float[np.ndarray, " n"],
    similarity: Float[np.ndarray, " n"],
    decoy: Float[np.ndarray, " n"],
    n_bins: int = 5,
) -> list[SimilarityBin]:
    """Bins of the absolute cosine with as equal a number of pairs as can be."""
    if len(cosine) == 0:
        return []
    order = np.argsort(cosine, kind="stable")
    parts = [part for part in np.array_split(order, n_bins) if len(part)]
    return [_bin(float(cosine[p].min()), float(cosine[p].max()), p, cosine, similarity, decoy) for p in parts]


def log_bins(
    cosine: Float[np.ndarray, " n"],
    similarity: Float[np.ndarray, " n"],
    decoy: Float[np.ndarray, " n"],
    n_bins: int = 5,
) -> list[SimilarityBin]:
    """Bins equally wide in the logarithm of the absolute cosine, as in Song et al. 2025 (from .065 to 1 there)."""
    if len(cosine) == 0:
        return []
    # A cosine of zero has no logarithm; one so small is far below what two random directions have.
    low, high = max(float(cosine.min()), 1e-6), max(float(cosine.max()), 1e-6)
    edges = np.geomspace(low, high, n_bins + 1)
    which = np.clip(np.searchsorted(edges, cosine, side="right") - 1, 0, n_bins - 1)
    rows = [np.flatnonzero(which == i) for i in range(n_bins)]
    return [_bin(float(edges[i]), float(edges[i + 1]), rows[i], cosine, similarity, decoy) for i in range(n_bins)]


def _bin(
    low: float, high: float, rows: Int[np.ndarray, " m"], cosine: np.ndarray, similarity: np.ndarray, decoy: np.ndarray
) -> SimilarityBin:
    inside = similarity[rows]
    return SimilarityBin(
        low=low,
        high=high,
        n=len(rows),
        mean_cosine=mean(cosine[rows]),
        mean_similarity=mean(inside),
        sd_similarity=float(inside.std(ddof=1)) if len(inside) > 1 else None,
        mean_decoy=mean(decoy[rows]),
    )


def mean(values: Float[np.ndarray, " n"]) -> float | None:
    """Mean of what is not nan; None where nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
