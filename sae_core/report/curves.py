"""Panels of lines with bands and chance levels, and the axes and legends that other panels share.

Part of *figures*.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from sae_core.report.figure_files import ABOVE, COLOURS, INK, MAX_KEYS_INSIDE, MUTED, Panel

Values = Float[np.ndarray, " n"]
Scale = Literal["linear", "log", "integer"]

MARKERS = ("o", "s", "^", "D", "v", "P")
DASHED = (0, (2.5, 1.5))
_DOTTED = (0, (1, 1.6))
_KEY_CHARACTERS = 24
"""Two keys of that length stand side by side above the axes."""


@dataclass(frozen=True)
class Curve:
    """One line, with a band or a dashed line of what chance gives, where there is one."""

    label: str
    x: Values
    """Ascending. On a logarithmic axis a first value of 0 stands left of a break."""
    y: Values
    low: Values | None = None
    """Lower edge of the band; nan where there is none."""
    high: Values | None = None
    chance: Values | None = None
    colour: int = 0
    """Place of its colour and marker among those of the panel."""


def curves_panel(
    curves: Sequence[Curve],
    title: str,
    x_label: str,
    y_label: str,
    *,
    chance: str | None = None,
    scale: Scale = "linear",
    y_limits: tuple[float | None, float | None] = (None, None),
    y_percent: bool = False,
    markers: bool = True,
) -> Panel:
    """Lines with bands; dashed where a curve has a chance level, which ``chance`` names in the legend.

    Args:
        scale: of the x axis; ``log`` shows a value of 0 as a hollow point left of a break, ``integer`` has whole ticks.
        y_percent: whether the values of y are shares, to be written in percent.
    """
    zero = _place_of_zero(curves) if scale == "log" else None

    def draw(axes: Axes) -> None:
        named: set[str] = set()
        for curve in curves:
            label = curve.label if curve.label not in named else "_nolegend_"
            named.add(curve.label)
            _draw_curve(axes, curve, label, zero, markers, alpha=fill_alpha(len(curves)))
        if scale == "log":
            log_ticks(axes, np.concatenate([curve.x[curve.x > 0] for curve in curves] or [np.zeros(0)]), zero)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=scale == "integer"))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.set_ylim(*y_limits)
        if y_percent:
            percent_axis(axes)
        axes.grid()
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        legend(axes, chance if any(curve.chance is not None for curve in curves) else None)

    return draw


@dataclass(frozen=True)
class EmptyPanel:
    """What stands where there is nothing to show, and why. A page may print the words alone."""

    title: str
    reason: str

    def __call__(self, axes: Axes) -> None:
        """Draw it into axes."""
        axes.set_title(self.title)
        axes.set_axis_off()
        axes.text(0.5, 0.5, self.reason, ha="center", va="center", color=MUTED, wrap=True, transform=axes.transAxes)


def legend(axes: Axes, chance: str | None, loc: str = "best") -> None:
    """The labelled series, and what the dashed line is: inside, or above the axes where there are many."""
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) + bool(chance) > MAX_KEYS_INSIDE:
        labels = [shortened(label, _KEY_CHARACTERS) for label in labels]
    if chance:
        handles.append(Line2D([], [], color=MUTED, linewidth=1.1, linestyle=DASHED))
        labels.append(chance)
    if len(handles) > MAX_KEYS_INSIDE:
        above = {"bbox_to_anchor": (-0.02, 1.0), "ncol": 2, "borderaxespad": 0.1, "columnspacing": 1.0}
        axes.legend(handles, labels, loc="lower left", handlelength=1.3, fontsize=6.8, **above).set_gid(ABOVE)
    elif handles:
        axes.legend(handles, labels, loc=loc)


def keep_room_for_legend(axes: Axes, top: float, n_keys: int) -> None:
    """Let the y axis go from 0 to above ``top``, so far that a legend in an upper corner hides nothing."""
    axes.set_ylim(0, (top or 1.0) * (1.06 + (0.09 * n_keys if n_keys <= MAX_KEYS_INSIDE else 0.0)))


def shortened(name: str, length: int) -> str:
    """A name of at most so many characters; of a longer one the beginning and the end, which tell variants apart."""
    return name if len(name) <= length else f"{name[: length // 2 - 1]}…{name[-(length - length // 2) :]}"


def percent_axis(axes: Axes) -> None:
    """Shares on the y axis, in percent."""
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def fill_alpha(n_series: int) -> float:
    """How opaque an area is: many of them over each other must not hide the lines."""
    return 0.32 / max(2, n_series)


def _draw_curve(axes: Axes, curve: Curve, label: str, zero: float | None, markers: bool, alpha: float) -> None:
    colour, marker = COLOURS[curve.colour], MARKERS[curve.colour] if markers else None
    rest = slice(None)
    if zero is not None and len(curve.x) and curve.x[0] == 0:
        rest = slice(1, None)
        _draw_zero(axes, curve, zero, colour, MARKERS[curve.colour])
    x = curve.x[rest]
    if curve.low is not None and curve.high is not None:
        axes.fill_between(x, curve.low[rest], curve.high[rest], color=colour, alpha=alpha, linewidth=0)
    if curve.chance is not None:
        axes.plot(x, curve.chance[rest], color=colour, linewidth=1.1, linestyle=DASHED)
    axes.plot(x, curve.y[rest], color=colour, marker=marker, label=label, linewidth=1.5 if markers else 1.1)


def _draw_zero(axes: Axes, curve: Curve, zero: float, colour: str, marker: str) -> None:
    """The first point left of the break: hollow, with its interval, dotted to the next one, which is no time away."""
    if curve.chance is not None:
        ends = (zero / 1.25, zero * 1.25)
        axes.plot(ends, [curve.chance[0]] * 2, color=colour, linewidth=1.1, linestyle=DASHED)
    if curve.low is not None and curve.high is not None:
        axes.plot([zero, zero], [curve.low[0], curve.high[0]], color=colour, linewidth=3, alpha=0.35)
    if len(curve.x) > 1:
        axes.plot([zero, curve.x[1]], curve.y[:2], color=colour, linewidth=1.0, linestyle=_DOTTED)
    axes.plot([zero], curve.y[:1], color=colour, marker=marker, fillstyle="none", linestyle="none")


def _place_of_zero(curves: Sequence[Curve]) -> float | None:
    """Where a value of 0 stands on a logarithmic axis: left of all others; None if there is no such value."""
    x = np.concatenate([curve.x for curve in curves]) if curves else np.zeros(0)
    if not (x == 0).any():
        return None
    positive = x[x > 0]
    if not len(positive):
        return 1.0
    return float(positive.min() / 10 ** (0.25 + 0.15 * np.log10(positive.max() / positive.min())))


def log_ticks(axes: Axes, x: Values, zero: float | None = None, zero_name: str = "0") -> None:
    """A logarithmic x axis with readable ticks for positive values x.

    Args:
        zero: where what has no place on the axis stands, left of a break; None if there is nothing of the kind.
        zero_name: what it is called.
    """
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    if not len(x):
        axes.xaxis.set_major_locator(FixedLocator([] if zero is None else [zero]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: zero_name))
        return
    short = x.max() < 50 * x.min()  # powers of ten alone would leave a single tick
    locator = LogLocator(10, subs=(1, 2, 5)) if short else LogLocator(10, numticks=6)
    name = _short_number if short else _power_of_ten
    if zero is None:
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: name(value)))
        return
    low, high = axes.get_xlim()
    clear = zero * (high / zero) ** 0.12  # further left, a tick would touch the label of zero
    ticks = [tick for tick in locator.tick_values(x.min(), x.max()) if max(clear, 0.8 * x.min()) <= tick <= high]
    axes.set_xlim(min(low, zero / 1.35), high)
    axes.xaxis.set_major_locator(FixedLocator([zero, *ticks]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: zero_name if value == zero else name(value)))
    _break_mark(axes, float(np.sqrt(zero * x.min())))


def _break_mark(axes: Axes, x: float) -> None:
    """Two strokes over the axis where it is not continuous."""
    across, stroke = axes.get_xaxis_transform(), [(-0.5, -1.0), (0.5, 1.0)]
    for factor in (1.0, 1.12):
        axes.plot([x * factor], [0], marker=stroke, color=INK, markersize=8, transform=across, clip_on=False)


def _short_number(value: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _power_of_ten(value: float) -> str:
    exponent = round(np.log10(value))
    if exponent in (0, -1):
        return f"{10.0**exponent:g}"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
