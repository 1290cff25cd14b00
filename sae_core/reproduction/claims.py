"""What a row of the paper is: where its numbers come from here, and when it holds in kind.

Part of *reproduction*; the rows themselves are in :mod:`sae_core.reproduction.published`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from sae_core.reproduction.estimates import Estimate, Measure, Points, cosines_by_frequency
from sae_core.synthetic.results import PointSummary

FOLLOWS = 0.05
"""PW-MCC follows GT-MCC at a point when they differ by at most so much."""
MOVES_WITH = 0.9
"""PW-MCC moves with GT-MCC over checkpoints or points when their correlation is at least this."""

PEAK_TEXT = "of all points of the sweep the one at the true k is the highest"
TREND = 0.5
"""Numbers rise with their place when the rank correlation is above this, and the last above the first."""


@dataclass(frozen=True)
class LanguageModelResult:
    """What a study on a language model says of one variant."""

    consistency: dict[str, Any]
    """The summary of *consistency* (``ConsistencySummary``), as it is written to JSON."""
    similarity: dict[str, Any] | None
    """That of *explanation similarity*; None where nothing was explained."""


@dataclass(frozen=True)
class Source:
    """Which points of a synthetic study a row is about: all that fit."""

    experiment: str
    group: str | None = None
    """None: all groups of the experiment."""
    architecture: str | None = None
    """None: all."""
    k: int | None = None
    """k of the SAE; None: whatever it is."""

    def groups(self, results: Mapping[str, Mapping[str, Points]]) -> list[PointSummary]:
        """The points of the group, those of other architectures too; each once, however many groups share it."""
        found: dict[tuple[str, int], PointSummary] = {}
        for name, points in results.get(self.experiment, {}).items():
            for point in points if self.group in (None, name) else ():
                found.setdefault((point.config.key, len(point.config.seeds)), point)
        return list(found.values())

    def points(self, results: Mapping[str, Mapping[str, Points]]) -> list[PointSummary]:
        """The points that fit, out of all results (experiment -> group -> points)."""
        return [point for point in self.groups(results) if self._fits(point)]

    def _fits(self, point: PointSummary) -> bool:
        variant = point.config.variant
        return self.architecture in (None, variant.architecture) and (
            self.k is None or getattr(variant, "k", None) == self.k
        )


@dataclass(frozen=True)
class Kind:
    """What holding *in kind* means for a row."""

    text: str
    """The test in a few words."""
    holds: Callable[[Points, Points, Sequence[Estimate]], bool]
    """Takes the row's points, all points of their group, and our numbers."""


@dataclass(frozen=True)
class Claim:
    """One row of the paper about synthetic data."""

    id: str
    regime: str
    text: str
    """What is claimed, in a few words."""
    setting: str
    """The paper's setting, as far as the text we had states it."""
    published: str
    """The value as a reader sees it."""
    numbers: tuple[float, ...]
    """The same as numbers, in the order of ``measure``'s; empty for a claim in words."""
    source: Source
    measure: Measure
    kind: Kind


@dataclass(frozen=True)
class LanguageModelClaim:
    """One row of the paper about Pythia-160M."""

    id: str
    text: str
    setting: str
    published: str
    numbers: tuple[float, ...]
    architecture: str
    suffix: str | None
    """How the key of the variant goes on behind architecture and width; None where the text we had does not say it:
    then of all variants the one that agrees most."""
    measure: Callable[[LanguageModelResult], tuple[Estimate, ...] | None]
    kind_text: str
    holds: Callable[[Mapping[str, LanguageModelResult], Sequence[Estimate]], bool]
    """Takes all results, by variant key, and our numbers."""
    same_scale: bool = True
    """Whether our numbers mean the same as the paper's; they cannot be compared otherwise, only their order."""

    def variant(self, results: Mapping[str, LanguageModelResult]) -> str | None:
        """The key of the variant that the row is about; None where there is no result of it."""
        keys = [key for key in results if _architecture(key) == self.architecture]
        if self.suffix is not None:
            keys = [key for key in keys if key.split("-", 2)[-1] == self.suffix]
        return max(keys, key=lambda key: float(results[key].consistency["pw_mcc"]), default=None)


# --- tests in kind ----------------------------------------------------------------------------------------------


