"""Rank statistics of *similarity*: correlation, correlation given a third variable, AUC, bins."""

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.stats import rankdata

from sae_core.config import Result

PAPER_EDGES = (0.065, 0.113, 0.195, 0.336, 0.580, 1.0)
"""Edges of the five bins of |cosine| in Song et al. 2025, equally wide in its logarithm."""
N_BINS = len(PAPER_EDGES) - 1


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
    return _correlation(centred_ranks(x), centred_ranks(y)) if len(x) >= 3 else None


def partial_spearman(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], given: Float[np.ndarray, " n"]
) -> float | None:
    """Rank correlation of x and y with ``given`` held fixed, in [-1, 1].

    The correlation of what linear regression on the ranks of ``given`` leaves of the ranks of x and of y. It is zero
    where x and y depend on ``given`` alone and their ranks do so linearly; a bend that they share stays, which is what
    :func:`sae_core.similarity.permutation.permutation_test` takes into account.

    Returns:
        None where it is not defined: fewer than four points, or nothing is left of one of them.
    """
    if len(x) < 4:
        return None
    z = centred_ranks(given)
    return _correlation(without_trend(centred_ranks(x), z), without_trend(centred_ranks(y), z))


def centred_ranks(values: Float[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Ranks minus their mean; ties share their mean rank."""
    ranks: np.ndarray = rankdata(values) - (len(values) + 1) / 2
    return ranks


def without_trend(values: Float64[np.ndarray, " n"], z: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """What linear regression on z leaves; both have mean zero."""
    square = float(z @ z)
    return values - (float(values @ z) / square) * z if square > 0 else values


def negligible(n: int) -> float:
    """Sum of squares below which n ranks are constant up to rounding: they are of the order of n, their squares sum to
    the order of its cube.
    """
    return 1e-12 * n**3


def _correlation(a: Float64[np.ndarray, " n"], b: Float64[np.ndarray, " n"]) -> float | None:
    if min(float(a @ a), float(b @ b)) <= negligible(len(a)):
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
    cosine: Float[np.ndarray, " n"], similarity: Float[np.ndarray, " n"], decoy: Float[np.ndarray, " n"]
) -> list[SimilarityBin]:
    """Five bins of the absolute cosine with as equal a number of pairs as can be.

    Args:
        decoy: mean similarity of a pair's decoys; nan without any.
    """
    order = np.argsort(cosine, kind="stable")
    parts = [part for part in np.array_split(order, N_BINS) if len(part)]
    return [_bin(float(cosine[p].min()), float(cosine[p].max()), p, cosine, similarity, decoy) for p in parts]


def log_bins(
    cosine: Float[np.ndarray, " n"], similarity: Float[np.ndarray, " n"], decoy: Float[np.ndarray, " n"]
) -> list[SimilarityBin]:
    """The bins of ``PAPER_EDGES``, of which only the last includes its upper edge; before them one of what lies below,
    if anything does.

    Args:
        decoy: as for :func:`equal_count_bins`.
    """
    if len(cosine) == 0:
        return []
    edges = (0.0, *PAPER_EDGES)
    # A cosine of 1 belongs to the last bin, and so does one that rounding put above.
    which = np.minimum(np.searchsorted(PAPER_EDGES, cosine, side="right"), N_BINS)
    numbers = range(0 if (which == 0).any() else 1, N_BINS + 1)
    return [_bin(edges[i], edges[i + 1], np.flatnonzero(which == i), cosine, similarity, decoy) for i in numbers]


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
