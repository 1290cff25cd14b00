"""Uncertainty over seeds, for *consistency* and *similarity*: pairs of runs share runs, so they are not independent."""

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student_t

from sae_core.config import Result


class Interval(Result):
    """A two-sided confidence interval around a mean over pairs of runs."""

    low: float
    high: float
    standard_error: float


def pair_mean(values: Float[np.ndarray, "runs others"]) -> float:
    """Mean over the unordered pairs of a symmetric matrix of pair values.

    Raises:
        ValueError: as :func:`jackknife` does.
    """
    return float(_checked(values)[np.triu_indices(len(values), 1)].mean())


def jackknife(values: Float[np.ndarray, "runs others"], level: float = 0.95) -> Interval | None:
    """Confidence interval of the mean over pairs of runs, with the runs as the units.

    A U-statistic of degree two: with h_i the mean of run i's pairs and U the mean over pairs,
    ``Var = 4 (S - 1) / (S (S - 2)^2) sum_i (h_i - U)^2``, and the interval is
    ``U +- t_{S-1} sqrt(Var)`` (Arvesen 1969: the delete-one jackknife). It is not clipped to the range of the values.

    Args:
        values: symmetric, value of runs i and j; the diagonal is ignored (nan by convention).
        level: coverage, in (0, 1).

    Returns:
        None for two runs, where there is one pair and nothing to estimate a spread from.

    Raises:
        ValueError: if the matrix is not square and symmetric, has fewer than two runs, or a value off the diagonal
            is not finite.
    """
    n_runs = len(_checked(values))
    if n_runs == 2:
        return None
    off_diagonal = ~np.eye(n_runs, dtype=bool)
    run_means = np.where(off_diagonal, values, 0.0).sum(axis=1) / (n_runs - 1)
    centre = pair_mean(values)
    variance = 4 * (n_runs - 1) / (n_runs * (n_runs - 2) ** 2) * ((run_means - centre) ** 2).sum()
    standard_error = float(np.sqrt(variance))
    half_width = float(student_t.ppf((1 + level) / 2, n_runs - 1)) * standard_error
    return Interval(low=centre - half_width, high=centre + half_width, standard_error=standard_error)


def _checked(values: Float[np.ndarray, "runs others"]) -> Float[np.ndarray, "runs others"]:
    if values.ndim != 2 or values.shape[0] != values.shape[1] or len(values) < 2:
        raise ValueError(f"pair values must be a square matrix of at least two runs: got shape {values.shape}")
    off_diagonal = values[~np.eye(len(values), dtype=bool)]
    if not np.isfinite(off_diagonal).all():
        raise ValueError("a pair value is not finite; leave out the run it belongs to, or give it a value")
    if not np.allclose(values, values.T, rtol=0, atol=1e-12, equal_nan=True):
        raise ValueError("pair values must be symmetric: the value of runs i and j is that of j and i")
    return values
