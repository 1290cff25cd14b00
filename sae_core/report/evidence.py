"""Panels of what stands behind PW-MCC: over training, by frequency, stable core, definitions, consensus.

Part of *report*. A panel that has nothing to show says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from sae_core.consistency.results import ConsistencySummary, FrequencyBin
from sae_core.report.explanation_panels import explanation_panels
from sae_core.report.figures import (
    Contributions,
    Curve,
    DotRow,
    EmptyPanel,
    Panel,
    Scale,
    Values,
    contributions_panel,
    curves_panel,
    dots_panel,
    equal_bins_panel,
)
from sae_core.report.panels import NamedPanel, answer_panels, column, shown_in_curves, training_panels
from sae_core.report.records import ConsistencyRecord, VariantRecord
from sae_core.report.table import SHARED_AT, why_missing
from sae_core.report.version_panels import version_panels

Labelled = Sequence[tuple[str, ConsistencyRecord]]
_DEFINITIONS = ("decoder", "joint (mean)", "both")
_NO_CHECKPOINTS = "not measured:\nthe runs kept no checkpoints in common"


@dataclass(frozen=True)
class ReportPanels:
    """Every panel of a report."""

    answer: list[NamedPanel]
    evidence: list[NamedPanel]
    explanations: list[NamedPanel]
    """Of the variant that agrees most beyond chance."""
    training: list[NamedPanel]
    versions: list[NamedPanel]
    """Of the variants with more than one version; none where there are none."""

    def shown(self) -> list[NamedPanel]:
        """Those that have something to show."""
        return [
            named
            for named in [*self.answer, *self.evidence, *self.versions, *self.explanations, *self.training]
            if not named.shows_nothing
        ]


def report_panels(records: Sequence[VariantRecord]) -> ReportPanels:
    """The answer, what stands behind it, and how the SAEs were trained."""
    explained = explanation_panels(min(records, key=lambda record: record.order))
    several = [
        (record.key, record.versions)
        for record in records
        if record.versions is not None and record.versions.summary.n_versions > 1
    ]
    return ReportPanels(
        answer=answer_panels(records),
        evidence=evidence_panels(records),
        explanations=explained,
        training=training_panels(records),
        versions=version_panels(several) if several else [],
    )


def evidence_panels(records: Sequence[VariantRecord]) -> list[NamedPanel]:
    """What stands behind the answer, for the variants that panels of curves show."""
    shown: Labelled = [(record.key, record.consistency) for record in shown_in_curves(records)]
    return [
        NamedPanel(
            "training",
            over_training_panel(shown),
            "PW-MCC of the checkpoints, with its 95 % interval over seeds; dashed, uniformly random directions. "
            "Hollow, left of the break: before training. Independent seeds start at the dashed line.",
        ),
        NamedPanel(
            "shared",
            shared_panel(shown),
            "Share of matched pairs that count as the same feature: by their decoder rows; by the mean of decoder and "
            "encoder cosine; by both. The bar marks decoder rows of the null.",
        ),
        NamedPanel(
            "contribution",
            log_bins_panel(shown),
            "What features of each frequency add to PW-MCC: the steps of a variant add up to it. Dashed, the share of "
            "pairs in the bin: what it would add if all their cosines were 1.",
        ),
        NamedPanel(
            "contribution_equal",
            equal_count_panel(shown),
            "The same in bins of equally many pairs, from those that fire rarest.",
        ),
        NamedPanel(
            "core_threshold",
            core_by_threshold(shown),
            "Features that all seeds have and that choose each other (mutual nearest neighbours with at least that "
            "cosine), as a share of the features of the smallest seed; dashed, by chance.",
        ),
        NamedPanel(
            "core_seeds",
            core_by_seeds(shown),
            "How the stable core shrinks with every further seed: mean over subsets of the seeds.",
        ),
        NamedPanel(
            "consensus",
            consensus_panel(shown),
            "Dictionaries made of disjoint groups of seeds, compared: single seeds, equally many of their most stable "
            "features (the fair control), and the consensus of each group. Mean over splits of the seeds.",
        ),
    ]


def over_training_panel(records: Labelled) -> Panel:
    """PW-MCC by training tokens, a curve a record; step 0 hollow, left of a break of the axis."""
    title, curves = "PW-MCC over training", []
    for place, (label, record) in enumerate(records):
        table = record.over_training
        if table is not None and table.num_rows:
            x, y, low, high, chance = (
                column(table, name) for name in ("n_tokens", "pw_mcc", "ci_low", "ci_high", "null_isotropic")
            )
            curves.append(Curve(label, x, y, low, high, chance, place))
    if not curves:
        return EmptyPanel(title, _NO_CHECKPOINTS)
    ends = [end for curve in curves for end in (curve.low, curve.high) if end is not None]
    known = np.concatenate([[0.0, 1.0], *(end[np.isfinite(end)] for end in ends)])
    limits = (float(known.min()), float(known.max()))
    return curves_panel(
        curves, title, "training tokens", "PW-MCC", chance="random directions", scale="log", y_limits=limits
    )


def log_bins_panel(records: Labelled) -> Panel:
    """Contribution to PW-MCC by log-spaced bins of frequency."""
    rows = [
        row
        for place, (label, record) in enumerate(records)
        if (row := _contributions(label, record.summary.frequency_bins, place)) is not None
    ]
    return contributions_panel(rows) if rows else EmptyPanel("Contribution by frequency", _no_bins(records))


def equal_count_panel(records: Labelled) -> Panel:
    """Contribution to PW-MCC of bins of frequency that hold equally many pairs."""
    rows = [
        row
        for place, (label, record) in enumerate(records)
        if (row := _contributions(label, record.summary.frequency_bins_equal, place)) is not None
    ]
    return equal_bins_panel(rows) if rows else EmptyPanel("Contribution by equal shares of pairs", _no_bins(records))


def core_by_threshold(records: Labelled) -> Panel:
    """Stable core of all seeds by the cosine from which features count as the same."""
    curves = []
    for place, (label, record) in enumerate(records):
        if record.core_curve is not None:
            n_seeds = column(record.core_curve, "n_seeds")
            x, share, chance = core_points(record, n_seeds == n_seeds.max(), "tau")
            curves.append(Curve(label, x, share, chance=chance, colour=place))
    title = "Stable core of all seeds"
    if not curves:
        return EmptyPanel(title, _no_core(records))
    return core_curves(curves, title, "|cosine| from which features are the same", "linear")


def core_by_seeds(records: Labelled) -> Panel:
    """Stable core by the number of seeds, at a cosine of 0.7."""
    title, curves, taus = "Stable core by number of seeds", [], set()
    for place, (label, record) in enumerate(records):
        if record.core_curve is None or record.summary.n_runs < 3:
            continue
        tau = column(record.core_curve, "tau")
        nearest = float(tau[np.abs(tau - float(SHARED_AT)).argmin()])
        taus.add(f"{nearest:g}")
        x, share, chance = core_points(record, tau == nearest, "n_seeds")
        curves.append(Curve(label, x, share, chance=chance, colour=place))
    if not curves:
        two = all(record.summary.n_runs < 3 for _, record in records)
        return EmptyPanel(title, "two seeds: a curve needs a third one" if two else _no_core(records))
    return core_curves(curves, title, "number of seeds", "integer", f", |cosine| ≥ {' or '.join(sorted(taus))}")


def core_points(record: ConsistencyRecord, chosen: np.ndarray, x: str) -> tuple[Values, Values, Values | None]:
    """Points of the core curve: x ascending, the core as a share of features, and by chance; None where unknown."""
    assert record.core_curve is not None
    table: pa.Table = record.core_curve.filter(pa.array(chosen)).sort_by(x)
    size, share, chance = (column(table, name) for name in ("size", "share", "chance"))
    smallest = min(n - zero for n, zero in zip(record.summary.n_features, record.summary.n_zero_rows, strict=True))
    per_feature = np.divide(share, size, out=np.full(len(size), 1 / max(smallest, 1)), where=size > 0)
    return column(table, x), share, chance * per_feature if np.isfinite(chance).all() else None


def core_curves(curves: Sequence[Curve], title: str, x_label: str, scale: Scale, which: str = "") -> Panel:
    """A panel of shares of features in the stable core."""
    y_label = f"share of features{which}"
    highest = max(float(values.max()) for curve in curves for values in (curve.y, curve.chance) if values is not None)
    limits = (0.0, min(1.03, max(0.05, 1.3 * highest)))
    return curves_panel(curves, title, x_label, y_label, chance="chance", scale=scale, y_limits=limits, y_percent=True)


def shared_panel(records: Labelled) -> Panel:
    """Share of matched pairs that count as the same feature, by decoder, by decoder and encoder, by both: a line a
    variant at 0.7, or a line a threshold for a single variant.
    """
    if len(records) == 1:
        record = records[0][1]
        rows = [_shared(f"≥ {tau}", record.summary, tau, 0) for tau in record.summary.shared_fraction]
        rows[1:] = [replace(row, missing="") for row in rows[1:]]  # once is enough
        x_label = "share of matched pairs with that cosine"
    else:
        rows = [_shared(label, record.summary, SHARED_AT, place) for place, (label, record) in enumerate(records)]
        x_label = f"share of matched pairs with cosine ≥ {SHARED_AT}"
    return dots_panel(rows, _DEFINITIONS, "Shared features", x_label, chance="chance (decoder)", x_percent=True)


def _shared(label: str, found: ConsistencySummary, tau: str, colour: int) -> DotRow:
    values = (found.shared_fraction, found.shared_fraction_joint or {}, found.shared_fraction_both or {})
    reasons = []
    if tau not in found.shared_fraction:
        reasons.append(f"{tau} is not a threshold of the study")
    elif found.shared_fraction_joint is None:
        reasons.append(f"joint: {why_missing(found, 'shared_fraction_joint')}")
    known = tuple(value.get(tau) for value in values)
    return DotRow(label, known, "; ".join(reasons), _null_share(found, float(tau)), colour)


def _null_share(found: ConsistencySummary, tau: float) -> float | None:
    """Share of pairs of the null with at least a cosine; None where no bin begins there."""
    histogram = found.histogram
    starts = np.flatnonzero(np.isclose(histogram.edges, tau))
    if histogram.null_counts is None or not len(starts) or not sum(histogram.null_counts):
        return None
    return sum(histogram.null_counts[starts[0] :]) / sum(histogram.null_counts)


def consensus_panel(records: Labelled) -> Panel:
    """Agreement of disjoint groups of seeds: single seeds, the fair control, consensuses."""
    title, rows = "Consensus against single seeds", []
    for place, (label, record) in enumerate(records):
        consensus = record.summary.consensus
        found = None if consensus is None else consensus.disjoint_groups
        if found is None:
            rows.append(DotRow(label, (None,) * 3, why_no_groups(record.summary), colour=place))
            continue
        values = (found.single_mcc, found.single_restricted_mcc, found.consensus_mcc)
        spread = (found.single_mcc_sd, found.single_restricted_mcc_sd, found.consensus_mcc_sd)
        rows.append(DotRow(label, values, colour=place, spread=spread))
    if all(row.missing for row in rows):
        return EmptyPanel(title, "\n".join(dict.fromkeys(row.missing for row in rows)))
    series = ("single seeds", "single, equally many", "consensus")
    return dots_panel(rows, series, title, "MCC between the groups")


def why_no_groups(found: ConsistencySummary) -> str:
    """Why consensuses of disjoint groups of seeds were not compared; empty where they were."""
    if found.consensus is None:
        return why_missing(found, "consensus")
    return found.consensus.disjoint_groups_reason or ""


def _contributions(label: str, bins: Sequence[FrequencyBin] | None, place: int) -> Contributions | None:
    """None without frequencies, or where no pair ever fired."""
    alive = [part for part in bins or [] if part.high > 0]
    if bins is None or not alive:
        return None
    total = sum(part.n_matches for part in bins)
    never = [part for part in bins if part.high == 0]
    edges = np.array([*(part.low for part in alive), alive[-1].high])
    if edges[0] == edges[-1]:  # one frequency only: a bin of no width
        edges = edges * np.array([1 / 1.2, 1.2])
    return Contributions(
        label=label,
        edges=edges,
        values=np.array([part.contribution for part in alive]),
        shares=np.array([part.n_matches / total for part in alive]),
        never=(sum(p.contribution for p in never), sum(p.n_matches for p in never) / total) if never else None,
        colour=place,
    )


def _no_bins(records: Labelled) -> str:
    reasons = [
        "no pair of features fired" if record.summary.frequency_bins else why_missing(record.summary, "frequency_bins")
        for _, record in records
    ]
    return "\n".join(dict.fromkeys(reasons))


def _no_core(records: Labelled) -> str:
    return "\n".join(dict.fromkeys(why_missing(record.summary, "core") for _, record in records))
