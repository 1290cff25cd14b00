"""Every figure of the project, drawn from plain arrays.

Place in the flow: tables of *consistency* and *similarity* -> **figures** -> report and UI.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; each variant has a marker of its own too.
Solid is what was found, dashed is what chance gives. :mod:`sae_core.figure_files` turns panels into PNG and SVG.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from sae_core.figure_files import COLOURS, INK, MAX_SERIES, MUTED, Panel, png, small_png, svg

__all__ = [
    "MAX_SERIES", "Agreement", "Binned", "CosineCounts", "Curve", "Panel", "Values", "agreement_panel", "binned",
    "curves_panel", "empty_panel", "histogram_panel", "png", "small_png", "svg",
]  # fmt: skip

Values = Float[np.ndarray, " n"]

MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHED = (0, (2.5, 1.5))


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


@dataclass(frozen=True)
class CosineCounts:
    """Matched absolute cosines of one variant and those of the null, in the same bins."""

    label: str
    edges: Float[np.ndarray, " edges"]
    counts: Values
    null_counts: Values


@dataclass(frozen=True)
class Curve:
    """One line, with a band or a dashed line of what chance gives, where there is one."""

    label: str
    x: Values
    y: Values
    low: Values | None = None
    high: Values | None = None
    chance: Values | None = None
    colour: int = 0
    """Place of its colour and marker among those of the panel."""


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
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_title("Agreement of seeds")
        axes.set_xlabel("PW-MCC")
        keys = [
            Line2D([], [], color=INK, marker="o", linewidth=2.2, label="all features, CI"),
            Line2D([], [], color=INK, marker="D", fillstyle="none", linestyle="none", label="alive only"),
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
            found, chance = _shares(row.counts), _shares(row.null_counts)
            axes.stairs(chance, row.edges, color=COLOURS[place], linewidth=1.0, linestyle=_DASHED, alpha=0.9)
            axes.stairs(found, row.edges, color=COLOURS[place], fill=True, alpha=0.16, linewidth=0)
            axes.stairs(found, row.edges, color=COLOURS[place], linewidth=1.4, label=row.label)
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axes.grid(axis="y")
        axes.set_title("Matched pairs by cosine")
        axes.set_xlabel("|cosine| of the matched pair")
        axes.set_ylabel("share of matched pairs")
        _legend(axes, "chance")

    return draw


def _shares(counts: Values) -> Values:
    total = counts.sum()
    return counts / total if total > 0 else counts


def curves_panel(
    curves: Sequence[Curve],
    title: str,
    x_label: str,
    y_label: str,
    *,
    chance: str | None = None,
    log_x: bool = False,
    y_limits: tuple[float | None, float | None] = (None, None),
    markers: bool = True,
) -> Panel:
    """Lines with bands; dashed where a curve has a chance level, which ``chance`` names in the legend."""

    def draw(axes: Axes) -> None:
        named: set[str] = set()
        for curve in curves:
            colour = COLOURS[curve.colour]
            if curve.low is not None and curve.high is not None:
                axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0)
            if curve.chance is not None:
                axes.plot(curve.x, curve.chance, color=colour, linewidth=1.1, linestyle=_DASHED)
            label = curve.label if curve.label not in named else "_nolegend_"
            named.add(curve.label)
            marker = MARKERS[curve.colour] if markers else None
            axes.plot(curve.x, curve.y, color=colour, marker=marker, label=label, linewidth=1.5 if markers else 1.1)
        if log_x:
            axes.set_xscale("log")
            low, high = axes.get_xlim()
            if high < 50 * low:  # powers of ten alone would leave a single tick
                axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            else:
                axes.xaxis.set_major_locator(LogLocator(10, numticks=8))
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _power_of_ten(value)))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.set_ylim(*y_limits)
        axes.grid()
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        _legend(axes, chance if any(curve.chance is not None for curve in curves) else None)

    return draw


def empty_panel(title: str, reason: str) -> Panel:
    """What stands where there is nothing to show, and why."""

    def draw(axes: Axes) -> None:
        axes.set_title(title)
        axes.set_axis_off()
        axes.text(0.5, 0.5, reason, ha="center", va="center", color=MUTED, wrap=True, transform=axes.transAxes)

    return draw


def _legend(axes: Axes, chance: str | None) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if chance:
        handles.append(Line2D([], [], color=MUTED, linewidth=1.1, linestyle=_DASHED))
        labels.append(chance)
    if handles:
        axes.legend(handles, labels, loc="best")


def _power_of_ten(value: float) -> str:
    exponent = round(np.log10(value))
    if exponent in (0, -1):
        return f"{10.0**exponent:g}"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
