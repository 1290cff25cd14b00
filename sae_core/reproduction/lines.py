"""Lines with bands and keys above their axes, for the figures of the reproduction.

Part of *reproduction*; style and files are those of :mod:`sae_core.report.figure_files`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from sae_core.report.curves import DASHED, log_ticks
from sae_core.report.figure_files import ABOVE, COLOURS, INK, MUTED
from sae_core.reproduction.labels import ARCHITECTURES

Values = Float[np.ndarray, " n"]
Style = Literal["solid", "dashed", "dotted"]
Scale = Literal["linear", "log", "ticks"]

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
_STYLES = {"solid": "solid", "dashed": DASHED, "dotted": (0, (1, 1.6))}
_WIDTHS = {"solid": 1.6, "dashed": 1.3, "dotted": 1.1}
_BAND = 0.13
_LOG_FROM = 12.0
"""An axis is logarithmic when its largest value is so many times its smallest."""
_MOST_TICKS = 8
"""So many values have a tick each on a logarithmic axis."""
_PALETTE = (*COLOURS, INK, MUTED)


@dataclass(frozen=True)
class Line:
    """One line, with a band where there is one."""

    x: Values
    """Ascending. On a logarithmic axis a first value of 0 stands left of a break."""
    y: Values
    """nan where there is nothing to show."""
    colour: str = INK
    style: Style = "solid"
    low: Values | None = None
    high: Values | None = None
    marker: str | None = None


def colour_of(architecture: str) -> str:
    """The colour of an architecture, the same in every figure."""
    return _PALETTE[list(ARCHITECTURES).index(architecture)]


def scale_of(x: Sequence[float]) -> Scale:
    """Logarithmic where the values, all positive, span more than a decade."""
    return "log" if min(x) > 0 and max(x) >= _LOG_FROM * min(x) else "linear"


def draw_lines(axes: Axes, lines: Sequence[Line], scale: Scale = "linear") -> None:
    """Draw lines and set the x axis: linear, logarithmic, or with a tick at each value, equally spaced."""
    every = np.unique(np.concatenate([line.x for line in lines]))
    zero = _place_of_zero(every) if scale == "log" else None
    for line in lines:
        x = np.searchsorted(every, line.x).astype(float) if scale == "ticks" else line.x
        if zero is not None:
            x = np.where(x == 0, zero, x)
        if line.low is not None and line.high is not None:
            axes.fill_between(x, line.low, line.high, color=line.colour, alpha=_BAND, linewidth=0)
        axes.plot(
            x, line.y, color=line.colour, linestyle=_STYLES[line.style], linewidth=_WIDTHS[line.style],
            marker=line.marker, markersize=3.6,
        )  # fmt: skip
    if scale == "log" and zero is None and len(every) <= _MOST_TICKS:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(list(every)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    elif scale == "log":
        log_ticks(axes, every[every > 0], zero)
    elif scale == "ticks":
        axes.xaxis.set_major_locator(FixedLocator(list(range(len(every)))))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: f"{every[round(place)]:g}"))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 4, 5, 10]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def key(name: str, colour: str = INK, style: Style = "solid", marker: str | None = None) -> Line2D:
    """What stands before a name above the axes."""
    return Line2D(
        [], [], color=colour, linestyle=_STYLES[style], linewidth=_WIDTHS[style], marker=marker, markersize=4,
        label=name,
    )  # fmt: skip


def keys_above(axes: Axes, keys: Sequence[Artist]) -> None:
    """Name what is shown above the axes, two keys a line, where they hide nothing."""
    found = axes.legend(
        handles=list(keys), loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncol=2, borderaxespad=0.1,
        columnspacing=1.2, handlelength=1.8, fontsize=6.8,
    )  # fmt: skip
    found.set_gid(ABOVE)


def architecture_keys(architectures: Sequence[str]) -> list[Line2D]:
    """A key for each architecture, in the order of the project; none where there is only one."""
    found = [name for name in ARCHITECTURES if name in architectures]
    return [key(ARCHITECTURES[name], colour_of(name)) for name in found]


def reach(axes: Axes, low: float = 0.0, high: float = 1.02) -> None:
    """Let the y axis hold a range of shares or cosines."""
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.grid()


def mark_truth(axes: Axes, x: float | None) -> None:
    """A grey line where the truth stands on the x axis."""
    if x is not None:
        axes.axvline(x, color=MUTED, linewidth=0.9, alpha=0.7)
        axes.annotate(
            "truth", (x, 0.02), xycoords=("data", "axes fraction"), xytext=(3, 0), textcoords="offset points",
            color=MUTED, fontsize="x-small", va="bottom",
        )  # fmt: skip


def _place_of_zero(x: Values) -> float | None:
    """Where 0 stands on a logarithmic axis: left of all others; None if there is no 0."""
    positive = x[x > 0]
    if len(positive) == len(x) or not len(positive):
        return None
    return float(positive.min() / 10 ** (0.25 + 0.15 * np.log10(positive.max() / positive.min())))
