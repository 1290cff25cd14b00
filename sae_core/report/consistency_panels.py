"""Panels about what stands behind PW-MCC: frequency, shares under several definitions, joint cosines.

Part of *figures*.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from sae_core.report.curves import DASHED, Values, fill_alpha, keep_room_for_legend, legend, log_ticks
from sae_core.report.figure_files import COLOURS, INK, MUTED, Panel

_DOT_MARKERS = (("o", "full"), ("D", "none"), ("^", "full"), ("s", "none"))
_MISSING_CHARACTERS = 42
_DEPTH = LinearSegmentedColormap.from_list("depth", ["#dbeaf4", COLOURS[0], "#00243a"])


@dataclass(frozen=True)
class Contributions:
    """What bins of frequency add to the PW-MCC of one variant."""

    label: str
    edges: Float[np.ndarray, " edges"]
    """Borders of the bins, positive, ascending."""
    values: Values
    """Contribution of each bin."""
    shares: Values
    """Share of all matched pairs in each bin: what it would contribute if every cosine were 1."""
    never: tuple[float, float] | None = None
    """Contribution and share of the pairs with a feature that never fired; None if there is none."""
    colour: int = 0


@dataclass(frozen=True)
class DotRow:
    """Several values that belong together, on one line."""

    label: str
    values: tuple[float | None, ...]
    """One for each series of the panel; None where it is not known."""
    missing: str = ""
    """Why values are not known; its beginning is printed on the line."""
    chance: float | None = None
    colour: int = 0
    spread: tuple[float | None, ...] = ()
    """Standard deviation of each value, where it has one; the values then stand below each other."""


def contributions_panel(rows: Sequence[Contributions]) -> Panel:
    """Contribution to PW-MCC by frequency, log-spaced bins: filled; dashed, the most that each bin could add."""

    def draw(axes: Axes) -> None:
        for row in rows:
            colour = COLOURS[row.colour]
            axes.stairs(row.shares, row.edges, color=colour, linewidth=1.0, linestyle=DASHED, alpha=0.9)
            axes.stairs(row.values, row.edges, color=colour, fill=True, alpha=fill_alpha(len(rows)), linewidth=0)
            axes.stairs(row.values, row.edges, color=colour, linewidth=1.4, label=row.label)
        edges = np.concatenate([row.edges for row in rows])
        zero = float(edges.min() / 10 ** (0.3 + 0.12 * np.log10(edges.max() / edges.min())))
        never = [row for row in rows if row.never is not None]
        for place, row in enumerate(never):
            _draw_never(axes, row, zero * 10 ** (0.07 * (place - (len(never) - 1) / 2)))
        log_ticks(axes, edges, zero if never else None, "never")
        keep_room_for_legend(axes, _highest(rows), len(rows) + 1)
        axes.grid(axis="y")
        axes.set_title("Contribution by frequency")
        axes.set_xlabel("share of tokens on which the rarer feature fires")
        axes.set_ylabel("part of PW-MCC")
        legend(axes, "if all cosines were 1", "upper left")

    return draw


def _highest(rows: Sequence[Contributions]) -> float:
    return max(float(max([*row.shares, row.never[1] if row.never else 0.0])) for row in rows)


def _draw_never(axes: Axes, row: Contributions, x: float) -> None:
    assert row.never is not None
    value, share = row.never
    colour = COLOURS[row.colour]
    axes.plot([x, x], [0, share], color=colour, linewidth=1.0, linestyle=DASHED)
    axes.plot([x, x], [0, value], color=colour, linewidth=3.5, alpha=0.6, solid_capstyle="butt")


def equal_bins_panel(rows: Sequence[Contributions]) -> Panel:
    """Contribution to PW-MCC of bins that hold equally many pairs, rarest first: bars, and the most each could add."""

    def draw(axes: Axes) -> None:
        width = 0.8 / len(rows)
        n_bins = max(len(row.values) for row in rows)
        for place, row in enumerate(rows):
            colour, x = COLOURS[row.colour], np.arange(len(row.values)) + width * (place - (len(rows) - 1) / 2)
            axes.bar(x, row.values, 0.86 * width, color=colour, alpha=0.75, label=row.label)
            axes.hlines(row.shares, x - 0.48 * width, x + 0.48 * width, color=MUTED, linewidth=1.1, linestyle=DASHED)
            if row.never is not None:
                before = -1.2 + width * (place - (len(rows) - 1) / 2)
                axes.bar([before], [row.never[0]], 0.86 * width, color=colour, alpha=0.75)
                ends = (before - 0.48 * width, before + 0.48 * width)
                axes.hlines([row.never[1]], *ends, color=MUTED, linewidth=1.1, linestyle=DASHED)
        names = ["rarest", *(str(number) for number in range(2, n_bins)), "most\nfrequent"][:n_bins]
        ticks = [(float(place), name) for place, name in enumerate(names)]
        if any(row.never is not None for row in rows):
            ticks.insert(0, (-1.2, "never"))
        axes.set_xticks([place for place, _ in ticks], [name for _, name in ticks])
        axes.tick_params(axis="x", length=0)
        keep_room_for_legend(axes, _highest(rows), len(rows) + 1)
        axes.grid(axis="y")
        axes.set_title("Contribution by equal shares of pairs")
        axes.set_xlabel("pairs of features by how often the rarer one fires")
        axes.set_ylabel("part of PW-MCC")
        legend(axes, "if all cosines were 1", "upper left")

    return draw


def dots_panel(
    rows: Sequence[DotRow],
    series: Sequence[str],
    title: str,
    x_label: str,
    *,
    chance: str | None = None,
    x_percent: bool = False,
) -> Panel:
    """A line for each row with a marker for each series; the series are named below.

    Args:
        series: names of the values of a row, at most four.
        chance: what the grey bar of a row is.
        x_percent: whether the values are shares, to be written in percent.
    """

    def draw(axes: Axes) -> None:
        known = [value for row in rows for value in (*row.values, row.chance) if value is not None]
        right = min(1.0, max(0.1, 1.3 * max(known, default=1.0))) if x_percent else 1.0
        axes.set_xlim(-0.02 * right, 1.02 * right)
        for place, row in enumerate(rows):
            _draw_dots(axes, row, place, len(series))
        keys = [
            Line2D([], [], color=INK, marker=marker, fillstyle=fill, linestyle="none", label=name)
            for place, (name, (marker, fill)) in enumerate(zip(series, _DOT_MARKERS, strict=False))
            if any(row.values[place] is not None for row in rows)
        ]
        if chance and any(row.chance is not None for row in rows):
            bar = Line2D([], [], color=MUTED, marker="|", markersize=9, markeredgewidth=1.6, linestyle="none")
            bar.set_label(chance)
            keys.append(bar)
        columns = 2 if len(keys) > 1 else 1
        lines = -(-len(keys) // columns)
        axes.set_ylim(len(rows) - 0.5 + (0.11 * lines + 0.06) * (len(rows) + 0.5), -0.6)  # room for the keys below
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.tick_params(axis="y", length=0)
        if x_percent:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axes.grid(axis="x")
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.legend(handles=keys, loc="lower center", ncol=columns, columnspacing=1.2, borderpad=0)

    return draw


def _draw_dots(axes: Axes, row: DotRow, place: int, n_series: int) -> None:
    colour = COLOURS[row.colour]
    if row.chance is not None:
        axes.plot([row.chance], [place], "|", color=MUTED, markersize=11, markeredgewidth=1.6)
    known = [value for value in row.values if value is not None]
    if len(known) > 1 and not row.spread:
        axes.plot([min(known), max(known)], [place, place], color=colour, linewidth=1.0, alpha=0.5)
    spreads = row.spread or (None,) * n_series
    for number, (value, spread, (marker, fill)) in enumerate(
        zip(row.values, spreads, _DOT_MARKERS[:n_series], strict=True)
    ):
        y = place + (0.17 * (number - (n_series - 1) / 2) if row.spread else 0.0)
        if value is not None and spread is not None:
            axes.plot([value - spread, value + spread], [y, y], color=colour, linewidth=1.4)
        if value is not None:
            axes.plot([value], [y], marker=marker, fillstyle=fill, color=colour, markersize=5, linestyle="none")
    if row.missing:
        middle = sum(axes.get_xlim()) / 2
        right = max(known, default=0.0)
        x, side = (right, "left") if right < middle else (min(known), "right")
        axes.annotate(
            shorten(row.missing, _MISSING_CHARACTERS, placeholder=" …"), (x, place), color=MUTED, fontsize="small",
            xytext=(9 if side == "left" else -9, 0), textcoords="offset points", ha=side, va="center",
        )  # fmt: skip


def joint_panel(decoder: Values, encoder: Float[np.ndarray, " n"]) -> Panel:
    """Matched pairs by decoder and encoder cosine, darker where there are more.

    Args:
        decoder: absolute decoder cosines.
        encoder: encoder cosines of the same pairs, with the sign that makes the decoder cosine positive.
    """

    def draw(axes: Axes) -> None:
        low = min(0.0, float(np.floor(10 * encoder.min()) / 10)) if len(encoder) else 0.0
        drawn: PolyCollection = axes.hexbin(
            decoder, encoder, gridsize=(32, 22), extent=(0, 1, low, 1), mincnt=1, cmap=_DEPTH, norm=LogNorm(),
            linewidths=0.4,
            edgecolors="face",
        )  # fmt: skip
        colours = axes.figure.colorbar(drawn, ax=axes, shrink=0.75, pad=0.02)
        colours.set_label("matched pairs", color=INK)
        colours.ax.yaxis.set_minor_locator(NullLocator())
        colours.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        colours.outline.set_visible(False)
        reach = np.linspace(0.4, 1.0, 2)
        axes.plot(reach, 1.4 - reach, color=MUTED, linewidth=1.1, linestyle=DASHED)
        axes.annotate("mean 0.7", (0.39, 0.95), color=MUTED, fontsize="small", ha="right", va="top")
        axes.set_xlim(0, 1)
        axes.set_ylim(low, 1)
        axes.grid()
        axes.set_title("Decoder and encoder together")
        axes.set_xlabel("|cosine| of decoder rows")
        axes.set_ylabel("cosine of encoder columns")

    return draw
