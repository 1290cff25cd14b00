"""Where PW-MCC stops being a proxy of GT-MCC: all points of all experiments in one picture, and what they say together.

Part of *reproduction*.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import shorten, wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

from sae_core.report.curves import EmptyPanel
from sae_core.report.figure_files import INK, MUTED, Panel
from sae_core.report.numbers import number
from sae_core.reproduction.estimates import Points, correlation_over_points, gt, pw
from sae_core.reproduction.labels import label
from sae_core.reproduction.lines import MARKERS, architecture_keys, colour_of, key
from sae_core.synthetic.results import PointSummary

_ABOVE_LEFT = ((-8, 3), (-3, 9), (-8, -5))
"""Where numbers stand, in points: points above the diagonal have little there."""
APART = 0.1
"""A point is right but inconsistent where GT-MCC is so far above PW-MCC, and neither is at chance."""
_LISTED = 16
"""Points that stand with their names beside the map; the page names all."""


@dataclass(frozen=True)
class Placed:
    """A point and where it comes from."""

    experiment: str
    group: str
    point: PointSummary
    label: str
    """What sets it apart in its group."""

    @property
    def name(self) -> str:
        """Experiment, group, and what sets the point apart there."""
        where = self.experiment if self.group == "all" else f"{self.experiment} {self.group}"
        return f"{where.replace('_', ' ')}: {self.label}"


@dataclass(frozen=True)
class Gain:
    """What a summary of runs recovers beyond the mean run, over points."""

    more: int
    """Points where it recovers more true features."""
    less: int
    mean: float
    """Mean gain in the share of true features recovered."""


@dataclass(frozen=True)
class ProxyMap:
    """What all points say together."""

    points: tuple[Placed, ...]
    wrong: tuple[Placed, ...]
    """Consistent but wrong, by how far PW-MCC is above GT-MCC."""
    inconsistent: tuple[Placed, ...]
    """Right but inconsistent, by how far GT-MCC is above PW-MCC."""
    correlation: float | None
    """Spearman, of PW-MCC and GT-MCC over points."""
    n_chance_like: int
    n_summarised: int
    """Points of which the consensus was measured."""
    gains: Mapping[str, Gain]
    """Of ``consensus``, ``medoid`` and ``best_run``."""
    consensus_precision: float | None
    """Mean share of the features of a consensus that recover a true one."""
    run_precision: float | None
    """The same of single runs, at the same points."""
    seed_correlations: tuple[float, ...]
    """Pearson correlation over the seeds of each point, where it is defined."""
    n_correlated: int
    """Of those, positive ones with p below 0.05."""


def proxy_map(results: Mapping[str, Mapping[str, Points]]) -> ProxyMap:
    """Gather all points, each once however many experiments share it."""
    found: dict[tuple[str, int], Placed] = {}
    for experiment, groups in results.items():
        for group, points in groups.items():
            for point in points:
                placed_here = Placed(experiment, group, point, label(point, points))
                found.setdefault((point.config.key, len(point.config.seeds)), placed_here)
    placed = tuple(found.values())
    points = [each.point for each in placed]
    wrong = [each for each in placed if each.point.consistent_but_wrong]
    inconsistent = [each for each in placed if not each.point.chance_like and _above(each.point) > APART]
    summaries = [point.summaries for point in points if point.summaries]
    both = [each for each in summaries if each.consensus_precision is not None]
    correlation = correlation_over_points(points)
    own = [point.seed_correlation for point in points if point.seed_correlation.pearson is not None]
    return ProxyMap(
        points=placed,
        wrong=tuple(sorted(wrong, key=lambda each: _above(each.point))),
        inconsistent=tuple(sorted(inconsistent, key=lambda each: -_above(each.point))),
        correlation=correlation[0].value if correlation else None,
        n_chance_like=sum(bool(point.chance_like) for point in points),
        n_summarised=len(summaries),
        gains={
            name: _gain([getattr(each, name) - each.mean_run for each in summaries])
            for name in ("consensus", "medoid", "best_run")
        },
        consensus_precision=_mean([each.consensus_precision for each in both if each.consensus_precision is not None]),
        run_precision=_mean([each.mean_run_precision for each in both]),
        seed_correlations=tuple(each.pearson for each in own if each.pearson is not None),
        n_correlated=sum(_significant(each.pearson, each.p_value) for each in own),
    )


def _above(point: PointSummary) -> float:
    """How far the truth is above agreement."""
    return point.recovery.gt_mcc - point.consistency.pw_mcc


def proxy_panels(found: ProxyMap) -> list[Panel]:
    """PW-MCC against GT-MCC of all points; and the names of those that are consistent but wrong."""
    if not found.points:
        return [EmptyPanel("Agreement and truth, all points", "no point is there yet")]
    experiments = list(dict.fromkeys(each.experiment for each in found.points))

    def scatter(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9)
        for each in found.points:
            value = each.point
            x, y, colour = gt(value).value, pw(value).value, colour_of(value.config.variant.architecture)
            marker = MARKERS[experiments.index(each.experiment) % len(MARKERS)]
            face = "none" if value.chance_like else colour
            axes.plot([x], [y], marker, markersize=4.6, markerfacecolor=face, markeredgecolor=colour, alpha=0.75)
        for place, each in enumerate(found.wrong[:_LISTED], 1):
            x, y = gt(each.point).value, pw(each.point).value
            axes.plot([x], [y], "o", markersize=9.5, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=0.9)
            axes.annotate(
                str(place), (x, y), xytext=_ABOVE_LEFT[place % 3], textcoords="offset points", fontsize=6.2,
                ha="center", va="center",
            )  # fmt: skip
        lowest = min(min(gt(each.point).value, pw(each.point).value) for each in found.points)
        low = np.floor(10 * lowest - 0.2) / 10
        axes.set_xlim(low, 1.02)
        axes.set_ylim(low, 1.02)
        axes.xaxis.set_major_locator(MultipleLocator(0.1))
        axes.yaxis.set_major_locator(MultipleLocator(0.1))
        axes.set_aspect("equal")
        axes.grid()
        axes.set_xlabel("GT-MCC: agreement with the truth")
        axes.set_ylabel("PW-MCC: agreement of seeds")
        axes.set_title("Agreement and truth, all points")

    def names(axes: Axes) -> None:
        axes.set_axis_off()
        axes.set_title("What is shown")
        architectures = [each.point.config.variant.architecture for each in found.points]
        keys = [
            *architecture_keys(architectures),
            *(_symbol(experiment.replace("_", " "), MARKERS[place % len(MARKERS)])
              for place, experiment in enumerate(experiments)),
            _symbol("hollow: at the level of chance", "o", "none"),
            *([_symbol("ringed: consistent but wrong", "$\\bigcirc$")] if found.wrong else []),
        ]  # fmt: skip
        axes.legend(handles=keys, loc="upper left", ncol=2, fontsize=6.8, bbox_to_anchor=(-0.03, 1.02), borderaxespad=0)
        listed = [shorten(f"{n}  {each.name}", 76, placeholder=" …") for n, each in enumerate(found.wrong[:_LISTED], 1)]
        more = len(found.wrong) - len(listed)
        lines = [*(line for text in _said(found) for line in wrap(text, 70)), "", *listed]
        lines += [f"and {more} more" for _ in range(min(1, more))]
        bottom = 1.0 - 0.037 * (-(-len(keys) // 2)) - 0.03
        axes.text(-0.02, bottom, "\n".join(lines), transform=axes.transAxes, va="top", fontsize=6.3, linespacing=1.45)

    return [scatter, names]


def _said(found: ProxyMap) -> list[str]:
    rho = f"Over {len(found.points)} points: Spearman {number(found.correlation, 2)} of PW-MCC and GT-MCC."
    rho += "" if found.wrong else " No point is consistent but wrong."
    if not found.seed_correlations:
        return [rho]
    median = float(np.median(found.seed_correlations))
    within = (
        f"Within points, over seeds: median Pearson {number(median, 2)} of a run's MCC with the others and its GT-MCC; "
        f"positive with p < 0.05 in {found.n_correlated} of {len(found.seed_correlations)}."
    )
    return [rho, within]


def _symbol(name: str, marker: str, fill: str = MUTED) -> Line2D:
    symbol = key(name, MUTED, marker=marker)
    symbol.set_linestyle("none")
    symbol.set_markerfacecolor(fill)
    return symbol


def _gain(differences: list[float]) -> Gain:
    values = np.array(differences)
    return Gain(int((values > 0).sum()), int((values < 0).sum()), float(values.mean()) if len(values) else 0.0)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _significant(pearson: float | None, p_value: float | None) -> bool:
    return pearson is not None and p_value is not None and pearson > 0 and p_value < 0.05
