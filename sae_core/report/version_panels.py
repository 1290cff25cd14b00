"""Panels about the versions of a model: PW-MCC over time, agreement across and within, matched cosines.

Part of *figures*.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc
from matplotlib.axes import Axes

from sae_core.model_versions.results import AcrossVersions, VersionRow, VersionsSummary
from sae_core.report.figures import (
    Agreement,
    CosineCounts,
    Curve,
    DotRow,
    EmptyPanel,
    Panel,
    Values,
    agreement_panel,
    curves_panel,
    dots_panel,
    histogram_panel,
)
from sae_core.report.panels import NamedPanel, column
from sae_core.report.records import VersionsRecord

Labelled = Sequence[tuple[str, VersionsRecord]]
_SERIES = ("within old", "within new", "across, other seed", "across, same seed")


def version_panels(found: Labelled) -> list[NamedPanel]:
    """What the page shows of some variants; only what there is to show."""
    compared = [(key, record) for key, record in found if record.summary.across is not None]
    panels = []
    if compared:
        panels = [
            NamedPanel(
                "across",
                across_panel(compared),
                "PW-MCC between SAEs of the last two models beside that of the seeds within either; the bar marks what "
                "chance gives.",
            ),
            NamedPanel(
                "cosines across",
                cosines_panel(compared),
                "Matched pairs of features of the two models by absolute cosine; dashed, the same for the null.",
            ),
        ]
    over_time = NamedPanel(
        "over versions", over_versions_panel(found), "PW-MCC within each version, with its 95 % interval over seeds."
    )
    return [*panels, over_time]


def across_panel(compared: Labelled) -> Panel:
    """Agreement across and within: with pairs and intervals for one variant, as dots for several."""
    if len(compared) == 1:
        return _one_variant(compared[0][1])
    rows = []
    for place, (key, record) in enumerate(compared):
        across = _across(record)
        values = (across.within_old, across.within_new, across.pw_mcc_different_seed, across.pw_mcc_same_seed)
        rows.append(DotRow(key, values, chance=across.null, colour=place % 6))
    return dots_panel(rows, _SERIES, "Across and within models", "PW-MCC", chance="chance (across)")


def _one_variant(record: VersionsRecord) -> Panel:
    across, summary = _across(record), record.summary
    by_content = {row.content: row for row in summary.versions}
    old, new = by_content.get(summary.compared_with or ""), next(row for row in summary.versions if row.is_current)
    null = across.null
    rows = [
        _agreement("within old", across.within_old, old, _pairs(record, "within old"), null),
        _agreement("within new", across.within_new, new, _pairs(record, "within new"), null),
        Agreement(
            "across,\nother seed", across.pw_mcc_different_seed, None, None, null, None, _pairs(record, "across", False)
        ),
    ]
    if across.pw_mcc_same_seed is not None:
        same = _pairs(record, "across", True)
        rows.append(Agreement("across,\nsame seed", across.pw_mcc_same_seed, None, None, null, None, same))
    return _titled(agreement_panel(rows), "Across and within models")


def _titled(panel: Panel, title: str) -> Panel:
    """A panel of another stage under a title of its own."""

    def draw(axes: Axes) -> None:
        panel(axes)
        axes.set_title(title)

    return draw


def _agreement(label: str, value: float, row: VersionRow | None, pairs: Values, null: float) -> Agreement:
    chance = null if row is None or row.null is None else row.null
    low, high = (None, None) if row is None else (row.ci_low, row.ci_high)
    return Agreement(label, value, low, high, chance, None, pairs)


def _pairs(record: VersionsRecord, which: str, same_seed: bool = False) -> Values:
    assert record.pairs is not None
    chosen = pc.and_(pc.equal(record.pairs["which"], which), pc.equal(record.pairs["same_seed"], same_seed))
    return column(record.pairs.filter(chosen), "mcc")


def cosines_panel(compared: Labelled) -> Panel:
    """Matched absolute cosines across the two models, a histogram a variant."""
    rows = []
    for key, record in compared[:6]:
        across = _across(record)
        found = across.histogram
        null = None if found.null_counts is None else np.array(found.null_counts, float)
        label = "old with new" if len(compared) == 1 else key
        rows.append(
            CosineCounts(
                label, np.array(found.edges, float), np.array(found.counts, float), null, across.null_isotropic
            )
        )
    return _titled(histogram_panel(rows), "Across models, by cosine")


def over_versions_panel(found: Labelled) -> Panel:
    """PW-MCC of each version in the order of time, a curve a variant; dashed where chance is."""
    title, curves = "PW-MCC over versions", []
    for place, (key, record) in enumerate(found[:6]):
        known = [(number, row) for number, row in enumerate(record.summary.versions, 1) if row.pw_mcc is not None]
        if known:
            x = np.array([number for number, _ in known], float)
            y, low, high, chance = (
                np.array([_value(getattr(row, name)) for _, row in known])
                for name in ("pw_mcc", "ci_low", "ci_high", "null")
            )
            curves.append(Curve(key, x, y, low, high, chance, place))
    if not curves:
        return EmptyPanel(title, "the store has none of the versions")
    drawn = curves_panel(
        curves, title, "version, in order of time", "PW-MCC", chance="chance", scale="integer", y_limits=(0.0, 1.04)
    )
    models = _models(found[0][1].summary) if len(found) == 1 else {}

    def draw(axes: Axes) -> None:
        drawn(axes)
        n_versions = max(len(record.summary.versions) for _, record in found)
        axes.set_xlim(0.6, n_versions + 0.4)
        if models and n_versions <= 8:
            axes.set_xticks(list(models), [f"{number}\n{model}" for number, model in models.items()])
            axes.set_xlabel("version in order of time, and its model")

    return draw


def _models(summary: VersionsSummary) -> dict[int, str]:
    """The beginning of the model's digest by the number of the version."""
    return {number: (row.model or "?")[:6] for number, row in enumerate(summary.versions, 1)}


def _value(value: float | None) -> float:
    return np.nan if value is None else value


def _across(record: VersionsRecord) -> AcrossVersions:
    assert record.summary.across is not None
    return record.summary.across
