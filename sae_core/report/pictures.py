"""Small pictures of single artifacts, which the UI shows, and the figure of a comparison of a few SAEs.

Part of *report*; the same panels as on its page.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from sae_core.consistency.results import ConsistencyReport
from sae_core.report.evidence import (
    core_by_seeds,
    core_by_threshold,
    core_curves,
    core_points,
    over_training_panel,
    shared_panel,
)
from sae_core.report.explanation_panels import correlations, discrimination, published_bins, similarity_cloud
from sae_core.report.figures import (
    MAX_SERIES,
    SUFFIXES,
    Curve,
    Panel,
    Values,
    document,
    histogram_panel,
    joint_panel,
    small_png,
)
from sae_core.report.panels import column, cosine_counts, frequency_panel
from sae_core.report.records import ConsistencyRecord, SimilarityRecord, VersionsRecord
from sae_core.report.version_panels import version_panels
from sae_core.whole_files import write_whole

_BYTES = 100_000
_POINTS = 300
"""Matched pairs drawn one by one."""
_TAUS = (0.5, 0.7, 0.9)


def consistency_figure(folder: Path) -> bytes:
    """Small PNG of a *consistency* artifact: matched cosines with the null, consistency against frequency, the stable
    core against the threshold, and PW-MCC over training.
    """
    record = ConsistencyRecord.read(folder)
    found = [("seeds", record)]
    panels = [
        histogram_panel([cosine_counts("seeds", record.summary)]),
        frequency_panel([("median", record)]),
        core_by_threshold(found),
        over_training_panel(found),
    ]
    return small_png(panels, 2, _BYTES)


def core_figure(folder: Path) -> bytes:
    """Small PNG of the stable core of a *consistency* artifact: against the threshold for several numbers of seeds,
    and against the number of seeds for several thresholds.
    """
    record = ConsistencyRecord.read(folder)
    if record.core_curve is None:
        return small_png([core_by_threshold([("seeds", record)])], 1, _BYTES)
    return small_png([_core_by_threshold(record), _core_by_seeds(record)], 2, _BYTES)


def model_versions_figure(folder: Path) -> bytes:
    """Small PNG of a *model versions* artifact: agreement across the last two models and within either, matched cosines
    across, and PW-MCC over all versions; only the last where nothing was compared.
    """
    panels = [named.panel for named in version_panels([("seeds", VersionsRecord.read(folder))])]
    return small_png(panels, 3, _BYTES)


def over_training_figure(folder: Path) -> bytes:
    """Small PNG of PW-MCC over training of a *consistency* artifact; it says so where there were no checkpoints."""
    return small_png([over_training_panel([("seeds", ConsistencyRecord.read(folder))])], 1, _BYTES)


def similarity_figure(folder: Path) -> bytes:
    """Small PNG of an *explanation similarity* artifact: similarity against cosine pair by pair and in bins of equal
    count, the published bins beside ours, rank correlations and AUC of every measure.
    """
    record = SimilarityRecord.read(folder)
    panels = [
        similarity_cloud(record, _POINTS), published_bins(record), correlations(record), discrimination(record)
    ]  # fmt: skip
    return small_png(panels, 2, _BYTES)


def compare_figure(report: ConsistencyReport, suffix: str = ".png") -> bytes:
    """A figure about a few SAEs that were compared: matched cosines with the null, and shared features by definition;
    decoder against encoder cosine, and the stable core, where they are known.

    Args:
        suffix: one of ``.png``, ``.svg``, ``.pdf``.

    Raises:
        ValueError: for another suffix.
    """
    record = ConsistencyRecord(report.summary, report.pairs, report.features, report.core_curve, None, activations=[])
    found = [("SAEs", record)]
    panels = [histogram_panel([cosine_counts("matched pairs", report.summary)]), shared_panel(found)]
    decoder, encoder = _joint_cosines(report.matches)
    if len(encoder):
        panels.append(joint_panel(decoder, encoder))
    if report.core_curve is not None:
        panels.append(_core_by_threshold(record))
    return document(panels, suffix, columns=3 if len(panels) == 3 else 2)


def write_compare_figure(path: Path, report: ConsistencyReport) -> None:
    """Write :func:`compare_figure` to a file; its suffix says as what.

    Raises:
        ValueError: for a suffix that is not one of ``.png``, ``.svg``, ``.pdf``.
        FileNotFoundError: if its folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} for the figure; make it first, or name another place")
    if path.suffix.lower() not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise ValueError(f"a figure is written as {known}: got {path.name}; give its name one of these endings")
    write_whole(path, lambda part: part.write_bytes(compare_figure(report, path.suffix.lower())))


def _core_by_threshold(record: ConsistencyRecord) -> Panel:
    """A curve for each number of seeds, the most last; for some of them where there are many."""
    n_seeds = column(record.core_curve, "n_seeds")
    numbers = np.unique(n_seeds)
    if len(numbers) > MAX_SERIES:
        numbers = numbers[np.unique(np.linspace(0, len(numbers) - 1, MAX_SERIES).round().astype(int))]
    curves = []
    for place, number in enumerate(numbers):
        x, share, chance = core_points(record, n_seeds == number, "tau")
        curves.append(Curve(_of_all(int(number), record.summary.n_runs), x, share, chance=chance, colour=place))
    return core_curves(curves, "Stable core by threshold", "|cosine| from which features are the same", "linear")


def _of_all(number: int, n_runs: int) -> str:
    if number < n_runs:
        return f"any {number} of {n_runs}"
    return "both" if n_runs == 2 else f"all {n_runs}"


def _core_by_seeds(record: ConsistencyRecord) -> Panel:
    if record.summary.n_runs < 3:
        return core_by_seeds([("seeds", record)])
    tau, curves = column(record.core_curve, "tau"), []
    for place, nearest in enumerate(dict.fromkeys(float(tau[np.abs(tau - wanted).argmin()]) for wanted in _TAUS)):
        x, share, chance = core_points(record, tau == nearest, "n_seeds")
        curves.append(Curve(f"|cosine| ≥ {nearest:g}", x, share, chance=chance, colour=place))
    return core_curves(curves, "Stable core by number of seeds", "number of seeds", "integer")


def _joint_cosines(matches: pa.Table) -> tuple[Values, Values]:
    """Decoder and encoder cosines of the matched pairs that have both, with the sign that makes the former positive."""
    encoder = column(matches, "encoder_cosine")
    known = np.isfinite(encoder)
    decoder = column(matches, "cosine")[known]
    return np.abs(decoder), encoder[known] * np.where(decoder < 0, -1.0, 1.0)
