"""Panels with a row for each point: GT-MCC and PW-MCC as bars, and the cosines behind them.

Part of *reproduction*.
"""

from collections.abc import Sequence
from textwrap import wrap

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter

from sae_core.report.curves import DASHED
from sae_core.report.figure_files import COLOURS, INK, MUTED, Panel
from sae_core.reproduction.estimates import Estimate, Points, gt, pw
from sae_core.reproduction.labels import label
from sae_core.reproduction.lines import key, keys_above

TRUTH, AGREEMENT = COLOURS[0], COLOURS[1]
"""Colours of GT-MCC and PW-MCC where a panel does not tell architectures apart by colour."""
_MOST_OUTLINES = 2
_BAR = 0.36
_LABEL_CHARACTERS = 24
_MAPS = {
    colour: LinearSegmentedColormap.from_list("strip", ["#ffffff", colour, "#101010"]) for colour in (TRUTH, AGREEMENT)
}


def bars_panel(points: Points, title: str) -> Panel:
    """A pair of bars a point with their intervals; ticks mark chance, a diamond where a start at the truth ends."""

    def draw(axes: Axes) -> None:
        for place, point in enumerate(points):
            _bar(axes, place - _BAR / 2, gt(point), TRUTH)
            _bar(axes, place + _BAR / 2, pw(point), AGREEMENT)
        _rows(axes, points)
        axes.set_xlim(0, 1.02)
        axes.grid(axis="x")
        axes.set_xlabel("mean |cosine| of matched features")
        axes.set_title(title)
        keys: list[Line2D | Patch] = [Patch(color=TRUTH, label="GT-MCC"), Patch(color=AGREEMENT, label="PW-MCC")]
        keys.append(Line2D([], [], color=INK, marker="|", markersize=8, linestyle="none", label="chance"))
        if any(point.ceiling for point in points):
            keys.append(_diamond(label="GT-MCC, started at the truth"))
        keys_above(axes, keys)

    return draw


def _bar(axes: Axes, y: float, found: Estimate, colour: str) -> None:
    axes.barh([y], [found.value], 0.92 * _BAR, color=colour, alpha=0.35 if found.chance_like else 0.85)
    if found.low is not None and found.high is not None:
        axes.plot([found.low, found.high], [y, y], color=INK, linewidth=1.0, solid_capstyle="butt")
    for null in found.nulls:
        axes.plot([null, null], [y - 0.48 * _BAR, y + 0.48 * _BAR], color=INK, linewidth=1.2)
    if found.ceiling is not None:
        axes.add_line(_diamond([found.ceiling], [y]))


def _diamond(x: Sequence[float] = (), y: Sequence[float] = (), label: str = "_nolegend_") -> Line2D:
    return Line2D(
        x, y, color=INK, marker="D", markersize=4, markerfacecolor="white", linestyle="none", label=label, zorder=5,
    )  # fmt: skip


def cosines_panel(points: Points, title: str) -> Panel:
    """Matched cosines with the truth and between seeds: mirrored histograms of few points, strips of many."""
    return _mirrored(points, title) if len(points) <= _MOST_OUTLINES else _strips(points, title)


def _mirrored(points: Points, title: str) -> Panel:
    def draw(axes: Axes) -> None:
        top = 0.0
        for place, point in enumerate(points):
            colour = COLOURS[place]
            for found, side in ((point.recovery.histogram, 1), (point.consistency.histogram, -1)):
                shares = _shares(found.counts)
                top = max(top, shares.max(initial=0.0))
                axes.stairs(side * shares, found.edges, color=colour, fill=True, alpha=0.2, linewidth=0)
                axes.stairs(side * shares, found.edges, color=colour, linewidth=1.3)
                if found.null_counts is not None:
                    chance = _shares(found.null_counts)
                    top = max(top, chance.max(initial=0.0))
                    axes.stairs(side * chance, found.edges, color=colour, linewidth=0.9, linestyle=DASHED)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.set_xlim(0, 1)
        axes.set_ylim(-1.12 * top, 1.12 * top)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * abs(value):g} %"))
        axes.grid(axis="y")
        for text, y, edge in (("with the truth", 0.97, "top"), ("between seeds", 0.03, "bottom")):
            axes.text(0.02, y, text, transform=axes.transAxes, color=MUTED, va=edge, fontsize="small")
        axes.set_title(title)
        axes.set_xlabel("|cosine| of the matched pair")
        axes.set_ylabel("share of matched pairs")
        named = [key(label(point, points), COLOURS[place]) for place, point in enumerate(points)]
        keys_above(axes, [*named, key("chance (sign flips)", MUTED, "dashed")])

    return draw


def _strips(points: Points, title: str) -> Panel:
    def draw(axes: Axes) -> None:
        for place, point in enumerate(points):
            for found, y, colour in (
                (point.recovery.histogram, place - _BAR / 2, TRUTH),
                (point.consistency.histogram, place + _BAR / 2, AGREEMENT),
            ):
                # A power of the share, so that a few pairs can be seen beside many.
                depth = np.sqrt(_shares(found.counts))[None]
                ends = [y - 0.46 * _BAR, y + 0.46 * _BAR]
                axes.pcolormesh(found.edges, ends, depth, cmap=_MAPS[colour], vmin=0, vmax=1, rasterized=True)
            for value, y in ((gt(point), place - _BAR / 2), (pw(point), place + _BAR / 2)):
                axes.plot([max(value.nulls)] * 2, [y - 0.46 * _BAR, y + 0.46 * _BAR], color=INK, linewidth=1.2)
        _rows(axes, points)
        axes.set_xlim(0, 1)
        axes.set_title(title)
        axes.set_xlabel("|cosine| of the matched pair")
        with_truth, seeds = Patch(color=TRUTH, label="with the truth"), Patch(color=AGREEMENT, label="between seeds")
        keys_above(axes, [with_truth, seeds, Line2D([], [], color=INK, marker="|", linestyle="none", label="chance")])

    return draw


def _rows(axes: Axes, points: Points) -> None:
    """A name for each point, from above."""
    names = ["\n".join(wrap(label(point, points), _LABEL_CHARACTERS)) for point in points]
    axes.yaxis.set_major_locator(FixedLocator(list(range(len(points)))))
    axes.set_yticklabels(names, fontsize=7 if max(name.count("\n") for name in names) else 8.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(points) - 0.45, -0.55)


def _shares(counts: Sequence[int] | Sequence[float]) -> Float[np.ndarray, " bins"]:
    values = np.asarray(counts, float)
    shares: Float[np.ndarray, " bins"] = values / max(values.sum(), 1.0)
    return shares
