"""Figures of data whose features fire at different rates: recovery by group, agreement by frequency.

Part of *reproduction*.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from sae_core.report.figure_files import INK, MUTED, Panel
from sae_core.report.numbers import number
from sae_core.reproduction.bars import cosines_panel
from sae_core.reproduction.estimates import Points, gt, pw
from sae_core.reproduction.labels import ARCHITECTURES, architecture, titled
from sae_core.reproduction.lines import (
    MARKERS,
    Line,
    Values,
    architecture_keys,
    colour_of,
    draw_lines,
    key,
    keys_above,
    reach,
)
from sae_core.synthetic.results import CapacityLaw, FeatureGroup, PointSummary
from sae_core.synthetic_config import GroupConfig


def groups_figure(group: GroupConfig, points: Points) -> list[Panel]:
    """GT-MCC of groups of features by their rank, and how many features of the SAE each gets by its probability."""
    known = [point for point in points if point.groups]
    if not known:
        raise ValueError(f"group {group.name}: no point has groups of features; set measures.groups")

    def by_rank(axes: Axes) -> None:
        lines = []
        for point in known:
            colour, groups = colour_of(point.config.variant.architecture), point.groups or []
            rank, mean = _column(groups, "number"), _column(groups, "gt_mcc")
            sd = np.nan_to_num(_column(groups, "gt_mcc_sd"))
            lines += [
                Line(rank, mean, colour, "solid", mean - sd, mean + sd, MARKERS[0]),
                Line(rank, np.full(len(rank), max(gt(point).nulls)), colour, "dotted"),
            ]
        draw_lines(axes, lines)
        axes.xaxis.set_major_locator(MaxNLocator(11, integer=True))
        reach(axes)
        axes.set_xlabel("group of true features, the most frequent first")
        axes.set_ylabel("GT-MCC of the group")
        axes.set_title(titled(group, "truth by frequency"))
        measures = [key("GT-MCC; band: sd over runs", MUTED, "solid", MARKERS[0]), key("chance, all", MUTED, "dotted")]
        keys_above(axes, [*measures, *architecture_keys([point.config.variant.architecture for point in known])])

    def capacity(axes: Axes) -> None:
        every, keys = [], []
        for point in known:
            colour, groups = colour_of(point.config.variant.architecture), point.groups or []
            probability, n = _column(groups, "probability"), _column(groups, "n_matched")
            shown = (n > 0) & (probability > 0)
            axes.plot(probability[shown], n[shown], MARKERS[0], color=colour, markersize=4.5)
            every += [*probability[shown]]
            name = ARCHITECTURES[point.config.variant.architecture]
            if point.capacity:
                order = np.argsort(probability)
                axes.plot(probability[order], fitted(groups, point.capacity)[order], color=colour, linewidth=1.2)
                ends = ", ".join(number(end, 2) for end in (point.capacity.ci_low, point.capacity.ci_high))
                name += f": exponent {number(point.capacity.alpha, 2)} [{ends}]"
            keys.append(key(name, colour, "solid", MARKERS[0]))
        axes.set_yscale("log")
        axes.set_xscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(10, subs=(1, 2, 3, 5), numticks=12))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid()
        axes.set_xlabel("probability of a feature of the group")
        axes.set_ylabel("features of the SAE matched to it")
        axes.set_title(titled(group, "capacity by frequency"))
        axes.legend(handles=keys, loc="upper left", fontsize=6.8)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** (0.1 * len(keys)))

    return [by_rank, capacity]


def fitted(groups: list[FeatureGroup], law: CapacityLaw) -> Values:
    """What the law says each group gets: ``probability ** alpha``, scaled so that all groups together get what they do.

    That is the scale a Poisson regression finds.
    """
    shares = _column(groups, "probability") ** law.alpha
    scaled: Values = shares * _column(groups, "n_matched").sum() / shares.sum()
    return scaled


def frequency_figure(group: GroupConfig, points: Points) -> list[Panel]:
    """Mean cosine of matched pairs by frequency with the pairs of each bin, and the cosines themselves."""
    known = [point for point in points if point.consistency.frequency_bins]
    if not known:
        raise ValueError(f"group {group.name}: no point has bins of frequency; measure firing rates")

    def draw(axes: Axes) -> None:
        width, n_bins = 0.8 / len(known), max(len(point.consistency.frequency_bins or []) for point in known)
        for place, point in enumerate(known):
            colour = colour_of(point.config.variant.architecture)
            # Bins of one point end with the most frequent features; one that never fired stands before them.
            bins = point.consistency.frequency_bins or []
            for number_of_bin, found in enumerate(bins, n_bins - len(bins)):
                if found.mean_cosine is None:
                    continue
                x, half = number_of_bin + width * (place - (len(known) - 1) / 2), 0.46 * width
                axes.bar([x], [found.mean_cosine], 2 * half, color=colour, alpha=0.8)
                if found.sd_cosine is not None:
                    ends = [found.mean_cosine - found.sd_cosine, min(1.0, found.mean_cosine + found.sd_cosine)]
                    axes.plot([x, x], ends, color=INK, linewidth=0.9)
                axes.plot([x - half, x + half], [max(pw(point).nulls)] * 2, color=INK, linewidth=1.2)
                axes.annotate(
                    f"{found.n_matches:,}", (x, 0.02), ha="center", va="bottom", color="white",
                    fontsize=6.5 if len(known) == 1 else 5.5, rotation=0 if len(known) == 1 else 90,
                )  # fmt: skip
        axes.xaxis.set_major_locator(FixedLocator(list(range(n_bins))))
        axes.set_xticklabels(_bin_names(known[0], n_bins), fontsize=6.8)
        axes.tick_params(axis="x", length=0)
        axes.set_ylim(0, 1.02)
        axes.grid(axis="y")
        axes.set_xlabel("how often the rarer feature of a pair fires, of 1,000 samples")
        axes.set_ylabel("mean |cosine| of matched pairs")
        axes.set_title(titled(group, "agreement by frequency"))
        named = [
            Patch(color=colour_of(point.config.variant.architecture), label=f"{architecture(point)}; in white: pairs")
            for point in known
        ]
        spread = [
            Line2D([], [], color=INK, marker=marker, markersize=9, linestyle="none", label=name)
            for marker, name in (("|", "sd over pairs"), ("_", "chance, all pairs"))
        ]
        keys_above(axes, [*named, *spread])

    return [draw, cosines_panel(points, titled(group, "matched cosines"))]


def _bin_names(point: PointSummary, n_bins: int) -> list[str]:
    bins = point.consistency.frequency_bins or []
    names = ["never" if found.high == 0 else f"{_short(found.low)}\nto {_short(found.high)}" for found in bins]
    return [""] * (n_bins - len(names)) + names


def _short(frequency: float) -> str:
    """Of 1,000 samples."""
    value = 1000 * frequency
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _column(groups: list[FeatureGroup], field: str) -> Values:
    values = [getattr(group, field) for group in groups]
    return np.array([np.nan if value is None else float(value) for value in values])
