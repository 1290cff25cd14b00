"""Our numbers with what belongs beside them: interval, chance levels, whether they are above chance.

Part of *reproduction*: the quantities that the published rows are compared with, each a function of points.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr, t

from sae_core.synthetic.results import CHANCE_KAPPA, PointSummary

Points = Sequence[PointSummary]


@dataclass(frozen=True)
class Estimate:
    """A number of ours."""

    value: float
    low: float | None = None
    """Ends of its 95 % interval; None where there is none."""
    high: float | None = None
    nulls: tuple[float, ...] = ()
    """What chance gives for this very shape: random directions, and where they were drawn sign flips. Empty where
    chance has no level, as for an exponent."""
    ceiling: float | None = None
    """The same after a training that starts at the truth; None where that was not measured, or is no ceiling."""

    @property
    def half_width(self) -> float:
        """Half the interval; 0 where there is none."""
        return 0.0 if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def kappa(self) -> float | None:
        """``(value - null) / (1 - null)`` with the higher null; None without one, or where it is 1."""
        null = max(self.nulls, default=1.0)
        return (self.value - null) / (1 - null) if null < 1 else None

    @property
    def chance_like(self) -> bool:
        """Whether the value is not above chance: kappa below 0.05 with either null."""
        return self.kappa is not None and self.kappa < CHANCE_KAPPA


Measure = Callable[[Points], tuple[Estimate, ...] | None]
"""From the points of a row to its numbers; None where the points do not hold what is asked for."""


def gt(point: PointSummary) -> Estimate:
    """GT-MCC of a point."""
    found, ceiling = point.recovery, point.ceiling
    nulls = _known(found.null_isotropic, found.null_sign_flip)
    return Estimate(found.gt_mcc, found.gt_ci_low, found.gt_ci_high, nulls, ceiling.gt_mcc if ceiling else None)


def pw(point: PointSummary) -> Estimate:
    """PW-MCC of a point."""
    found = point.consistency
    return Estimate(found.pw_mcc, found.ci_low, found.ci_high, _known(found.null_isotropic, found.null_sign_flip))


def one(points: Points) -> PointSummary:
    """The only point.

    Raises:
        ValueError: if there are several, so that a row would not say which of them it is about.
    """
    if len(points) > 1:
        keys = ", ".join(point.config.key for point in points)
        raise ValueError(
            f"a published row is about one point of its architecture: got {keys}; move all but one to another group"
        )
    return points[0]


def gt_of_one(points: Points) -> tuple[Estimate, ...]:
    """GT-MCC of the point."""
    return (gt(one(points)),)


def pw_of_one(points: Points) -> tuple[Estimate, ...]:
    """PW-MCC of the point."""
    return (pw(one(points)),)


def around_true_k(measure: Callable[[PointSummary], Estimate]) -> Measure:
    """The mean over the points whose k is below the true one, the value there, the mean over those above.

    Ends of intervals and nulls of the means are means too.
    """

    def around(points: Points) -> tuple[Estimate, ...] | None:
        sides: dict[int, list[Estimate]] = {-1: [], 0: [], 1: []}
        for point in points:
            given: int = getattr(point.config.variant, "k", 0)
            sides[int(np.sign(given - point.config.data.k))].append(measure(point))
        return tuple(_mean(found) for found in sides.values()) if all(sides.values()) else None

    return around


def first_and_last_group(points: Points) -> tuple[Estimate, ...] | None:
    """GT-MCC of the most frequent group and of the rarest; intervals of Student's t over all runs of the point.

    Chance is that of the whole point.
    """
    point = one(points)
    ends = [point.groups[0], point.groups[-1]] if point.groups else []
    found = []
    for group in ends:
        if group.gt_mcc is None:
            return None
        n = len(point.config.seeds)
        half = float(t.ppf(0.975, n - 1)) * group.gt_mcc_sd / n**0.5 if group.gt_mcc_sd is not None else None
        low, high = (None, None) if half is None else (group.gt_mcc - half, group.gt_mcc + half)
        found.append(Estimate(group.gt_mcc, low, high, gt(point).nulls))
    return tuple(found) or None


def capacity_exponent(points: Points) -> tuple[Estimate, ...] | None:
    """How the features that a group gets grow with the probability of its features."""
    law = one(points).capacity
    return None if law is None else (Estimate(law.alpha, law.ci_low, law.ci_high),)


def rarest_and_most_frequent(points: Points) -> tuple[Estimate, ...] | None:
    """Mean cosine of matched pairs in the lowest and in the highest bin of frequency that has any.

    Pairs of runs share runs, so there is no interval.
    """
    point = one(points)
    cosines = cosines_by_frequency(point)
    return tuple(Estimate(value, nulls=pw(point).nulls) for value in (cosines[0], cosines[-1])) if cosines else None


def cosines_by_frequency(point: PointSummary) -> list[float]:
    """Mean cosine of matched pairs in each bin of frequency that has any, rarest first; features that never fired are
    in none.
    """
    bins = point.consistency.frequency_bins or []
    return [found.mean_cosine for found in bins if found.high > 0 and found.mean_cosine is not None]


def correlation_in_training(points: Points) -> tuple[Estimate, ...] | None:
    """Correlation (Pearson) over the checkpoints of PW-MCC and GT-MCC; None where one of them never moves."""
    steps = one(points).dynamics or []
    values = np.array([[step.pw_mcc, step.gt_mcc] for step in steps])
    if len(steps) < 3 or not np.ptp(values, axis=0).all():
        return None
    return (Estimate(float(np.corrcoef(values.T)[0, 1])),)


def correlation_over_points(points: Points) -> tuple[Estimate, ...] | None:
    """Rank correlation (Spearman) over points of PW-MCC and GT-MCC; None for fewer than three, or all alike."""
    values = np.array([[point.consistency.pw_mcc, point.recovery.gt_mcc] for point in points])
    if len(points) < 3 or not np.ptp(values, axis=0).all():
        return None
    return (Estimate(float(spearmanr(values[:, 0], values[:, 1]).statistic)),)


def _known(*values: float | None) -> tuple[float, ...]:
    return tuple(value for value in values if value is not None)


def _mean(found: Sequence[Estimate]) -> Estimate:
    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known and len(known) == len(values) else None

    nulls = (mean(level) for level in zip(*(each.nulls for each in found), strict=True))
    return Estimate(
        sum(each.value for each in found) / len(found),
        mean([each.low for each in found]),
        mean([each.high for each in found]),
        tuple(null for null in nulls if null is not None),
    )
