"""Agreement across two versions of a model, less that within them, with its uncertainty over the runs of both.

Part of *model versions*. A pair across shares runs with other pairs across and within, so the runs are the units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from sae_core.consistency.statistics import Interval, pair_mean, welch_half_width

FEWEST_RUNS = 3
"""Of either version, for an interval: leaving one out must leave a pair."""


@dataclass(frozen=True)
class Across:
    """Agreement across versions."""

    mean: float
    """Mean over all pairs of an old and a new run."""
    interval: Interval | None
    same_seed: float | None
    """Mean over the pairs of equal seed; None where there are none."""
    n_same_seed: int
    different_seed: float
    """Mean over the pairs of different seeds."""
    n_different_seed: int
    difference: float
    """``different_seed`` less the mean of the agreements within either version."""
    difference_interval: Interval | None
    reason: str | None
    """Why there are no intervals."""


def across_statistics(
    values: Float[np.ndarray, "old new"],
    within_old: Float[np.ndarray, "olds others"],
    within_new: Float[np.ndarray, "news those"],
    same_seed: Bool[np.ndarray, "rows columns"],
    level: float = 0.95,
) -> Across:
    """Means over pairs, and their delete-one jackknife over the runs of both versions.

    With theta the estimate, S_o old runs and theta_(-i) the estimate without old run i (its pairs across, and within
    the old version, left out), the pseudo-values ``p_i = S_o theta - (S_o - 1) theta_(-i)`` have the variance s_o^2;
    likewise s_n^2 over the new runs. Runs of the two versions are taken as independent, so
    ``Var = s_o^2 / S_o + s_n^2 / S_n``, and the interval is ``theta +- t sqrt(Var)`` with Welch's degrees of freedom.
    For the mean over all pairs the pseudo-values are the means of a run's pairs (Arvesen 1969, two samples); what a
    pair varies by beyond its two runs is then counted twice, so that the interval is rather too wide than too narrow.

    Args:
        values: MCC of every old run with every new one.
        within_old: MCC of the old runs with each other, symmetric; the diagonal is ignored.
        within_new: likewise of the new runs.
        same_seed: which pairs have the same seed.
        level: coverage of the intervals, in (0, 1).

    Raises:
        ValueError: if a version has fewer than two runs, the shapes do not fit, or a value is not finite.
    """
    _check(values, within_old, within_new, same_seed)
    everything, different = np.ones_like(same_seed), ~same_seed
    n_old, n_new = values.shape
    enough = min(n_old, n_new) >= FEWEST_RUNS
    matrices = (values, within_old, within_new)
    difference = _difference(*matrices, different, range(n_old), range(n_new))
    return Across(
        mean=float(values.mean()),
        interval=_jackknife(values, None, None, everything, level) if enough else None,
        same_seed=float(values[same_seed].mean()) if same_seed.any() else None,
        n_same_seed=int(same_seed.sum()),
        different_seed=float(values[different].mean()),
        n_different_seed=int(different.sum()),
        difference=difference,
        difference_interval=_jackknife(*matrices, different, level) if enough else None,
        reason=None if enough else f"an interval needs three runs of either version: got {n_old} and {n_new}",
    )


def _difference(
    values: Float[np.ndarray, "old new"],
    within_old: Float[np.ndarray, "olds others"] | None,
    within_new: Float[np.ndarray, "news those"] | None,
    counted: Bool[np.ndarray, "old new"],
    old: Sequence[int],
    new: Sequence[int],
) -> float:
    """Mean over the counted pairs of these runs, less the mean of the means within, where those are given."""
    pairs = np.ix_(old, new)
    mean = float(values[pairs][counted[pairs]].mean())
    if within_old is None or within_new is None:
        return mean
    return mean - (pair_mean(within_old[np.ix_(old, old)]) + pair_mean(within_new[np.ix_(new, new)])) / 2


def _jackknife(
    values: Float[np.ndarray, "old new"],
    within_old: Float[np.ndarray, "olds others"] | None,
    within_new: Float[np.ndarray, "news those"] | None,
    counted: Bool[np.ndarray, "old new"],
    level: float,
) -> Interval:
    old, new = (list(range(n)) for n in values.shape)
    matrices = (values, within_old, within_new, counted)
    theta = _difference(*matrices, old, new)
    without_old = [_difference(*matrices, [i for i in old if i != left], new) for left in old]
    without_new = [_difference(*matrices, old, [j for j in new if j != left]) for left in new]
    pseudo = [len(part) * theta - (len(part) - 1) * np.array(part) for part in (without_old, without_new)]
    variance = sum(float(part.var(ddof=1)) / len(part) for part in pseudo)
    half_width = welch_half_width(pseudo[0], pseudo[1], level)
    return Interval(low=theta - half_width, high=theta + half_width, standard_error=float(np.sqrt(variance)))


def _check(
    values: Float[np.ndarray, "old new"],
    within_old: Float[np.ndarray, "olds others"],
    within_new: Float[np.ndarray, "news those"],
    same_seed: Bool[np.ndarray, "rows columns"],
) -> None:
    n_old, n_new = values.shape
    shapes = (within_old.shape, within_new.shape, same_seed.shape)
    if shapes != ((n_old, n_old), (n_new, n_new), (n_old, n_new)):
        raise ValueError(
            f"values of {n_old} old and {n_new} new runs need matrices within of ({n_old}, {n_old}) and "
            f"({n_new}, {n_new}): got {shapes[0]}, {shapes[1]}, and seeds of {shapes[2]}; pass those of the same runs"
        )
    if min(n_old, n_new) < 2:
        raise ValueError(f"two runs of either version are needed: got {n_old} and {n_new}; train another seed")
    if not np.isfinite(values).all():
        raise ValueError("a value across the versions is not finite; match every old run with every new one")
