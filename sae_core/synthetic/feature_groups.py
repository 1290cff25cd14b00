"""How much of an SAE frequent and rare features get: the capacity law of Song et al. 2025.

Part of the *synthetic* stage.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy.optimize import brentq
from scipy.special import softmax, stdtrit

from sae_core.matching import Matching
from sae_core.synthetic.results import CapacityLaw, FeatureGroup


def feature_groups(
    of_truth: Sequence[Matching], frequency: Float[np.ndarray, " d_gt"], n_groups: int
) -> tuple[list[FeatureGroup], CapacityLaw | None]:
    """Recovery by groups of consecutive true features, and how a group's share of the SAE grows with its frequency.

    The law is ``E n_g = e^a p_g^alpha`` for the features of the SAE matched to one of group g, whose features fire
    with probability ``p_g``: a Poisson regression over groups and runs. Since one run's features are shared out among
    the groups, this is also multinomial regression: the intercept takes care of the total. Where groups are full,
    because the SAE has room for all their features, their number cannot grow, and alpha is small for that reason.

    Args:
        of_truth: the matching of each run (left) with the truth (right).
        frequency: share of samples on which each true feature fires, measured; the most frequent first.
        n_groups: groups, equally large.

    Returns:
        The groups, and the law: None when fewer than two groups of different probability got a feature, or would
        without one of the runs, or for a single run. A group of features that never fired takes no part in the law.

    Raises:
        ValueError: if there is no matching, one has another number of true features than frequencies, a frequency is
            negative or not finite, or the groups are not equally large.
    """
    _check(of_truth, frequency, n_groups)
    size = len(frequency) // n_groups
    probability = frequency.astype(np.float64).reshape(n_groups, size).mean(axis=1)
    counts = np.stack([np.bincount(found.right // size, minlength=n_groups) for found in of_truth])
    groups = [_group(g, float(probability[g]), of_truth, size) for g in range(n_groups)]
    return groups, _capacity_law(counts, probability)


def _check(of_truth: Sequence[Matching], frequency: Float[np.ndarray, " d_gt"], n_groups: int) -> None:
    if not of_truth:
        raise ValueError("groups are measured by runs matched with the truth: got no matching; pass at least one")
    for found in of_truth:
        if len(found.best_right) != len(frequency):
            raise ValueError(
                f"expected a frequency for each of the {len(found.best_right)} true features, got {len(frequency)}; "
                "pass those of the data that the runs were trained on"
            )
    if not (np.isfinite(frequency) & (frequency >= 0)).all():
        raise ValueError("a frequency is negative or not finite; measure them again")
    if n_groups < 1 or len(frequency) % n_groups:
        raise ValueError(
            f"groups must be equally large: got {n_groups} groups of {len(frequency)} true features; change one of them"
        )


def _group(number: int, probability: float, of_truth: Sequence[Matching], size: int) -> FeatureGroup:
    cosines = [found.score[found.right // size == number] for found in of_truth]
    means = [float(values.mean()) for values in cosines if len(values)]
    return FeatureGroup(
        number=number + 1,
        probability=probability,
        n_matched=float(np.mean([len(values) for values in cosines])),
        gt_mcc=float(np.concatenate(cosines).mean()) if means else None,
        gt_mcc_sd=float(np.std(means, ddof=1)) if len(means) > 1 else None,
    )


def _capacity_law(
    counts: Int64[np.ndarray, "runs groups"], probability: Float64[np.ndarray, " groups"]
) -> CapacityLaw | None:
    fires, n_runs = probability > 0, len(counts)
    counts, log_p = counts[:, fires], np.log(probability[fires])
    total = counts.sum(axis=0)
    # All runs see the same probabilities, so the likelihood knows of the counts only their sums over runs.
    alpha = _poisson_slope(total, log_p)
    without_one = [_poisson_slope(total - mine, log_p) for mine in counts]
    known = [value for value in without_one if value is not None]
    if alpha is None or n_runs < 2 or len(known) < n_runs:
        return None
    error = float(np.sqrt((n_runs - 1) * np.var(known)))
    half_width = float(stdtrit(n_runs - 1, 0.975)) * error
    return CapacityLaw(alpha=alpha, ci_low=alpha - half_width, ci_high=alpha + half_width)


def _poisson_slope(counts: Int64[np.ndarray, " groups"], log_p: Float64[np.ndarray, " groups"]) -> float | None:
    """Slope of the Poisson regression of counts on ``log_p``, by maximum likelihood; None where it has no maximum.

    The best intercept makes expected and counted totals equal; what is left says that the mean of ``log_p`` under
    weights ``p^alpha`` is its mean under the counts. The former grows with alpha, so the root is unique.
    """
    if len(np.unique(log_p[counts > 0])) < 2:
        return None
    centred = log_p - counts @ log_p / counts.sum()

    def excess(alpha: float) -> float:
        return float(softmax(alpha * log_p) @ centred)

    reach = 1.0
    while excess(reach) < 0 or excess(-reach) > 0:
        reach *= 2
    return float(brentq(excess, -reach, reach, xtol=1e-12))
