"""From the records of variants to the panels of the answer and of training.

Part of *report*; the drawing itself is in :mod:`sae_core.report.figures`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sae_core.consistency.results import ConsistencySummary
from sae_core.report.figures import (
    MAX_SERIES,
    Agreement,
    CosineCounts,
    Curve,
    EmptyPanel,
    Panel,
    Values,
    agreement_panel,
    binned,
    curves_panel,
    histogram_panel,
)
from sae_core.report.records import ConsistencyRecord, SimilarityRecord, VariantRecord
from sae_core.report.table import why_missing


@dataclass(frozen=True)
class NamedPanel:
    """A panel and what a caption says of it."""

    name: str
    panel: Panel
    caption: str

    @property
    def shows_nothing(self) -> bool:
        """Whether it only says why there is nothing to show."""
        return isinstance(self.panel, EmptyPanel)


def shown_in_curves(records: Sequence[VariantRecord]) -> list[VariantRecord]:
    """The variants that panels of curves show: all, or those that agree most beyond chance when there are too many."""
    chosen = {record.key for record in sorted(records, key=lambda record: record.order)[:MAX_SERIES]}
    return [record for record in records if record.key in chosen]


def answer_panels(records: Sequence[VariantRecord]) -> list[NamedPanel]:
    """The four panels of the figure: agreement, matched cosines, frequency, explanations."""
    shown = shown_in_curves(records)
    consistent = [(record.key, record.consistency) for record in shown]
    return [
        NamedPanel(
            "agreement",
            agreement_panel([_agreement(record.key, record.consistency) for record in records]),
            "PW-MCC of each variant with its 95 % interval over seeds; the bar marks what chance gives.",
        ),
        NamedPanel(
            "cosines",
            histogram_panel([cosine_counts(label, record.summary) for label, record in consistent]),
            "Matched pairs of features by absolute cosine, all pairs of seeds; dashed, the same for the null. "
            "A peak at 1 and another at chance is a mixture of found and unfound features.",
        ),
        NamedPanel(
            "frequency",
            frequency_panel(consistent),
            "How consistent a feature is by how often it fires: median and quartiles over alive features, in bins of "
            "equal count; dashed, the mean of the null.",
        ),
        NamedPanel(
            "explanations",
            explanation_panel([(record.key, record.similarity) for record in shown]),
            "How alike two matched features are explained, by their cosine: mean and quartiles in bins of equal "
            "count; dashed, random pairs of equal frequency.",
        ),
    ]


def training_panels(records: Sequence[VariantRecord]) -> list[NamedPanel]:
    """Training curves, a line a seed: fraction of variance explained, and dead features; none where nothing was
    trained here.
    """
    shown = shown_in_curves(records)
    runs = [(record.key, place, run.curve) for place, record in enumerate(shown) for run in record.runs]

    def curves(name: str) -> list[Curve]:
        return [
            Curve(label, column(table, "step"), column(table, name), colour=place)
            for label, place, table in runs
            if table is not None
        ]

    fve = [curve.y for curve in curves("fve")]
    if not fve:
        return []
    # The first steps may be far below zero and would flatten all that follows.
    lowest = min([0.0, *(float(y[len(y) // 10 :].min()) for y in fve if len(y))])

    def panel(name: str, title: str, y_label: str, y_limits: tuple[float, float | None]) -> Panel:
        return curves_panel(curves(name), title, "training step", y_label, y_limits=y_limits, markers=False)

    return [
        NamedPanel(
            "fve",
            panel("fve", "Variance explained", "FVE of the batch", (lowest, 1.0)),
            "Fraction of variance explained on the training batch, a line a seed.",
        ),
        NamedPanel(
            "dead",
            panel("dead_fraction", "Dead features", "share of features", (0.0, None)),
            "Features that did not fire for as many training tokens as the settings say, a line a seed.",
        ),
    ]


def _agreement(label: str, record: ConsistencyRecord) -> Agreement:
    found = record.summary
    return Agreement(
        label=label,
        value=found.pw_mcc,
        low=found.ci_low,
        high=found.ci_high,
        null=record.null,
        alive=found.pw_mcc_alive,
        pairs=column(record.pairs, "mcc"),
        warning="(seeds not independent)" if found.shared_initialisation else "",
    )


def cosine_counts(label: str, summary: ConsistencySummary) -> CosineCounts:
    """The histogram of a summary; with the mean of random directions where the sign-flip null was not drawn."""
    found = summary.histogram
    null = None if found.null_counts is None else np.array(found.null_counts, float)
    return CosineCounts(
        label, np.array(found.edges, float), np.array(found.counts, float), null, summary.null_isotropic
    )


def frequency_panel(records: Sequence[tuple[str, ConsistencyRecord]]) -> Panel:
    """How consistent features are by how often they fire, a curve a labelled record."""
    title, curves = "Consistency by frequency", []
    for place, (label, record) in enumerate(records):
        frequency, value = (column(record.features, name) for name in ("frequency", "consistency"))
        known = (frequency > 0) & np.isfinite(value)
        if known.any():
            bins = binned(frequency[known], value[known])
            null = np.full(len(bins.x), record.null)
            curves.append(Curve(label, bins.x, bins.median, bins.low, bins.high, null, colour=place))
    if not curves:
        unknown = [why_missing(r.summary, "frequency_bins") for _, r in records if r.summary.frequency_bins is None]
        return EmptyPanel(title, "\n".join(dict.fromkeys(unknown)) or "no feature fired\non the evaluation tokens")
    return curves_panel(
        curves,
        title,
        "share of tokens on which the feature fires",
        "mean |cosine| with its partners",
        chance="chance",
        scale="log",
        y_limits=(0.0, 1.0),
    )


def explanation_panel(records: Sequence[tuple[str, SimilarityRecord]]) -> Panel:
    """How alike matched features are explained by their cosine, a curve a labelled record."""
    title, curves, reasons = "Explanations by cosine", [], []
    for place, (label, record) in enumerate(records):
        pairs = record.pairs_of(record.summary.primary)
        cosine, matched, decoy = (column(pairs, name) for name in ("cosine", "similarity", "decoy_similarity"))
        known = np.isfinite(matched) & np.isfinite(decoy)
        if not known.any():
            reasons.append(f"{label}: no matched pair is explained\non both sides")
            continue
        bins = binned(np.abs(cosine[known]), matched[known], max_bins=10)
        decoys = binned(np.abs(cosine[known]), decoy[known], max_bins=10)
        curves.append(Curve(label, bins.x, bins.mean, bins.low, bins.high, decoys.mean, colour=place))
    if not curves:
        return EmptyPanel(title, "\n".join(dict.fromkeys(reasons)))
    return curves_panel(
        curves,
        title,
        "|cosine| of the matched pair",
        "similarity of explanations",
        chance="random pairs of equal frequency",
    )


def column(table: pa.Table, name: str) -> Values:
    """A column as float64, nan where it is null."""
    return np.asarray(table[name].cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
