"""Every figure of the project, drawn from plain arrays.

Place in the flow: tables of *consistency* and *similarity* -> **figures** -> report and UI.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; each variant has a marker of its own too.
Solid is what was found, dashed is what chance gives (or the most that could be). Lines are drawn in
:mod:`sae_core.report.curves`, panels about what stands behind PW-MCC in :mod:`sae_core.report.consistency_panels`,
those about explanations in :mod:`sae_core.report.explanation_figures`; :mod:`sae_core.report.figure_files` turns panels
into PNG, SVG and PDF.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from sae_core.report.consistency_panels import (
    Contributions,
    DotRow,
    contributions_panel,
    dots_panel,
    equal_bins_panel,
    joint_panel,
)
from sae_core.report.curves import (
    DASHED,
    Curve,
    EmptyPanel,
    Scale,
    Values,
    curves_panel,
    fill_alpha,
    legend,
    percent_axis,
)
from sae_core.report.explanation_figures import (
    BinBeside,
    Cloud,
    RangeRow,
    cloud_panel,
    published_panel,
    ranges_panel,
)
from sae_core.report.figure_files import (
    COLOURS,
    INK,
    MAX_SERIES,
    MUTED,
    SUFFIXES,
    Panel,
    document,
    pdf_pages,
    png,
    small_png,
    svg,
)

__all__ = [
    "MAX_SERIES", "SUFFIXES", "Agreement", "BinBeside", "Binned", "Cloud", "Contributions", "CosineCounts", "Curve",
    "DotRow", "EmptyPanel", "Panel", "RangeRow", "Scale", "Values", "agreement_panel", "binned", "cloud_panel",
    "contributions_panel", "curves_panel", "document", "dots_panel", "equal_bins_panel", "histogram_panel",
    "joint_panel", "pdf_pages", "png", "published_panel", "ranges_panel", "small_png", "svg",
]  # fmt: skip


@dataclass(frozen=True)
class Agreement:
    """PW-MCC of one variant with what belongs beside it."""

    label: str
    value: float
    low: float | None
    """Ends of the confidence interval; None where there is none."""
    high: float | None
    null: float
    alive: float | None
    """Among alive features only; None when unknown."""
    pairs: Values
    """Value of every pair of runs."""
    warning: str = ""
    """What a reader of this figure alone must know; stands below the label."""


@dataclass(frozen=True)
class CosineCounts:
    """Matched absolute cosines of one variant and those of the null, in the same bins."""

    label: str
    edges: Float[np.ndarray, " edges"]
    counts: Values
    null_counts: Values | None
    """None where the null has no histogram; then its mean is marked."""
    null_mean: float


@dataclass(frozen=True)
class Binned:
    """Values in bins of about equal count along x."""

    x: Values
    """Median of x."""
    median: Values
    low: Values
    """First quartile."""
    high: Values
    """Third quartile."""
    mean: Values
    count: np.ndarray


def binned(x: Values, y: Float[np.ndarray, " m"], max_bins: int = 16, per_bin: int = 20) -> Binned:
    """Median, quartiles and mean of y in bins along x that hold about equally many values.

    Args:
        x: finite.
        y: finite, as many.
        max_bins: bins at most; fewer when there would be less than ``per_bin`` values in each, but at least one.

    Raises:
        ValueError: if the two differ in length, there is nothing, or a value is not finite.
    """
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(f"bins need as many x as y, and at least one: got {len(x)} and {len(y)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("bins need finite values: leave out what is missing, and count it")
    parts = np.array_split(np.argsort(x, kind="stable"), max(1, min(max_bins, len(x) // per_bin)))
    quartiles = np.array([np.quantile(y[part], [0.25, 0.5, 0.75]) for part in parts])
    return Binned(
        x=np.array([np.median(x[part]) for part in parts]),
        median=quartiles[:, 1],
        low=quartiles[:, 0],
        high=quartiles[:, 2],
        mean=np.array([y[part].mean() for part in parts]),
        count=np.array([len(part) for part in parts]),
    )


def agreement_panel(rows: Sequence[Agreement]) -> Panel:
    """PW-MCC of each variant with its interval, the pairs of runs, the alive features and the chance level."""

    def draw(axes: Axes) -> None:
        size = 4 if len(rows) <= MAX_SERIES else 3
        for place, row in enumerate(rows):
            colour = COLOURS[place] if len(rows) <= MAX_SERIES else COLOURS[0]
            axes.plot([row.null], [place], "|", color=MUTED, markersize=11, markeredgewidth=1.6)
            axes.plot(
                row.pairs, np.full(len(row.pairs), place + 0.17), ".", color=colour, markersize=size - 1, alpha=0.55
            )
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
            axes.plot([row.value], [place], "o", color=colour, markersize=size + 1.5)
            if row.alive is not None:
                axes.plot([row.alive], [place - 0.17], "D", color=colour, markersize=size, fillstyle="none")
        axes.set_ylim(1.22 * len(rows) - 0.3, -0.7)  # room for the legend below the rows
        axes.set_xlim(*_agreement_limits(rows))
        axes.set_yticks(range(len(rows)), [f"{row.label}\n{row.warning}".strip() for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_title("Agreement of seeds")
        axes.set_xlabel("PW-MCC")
        intervals, alive = (any(getattr(row, name) is not None for row in rows) for name in ("low", "alive"))
        keys = [Line2D([], [], color=INK, marker="o", linewidth=2.2 * intervals, label="all features")]
        if intervals:
            keys[0].set_label("all features, CI")
        if alive:
            keys.append(Line2D([], [], color=INK, marker="D", fillstyle="none", linestyle="none", label="alive only"))
        keys += [
            Line2D([], [], color=INK, marker=".", alpha=0.55, linestyle="none", label="pair of seeds"),
            Line2D(
                [], [], color=MUTED, marker="|", markersize=9, markeredgewidth=1.6, linestyle="none", label="chance"
            ),
        ]
        axes.legend(handles=keys, loc="lower center", ncol=2, columnspacing=1.2, borderpad=0)

    return draw


def _agreement_limits(rows: Sequence[Agreement]) -> tuple[float, float]:
    """0 to 1, more where an interval reaches beyond."""
    lows = [row.low for row in rows if row.low is not None]
    highs = [row.high for row in rows if row.high is not None]
    return min([0.0, *lows]) - 0.02, max([1.0, *highs]) + 0.02


def histogram_panel(rows: Sequence[CosineCounts]) -> Panel:
    """Shares of matched pairs by absolute cosine; chance dashed. A mixture of perfect and chance pairs shows here."""

    def draw(axes: Axes) -> None:
        for place, row in enumerate(rows):
            found = _shares(row.counts)
            colour = COLOURS[place]
            if row.null_counts is None:
                axes.axvline(row.null_mean, color=colour, linewidth=1.0, linestyle=DASHED, alpha=0.9)
            else:
                chance = _shares(row.null_counts)
                axes.stairs(chance, row.edges, color=colour, linewidth=1.0, linestyle=DASHED, alpha=0.9)
            axes.stairs(found, row.edges, color=colour, fill=True, alpha=fill_alpha(len(rows)), linewidth=0)
            axes.stairs(found, row.edges, color=colour, linewidth=1.4, label=row.label)
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        percent_axis(axes)
        axes.grid(axis="y")
        axes.set_title("Matched pairs by cosine")
        axes.set_xlabel("|cosine| of the matched pair")
        axes.set_ylabel("share of matched pairs")
        legend(axes, "chance" if all(row.null_counts is not None for row in rows) else "mean by chance")

    return draw


def _shares(counts: Values) -> Values:
    total = counts.sum()
    return counts / total if total > 0 else counts
