"""From the records of variants to the panels of the figures; and the small pictures that the UI shows.

Part of *report*; the drawing itself is in :mod:`sae_core.figures`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from sae_core.figures import (
    MAX_SERIES,
    Agreement,
    CosineCounts,
    Curve,
    Panel,
    Values,
    agreement_panel,
    binned,
    curves_panel,
    empty_panel,
    histogram_panel,
    small_png,
)
from sae_core.report_records import ConsistencyRecord, SimilarityRecord, VariantRecord

_PICTURE_BYTES = 100_000


@dataclass(frozen=True)
class NamedPanel:
    """A panel and what a caption says of it."""

    name: str
    panel: Panel
    caption: str


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
            "PW-MCC of each variant with its 95 % interval over seeds; the bar marks what the sign-flip null gives.",
        ),
        NamedPanel(
            "cosines",
            histogram_panel([_counts(label, record) for label, record in consistent]),
            "Matched pairs of features by absolute cosine, all pairs of seeds; dashed, the same for the null. "
            "A peak at 1 and another at chance is a mixture of found and unfound features.",
        ),
        NamedPanel(
            "frequency",
            _frequency_panel(consistent),
            "How consistent a feature is by how often it fires: median and quartiles over alive features, in bins of "
            "equal count; dashed, the mean of the null.",
        ),
        NamedPanel(
            "explanations",
            _explanation_panel([(record.key, record.similarity) for record in shown]),
            "How alike two matched features are explained, by their cosine: mean and quartiles in bins of equal "
            "count; dashed, random pairs of equal frequency.",
        ),
    ]


def training_panels(records: Sequence[VariantRecord]) -> list[NamedPanel]:
    """Training curves, a line a seed: fraction of variance explained, and dead features."""
    shown = shown_in_curves(records)

    def curves(column: str) -> list[Curve]:
        return [
            Curve(record.key, _column(run.curve, "step"), _column(run.curve, column), colour=place)
            for place, record in enumerate(shown)
            for run in record.runs
        ]

    fve = [curve.y for curve in curves("fve")]
    # The first steps may be far below zero and would flatten all that follows.
    lowest = min([0.0, *(float(y[len(y) // 10 :].min()) for y in fve if len(y))])

    def panel(column: str, title: str, y_label: str, y_limits: tuple[float, float | None]) -> Panel:
        return curves_panel(curves(column), title, "training step", y_label, y_limits=y_limits, markers=False)

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


def consistency_figure(folder: Path) -> bytes:
    """Small PNG of a *consistency* artifact: matched cosines with the null, and consistency against frequency."""
    record = ConsistencyRecord.read(folder)
    return small_png(
        [histogram_panel([_counts("seeds", record)]), _frequency_panel([("median", record)])], 2, _PICTURE_BYTES
    )


def similarity_figure(folder: Path) -> bytes:
    """Small PNG of an *explanation similarity* artifact: similarity against cosine, beside decoys."""
    return small_png([_explanation_panel([("matched pairs", SimilarityRecord.read(folder))])], 1, _PICTURE_BYTES)


def _agreement(label: str, record: ConsistencyRecord) -> Agreement:
    found = record.summary
    return Agreement(
        label=label,
        value=found.pw_mcc,
        low=found.ci_low,
        high=found.ci_high,
        null=found.null_sign_flip,
        alive=found.pw_mcc_alive,
        pairs=_column(record.pairs, "mcc"),
    )


def _counts(label: str, record: ConsistencyRecord) -> CosineCounts:
    histogram = record.summary.histogram
    return CosineCounts(
        label, *(np.array(v, float) for v in (histogram.edges, histogram.counts, histogram.null_counts))
    )


def _frequency_panel(records: Sequence[tuple[str, ConsistencyRecord]]) -> Panel:
    title, curves = "Consistency by frequency", []
    for place, (label, record) in enumerate(records):
        frequency, value = (_column(record.features, name) for name in ("frequency", "consistency"))
        known = (frequency > 0) & np.isfinite(value)
        if known.any():
            bins = binned(frequency[known], value[known])
            null = np.full(len(bins.x), record.summary.null_sign_flip)
            curves.append(Curve(label, bins.x, bins.median, bins.low, bins.high, null, colour=place))
    if not curves:
        return empty_panel(title, "no feature fired\non the evaluation tokens")
    return curves_panel(
        curves,
        title,
        "share of tokens on which the feature fires",
        "mean |cosine| with its partners",
        chance="chance",
        log_x=True,
        y_limits=(0.0, 1.0),
    )


def _explanation_panel(records: Sequence[tuple[str, SimilarityRecord]]) -> Panel:
    title, curves, reasons = "Explanations by cosine", [], []
    for place, (label, record) in enumerate(records):
        cosine, matched, decoy = (_column(record.pairs, name) for name in ("cosine", "similarity", "decoy_similarity"))
        known = np.isfinite(matched) & np.isfinite(decoy)
        if not known.any():
            reasons.append(f"{label}: no matched pair is explained\non both sides")
            continue
        bins = binned(np.abs(cosine[known]), matched[known], max_bins=10)
        decoys = binned(np.abs(cosine[known]), decoy[known], max_bins=10)
        curves.append(Curve(label, bins.x, bins.mean, bins.low, bins.high, decoys.mean, colour=place))
    if not curves:
        return empty_panel(title, "\n".join(dict.fromkeys(reasons)))
    return curves_panel(
        curves,
        title,
        "|cosine| of the matched pair",
        "similarity of explanations",
        chance="random pairs of equal frequency",
    )


def _column(table: pa.Table, name: str) -> Values:
    """A column as float64, nan where it is null."""
    return np.asarray(table[name].cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
