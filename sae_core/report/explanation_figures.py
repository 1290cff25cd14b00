"""Panels about explanations: similarity against cosine, published bins beside ours, measures side by side.

Part of *figures*.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sae_core.report.curves import DASHED, Values, shortened
from sae_core.report.figure_files import ABOVE, COLOURS, INK, MUTED, Panel

_DOTTED = (0, (1, 1.6))
_LABEL_CHARACTERS = 24


@dataclass(frozen=True)
class Cloud:
    """Matched pairs one by one and in bins, beside random pairs of equal frequency."""

    cosine: Values
    """Absolute cosine of the pairs that are drawn one by one."""
    similarity: Values
    decoy: Values
    """Similarity of the random pairs that stand for them; nan where there is none."""
    bin_cosine: Float[np.ndarray, " bins"]
    """Mean of each bin, ascending."""
    bin_similarity: Float[np.ndarray, " bins"]
    bin_sd: Float[np.ndarray, " bins"]
    """Standard deviation in the bin; nan where there are too few pairs."""
    bin_decoy: Float[np.ndarray, " bins"]
    ceiling: float | None = None
    """Similarity of one feature with itself."""
    chance_cosine: float | None = None
    """Up to this cosine a match is no better than chance."""


def cloud_panel(cloud: Cloud, title: str, y_label: str) -> Panel:
    """Similarity of matched pairs by their cosine: points, and means with standard deviations of bins."""

    def draw(axes: Axes) -> None:
        size = 2.6 if len(cloud.cosine) > 500 else 3.6
        for values, colour in ((cloud.decoy, MUTED), (cloud.similarity, COLOURS[0])):
            axes.plot(cloud.cosine, values, ".", color=colour, alpha=0.35, markersize=size, markeredgewidth=0)
        axes.plot(cloud.bin_cosine, cloud.bin_decoy, color=MUTED, linewidth=1.3, linestyle=DASHED)
        axes.errorbar(
            cloud.bin_cosine, cloud.bin_similarity, np.nan_to_num(cloud.bin_sd), color=COLOURS[0], marker="o",
            markersize=4.5, linewidth=1.6, elinewidth=1.0,
        )  # fmt: skip
        keys = [
            Line2D([], [], color=COLOURS[0], marker="o", markersize=4.5, label="matched: mean ± sd of a bin"),
            Line2D([], [], color=MUTED, linestyle=DASHED, linewidth=1.3, label="random pairs, equal frequency"),
        ]
        if cloud.ceiling is not None:
            axes.axhline(cloud.ceiling, color=INK, linewidth=0.9, linestyle=_DOTTED)
            keys.append(Line2D([], [], color=INK, linewidth=0.9, linestyle=_DOTTED, label="a feature with itself"))
        if cloud.chance_cosine is not None:
            axes.axvline(cloud.chance_cosine, color=MUTED, linewidth=0.9, linestyle=_DOTTED)
            keys.append(Line2D([], [], color=MUTED, linewidth=0.9, linestyle=_DOTTED, label="cosine by chance"))
        axes.set_xlim(0, 1)
        axes.grid()
        _finish(axes, title, "|cosine| of the matched pair", y_label)
        _keys_above(axes, keys)

    return draw


@dataclass(frozen=True)
class BinBeside:
    """A bin of cosine as published and as found here."""

    low: float
    high: float
    published: float | None
    """None where nothing was published."""
    n: int
    """Pairs here."""
    value: float | None
    sd: float | None
    decoy: float | None


def published_panel(bins: Sequence[BinBeside], y_label: str, same_scale: bool) -> Panel:
    """Bins of the cosine in equal steps: ours against the left axis, the published ones against the right one.

    Args:
        same_scale: whether ours are ratings from 1 to 10 too, so that both stand on one axis.
    """

    def draw(axes: Axes) -> None:
        x = np.arange(len(bins))
        value, sd, decoy, theirs = (
            np.array([np.nan if each is None else each for each in column], float)
            for column in zip(*((b.value, b.sd, b.decoy, b.published) for b in bins), strict=True)
        )
        right = axes if same_scale else axes.twinx()
        right.plot(x, theirs, color=COLOURS[1], marker="D", fillstyle="none", linestyle=DASHED, linewidth=1.2)
        axes.plot(x, decoy, color=MUTED, linestyle=DASHED, linewidth=1.2)
        axes.errorbar(
            x, value, np.nan_to_num(sd), color=COLOURS[0], marker="o", markersize=4.5, linewidth=1.6, elinewidth=1.0
        )
        right.set_ylim(-0.4, 10.5)
        right.set_yticks([2, 4, 6, 8, 10])
        if not same_scale:
            right.set_ylabel("rating, 1 to 10 (published)", color=COLOURS[1])
            right.spines["top"].set_visible(False)
        if not same_scale:
            known = np.concatenate([value - np.nan_to_num(sd), value + np.nan_to_num(sd), decoy])
            low, high = np.nanmin(known), np.nanmax(known)
            axes.set_ylim(low - 0.14 * (high - low or 1), high + 0.06 * (high - low or 1))  # room for the counts
        edges = [bins[0].low, *(b.high for b in bins)]
        axes.set_xticks(np.arange(len(edges)) - 0.5, [_edge(edge) for edge in edges])
        axes.set_xlim(-0.5, len(bins) - 0.5)
        for place, b in zip(x, bins, strict=True):
            axes.annotate(
                f"{b.n:,}", (place, 0.02), xycoords=axes.get_xaxis_transform(), ha="center", color=MUTED, fontsize=6.8
            )
        axes.grid(axis="y")
        _finish(axes, "The paper’s bins", "|cosine| of the matched pair (below: pairs here)", y_label)
        keys = [
            Line2D([], [], color=COLOURS[0], marker="o", markersize=4.5, label="here, matched: mean ± sd"),
            Line2D([], [], color=MUTED, linestyle=DASHED, linewidth=1.2, label="here, random pairs"),
            Line2D([], [], color=COLOURS[1], marker="D", fillstyle="none", linestyle=DASHED, label="Song et al. 2025"),
        ]
        _keys_above(axes, keys)

    return draw


@dataclass(frozen=True)
class RangeRow:
    """A value with its interval, and another value beside it."""

    label: str
    value: float | None
    low: float | None = None
    """Ends of the interval; None where there is none."""
    high: float | None = None
    other: float | None = None


def ranges_panel(
    rows: Sequence[RangeRow], title: str, x_label: str, names: tuple[str, str], reference: float, reach: float
) -> Panel:
    """A line for each row: a value with its interval, and hollow another one.

    Args:
        names: of the value and of the other one.
        reference: where the value would be if there were nothing to find.
        reach: the axis shows at least so much on either side of it.
    """

    def draw(axes: Axes) -> None:
        known = [reference]
        for place, row in enumerate(rows):
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [place, place], color=COLOURS[0], linewidth=2.2, solid_capstyle="butt")
            if row.value is not None:
                axes.plot([row.value], [place], "o", color=COLOURS[0], markersize=5.5)
            if row.other is not None:
                axes.plot([row.other], [place], "D", color=COLOURS[1], markersize=4.5, fillstyle="none")
            known += [each for each in (row.low, row.high, row.value, row.other) if each is not None]
        axes.axvline(reference, color=MUTED, linewidth=1.1, linestyle=DASHED)
        low, high = min([*known, reference - reach]), max([*known, reference + reach])
        axes.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}".replace("-", "−")))
        axes.set_yticks(range(len(rows)), [shortened(row.label, _LABEL_CHARACTERS) for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        _finish(axes, title, x_label, "")
        keys = [Line2D([], [], color=COLOURS[0], marker="o", linestyle="none", label=names[0])]
        if any(row.low is not None for row in rows):
            keys[0] = Line2D([], [], color=COLOURS[0], marker="o", linewidth=2.2, label=f"{names[0]}, 95 % CI")
        keys.append(Line2D([], [], color=COLOURS[1], marker="D", fillstyle="none", linestyle="none", label=names[1]))
        _keys_above(axes, keys)

    return draw


def _edge(value: float) -> str:
    """``.065`` for 0.065, ``1`` for 1."""
    return f"{value:.3f}".lstrip("0").rstrip("0").rstrip(".") or "0"


def _finish(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)


def _keys_above(axes: Axes, keys: list[Line2D]) -> None:
    axes.legend(
        handles=keys, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncol=2, borderaxespad=0.1, columnspacing=1.0,
        handlelength=1.6, fontsize=6.8,
    ).set_gid(ABOVE)  # fmt: skip