def above(other: str) -> Kind:
    """GT-MCC above that of every point of another architecture of the group, of which there is one."""

    def holds(points: Points, group: Points, _: Sequence[Estimate]) -> bool:
        others = [point.recovery.gt_mcc for point in group if point.config.variant.architecture == other]
        return bool(others) and min(point.recovery.gt_mcc for point in points) > max(others)

    return Kind(f"GT-MCC is above that of {other}", holds)


def below(other: str) -> Kind:
    """GT-MCC below that of every point of another architecture of the group, of which there is one."""

    def holds(points: Points, group: Points, _: Sequence[Estimate]) -> bool:
        others = [point.recovery.gt_mcc for point in group if point.config.variant.architecture == other]
        return bool(others) and max(point.recovery.gt_mcc for point in points) < min(others)

    return Kind(f"GT-MCC is below that of {other}", holds)


FOLLOWS_TRUTH = Kind(
    f"PW-MCC and GT-MCC differ by at most {FOLLOWS:g}",
    lambda points, _group, _ours: all(abs(p.consistency.pw_mcc - p.recovery.gt_mcc) <= FOLLOWS for p in points),
)
TRUTH_ABOVE_AGREEMENT = Kind(
    f"GT-MCC is more than {FOLLOWS:g} above PW-MCC",
    lambda points, _group, _ours: all(p.recovery.gt_mcc - p.consistency.pw_mcc > FOLLOWS for p in points),
)
MOVES_TOGETHER = Kind(
    f"the correlation is at least {MOVES_WITH:g}", lambda _points, _group, ours: ours[0].value >= MOVES_WITH
)
RELIABLE = Kind(
    f"the correlation is at least {MOVES_WITH:g}, and no point is consistent but wrong",
    lambda points, _group, ours: ours[0].value >= MOVES_WITH and not any(p.consistent_but_wrong for p in points),
)
GROUPS_FALL = Kind(
    f"GT-MCC falls from group to group: rank correlation below -{TREND:g}, and the last below the first",
    lambda points, _group, _ours: all(
        rises([group.gt_mcc for group in reversed(point.groups or []) if group.gt_mcc is not None]) for point in points
    ),
)
BINS_RISE = Kind(
    f"the cosine rises from bin to bin: rank correlation above {TREND:g}, and the last above the first",
    lambda points, _group, _ours: all(rises(cosines_by_frequency(point)) for point in points),
)
ABOVE_ONE = Kind("the exponent is above 1", lambda _points, _group, ours: ours[0].value > 1)


def peak_at_true_k(measure: Callable[[PointSummary], Estimate]) -> Kind:
    """The largest of all points of the sweep is the one whose k is the true number of active features."""

    def holds(points: Points, _group: Points, _ours: Sequence[Estimate]) -> bool:
        best = max(points, key=lambda point: measure(point).value).config
        return bool(getattr(best.variant, "k", None) == best.data.k)

    return Kind(PEAK_TEXT, holds)


def same_place(
    published: Mapping[str, float], architecture: str
) -> Callable[[Mapping[str, LanguageModelResult], Sequence[Estimate]], bool]:
    """Whether an architecture has the same place as in the paper among all those that it names."""

    def holds(results: Mapping[str, LanguageModelResult], ours: Sequence[Estimate]) -> bool:
        found: dict[str, float] = {}
        for key, result in results.items():
            name = _architecture(key)
            found[name] = max(found.get(name, 0.0), float(result.consistency["pw_mcc"]))
        found[architecture] = ours[0].value
        if not set(published) <= set(found):
            return False
        places = [sorted(published, key=lambda name: -of[name]).index(architecture) for of in (published, found)]
        return places[0] == places[1]

    return holds


def rising(_results: Mapping[str, LanguageModelResult], ours: Sequence[Estimate]) -> bool:
    """Whether our numbers rise with their place."""
    return rises([each.value for each in ours])


def rises(values: Sequence[float]) -> bool:
    """Whether values rise with their place: rank correlation (Spearman) above 0.5, and the last above the first."""
    if len(values) < 2 or not np.ptp(values):
        return False
    return values[-1] > values[0] and float(spearmanr(range(len(values)), values).statistic) > TREND


def _architecture(key: str) -> str:
    return key.split("-")[0]
