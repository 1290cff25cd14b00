"""The figure of each group of points, by the kind that its settings name.

Part of *reproduction*. PW-MCC is solid, GT-MCC dashed, chance dotted, as in the paper's figures; colours are those of
architectures where a panel shows several, and mean GT-MCC (blue) and PW-MCC (orange) in bars.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sae_core.report.figure_files import INK, MUTED, Panel
from sae_core.reproduction.bars import bars_panel, cosines_panel
from sae_core.reproduction.estimates import Estimate, Points, gt, pw
from sae_core.reproduction.group_figures import frequency_figure, groups_figure
from sae_core.reproduction.labels import titled, true_value, x_label, x_value
from sae_core.reproduction.lines import (
    MARKERS,
    Line,
    Style,
    Values,
    architecture_keys,
    colour_of,
    draw_lines,
    key,
    keys_above,
    mark_truth,
    reach,
    scale_of,
)
from sae_core.synthetic.results import PointSummary, Premises, SeedCount, Summaries
from sae_core.synthetic_config import GroupConfig

_SUMMARIES: tuple[tuple[str, str, Style, str], ...] = (
    ("mean_run", "a run, mean", "dotted", "o"),
    ("best_run", "best run (truth known)", "dotted", "^"),
    ("medoid", "medoid run", "dashed", "s"),
    ("consensus", "consensus", "solid", "D"),
)
"""What may summarise runs: field, name, and how it is drawn."""


def experiment_figure(group: GroupConfig, points: Points) -> list[Panel]:
    """The panels that show the points of a group.

    Raises:
        ValueError: if there are no points, or they lack what the kind of figure shows.
    """
    if not points:
        raise ValueError(f"group {group.name} has no points to draw; materialize them first")
    kinds: dict[str, Callable[[GroupConfig, Points], list[Panel]]] = {
        "bars": _bars,
        "sweep": _sweep,
        "groups": groups_figure,
        "frequency": frequency_figure,
        "dynamics": _dynamics,
        "round_trip": _round_trip,
        "seeds": _seeds,
    }
    return kinds[group.figure](group, points)


def _bars(group: GroupConfig, points: Points) -> list[Panel]:
    return [
        bars_panel(points, titled(group, "GT- and PW-MCC")),
        cosines_panel(points, titled(group, "matched cosines")),
    ]


def _sweep(group: GroupConfig, points: Points) -> list[Panel]:
    x = _axis(group)
    panels = [_against_x(group, x, points, "GT- and PW-MCC")]
    if any(point.summaries for point in points):
        panels.append(_recovered(group, x, points))
    return panels


def _against_x(group: GroupConfig, x: str, points: Points, title: str) -> Panel:
    """PW-MCC and GT-MCC of each architecture against x, with bands and chance."""

    def draw(axes: Axes) -> None:
        lines = []
        for architecture, at, found in _series(x, points):
            colour = colour_of(architecture)
            lines += [
                _estimates(at, [pw(point) for point in found], colour, "solid", MARKERS[0]),
                _estimates(at, [gt(point) for point in found], colour, "dashed", MARKERS[1]),
                Line(at, np.array([max(pw(point).nulls) for point in found]), colour, "dotted"),
            ]
        draw_lines(axes, lines, scale_of([x_value(point.config, x) for point in points]))
        truth = {true_value(point.config, x) for point in points}
        mark_truth(axes, truth.pop() if len(truth) == 1 else None)
        reach(axes)
        axes.set_xlabel(x_label(x))
        axes.set_ylabel("mean |cosine|")
        axes.set_title(titled(group, title))
        measures = [key("PW-MCC", MUTED, "solid", MARKERS[0]), key("GT-MCC", MUTED, "dashed", MARKERS[1])]
        keys_above(axes, [*measures, *_architectures(points), key("PW-MCC by chance", MUTED, "dotted")])

    return draw


def _recovered(group: GroupConfig, x: str, points: Points) -> Panel:
    """Share of the true features that one run, the medoid, the best run and the consensus recover, against x."""

    def draw(axes: Axes) -> None:
        known = [point for point in points if point.summaries]
        lines = [
            Line(at, _values([point.summaries for point in found], field), colour_of(name), style, marker=marker)
            for name, at, found in _series(x, known)
            for field, _, style, marker in _SUMMARIES
        ]
        draw_lines(axes, lines, scale_of([x_value(point.config, x) for point in points]))
        _recovery_axes(axes, known[0], known)
        axes.set_xlabel(x_label(x))
        axes.set_title(titled(group, "what recovers the truth"))

    return draw


def _recovery_axes(axes: Axes, first: PointSummary, points: Points, without: Sequence[str] = ()) -> None:
    tau = first.summaries.tau if first.summaries else 0.9
    reach(axes)
    axes.set_ylabel(f"share of the truth at ≥ {tau:g}")
    keys = [key(name, MUTED, style, marker) for field, name, style, marker in _SUMMARIES if field not in without]
    keys_above(axes, [*keys, *_architectures(points)])


def _dynamics(group: GroupConfig, points: Points) -> list[Panel]:
    known = [point for point in points if point.dynamics]
    if not known:
        raise ValueError(f"group {group.name}: no point has checkpoints; set measures.checkpoints")

    def draw(axes: Axes) -> None:
        lines = []
        for point in known:
            colour = colour_of(point.config.variant.architecture)
            steps = np.array([float(step.step) for step in point.dynamics or []])
            lines += [
                Line(steps, _values(point.dynamics or [], "pw_mcc"), colour, "solid", marker=MARKERS[0]),
                Line(steps, _values(point.dynamics or [], "gt_mcc"), colour, "dashed", marker=MARKERS[1]),
                Line(steps, np.full(len(steps), point.consistency.null_isotropic), colour, "dotted"),
            ]
        draw_lines(axes, lines, "log")
        reach(axes)
        axes.set_xlabel("training step")
        axes.set_ylabel("mean |cosine|")
        axes.set_title(titled(group, "while training"))
        measures = [key("PW-MCC", MUTED, "solid", MARKERS[0]), key("GT-MCC", MUTED, "dashed", MARKERS[1])]
        keys_above(axes, [*measures, *_architectures(known), key("random directions", MUTED, "dotted")])

    return [draw]


def _round_trip(group: GroupConfig, points: Points) -> list[Panel]:
    x = _axis(group)
    known = sorted((point for point in points if point.premises), key=lambda point: x_value(point.config, x))
    if not known:
        raise ValueError(f"group {group.name}: no point has premises; set measures.round_trip")

    def draw(axes: Axes) -> None:
        lines, architectures = [], list(dict.fromkeys(point.config.variant.architecture for point in known))
        for name, at, found in _series(x, known):
            premises = [point.premises for point in found if point.premises]
            learned = np.array([of.learned.same_support for of in premises])
            lines.append(Line(at, learned, colour_of(name), "solid", marker=MARKERS[0]))
            if name == architectures[0]:
                lines += _truth_lines(at, premises)
        draw_lines(axes, lines, scale_of([x_value(point.config, x) for point in known]))
        dependent = [x_value(p.config, x) for p in known if p.premises and p.premises.spark_condition is False]
        if dependent:
            axes.axvspan(axes.get_xlim()[0], max(dependent), color=MUTED, alpha=0.13, linewidth=0)
        reach(axes)
        axes.set_xlabel(x_label(x))
        axes.set_ylabel("share of codes, or |cosine|")
        axes.set_title(titled(group, "codes that come back"))
        shade = [Patch(color=MUTED, alpha=0.25, label="spark condition fails")] if dependent else []
        keys_above(
            axes,
            [
                *(key(f"learned, {found.get_label()}", str(found.get_color()), marker=MARKERS[0])
                  for found in architecture_keys(architectures)),
                key("truth, transpose", INK, "dashed", MARKERS[1]),
                key("truth, all sets tried", INK, "solid", MARKERS[3]),
                key("mutual coherence", MUTED, "dotted", MARKERS[2]), *shade,
            ],
        )  # fmt: skip

    return [_against_x(group, x, known, "GT- and PW-MCC"), draw]


def _truth_lines(at: Values, premises: Sequence[Premises]) -> list[Line]:
    """What the true dictionary does and is; the same for every architecture."""
    exhaustive = [of.truth_exhaustive.same_support if of.truth_exhaustive else np.nan for of in premises]
    return [
        Line(at, np.array([of.truth.same_support for of in premises]), INK, "dashed", marker=MARKERS[1]),
        Line(at, np.array(exhaustive), INK, "solid", marker=MARKERS[3]),
        Line(at, np.array([of.mutual_coherence for of in premises]), MUTED, "dotted", marker=MARKERS[2]),
    ]


def _seeds(group: GroupConfig, points: Points) -> list[Panel]:
    known = [point for point in points if point.seed_counts]
    if not known:
        raise ValueError(f"group {group.name}: no point has seed counts; set measures.seed_counts")

    def agreement(axes: Axes) -> None:
        lines = []
        for point in known:
            colour, counts = colour_of(point.config.variant.architecture), point.seed_counts or []
            at, mean, sd = _counts(counts), _values(counts, "pw_mcc"), np.nan_to_num(_values(counts, "pw_mcc_sd"))
            half = _values(counts, "ci_half_width")
            lines += [
                Line(at, mean, colour, "solid", mean - sd, mean + sd, MARKERS[0]),
                Line(at, mean - half, colour, "dotted"),
                Line(at, mean + half, colour, "dotted"),
            ]
        draw_lines(axes, lines, "ticks")
        axes.margins(y=0.15)
        axes.grid()
        axes.set_xlabel("number of seeds")
        axes.set_ylabel("PW-MCC")
        axes.set_title(titled(group, "how sure PW-MCC is"))
        spread = [key("PW-MCC; band: sd over draws", MUTED, "solid", MARKERS[0]), key("95 % interval", MUTED, "dotted")]
        keys_above(axes, [*spread, *_architectures(known)])

    def recovered(axes: Axes) -> None:
        lines = []
        for point in known:
            colour, counts = colour_of(point.config.variant.architecture), point.seed_counts or []
            for field, _, style, marker in _SUMMARIES:
                if field != "best_run":
                    lines.append(Line(_counts(counts), _values(counts, field), colour, style, marker=marker))
        draw_lines(axes, lines, "ticks")
        _recovery_axes(axes, known[0], known, without=["best_run"])
        axes.set_xlabel("number of seeds")
        axes.set_title(titled(group, "what recovers the truth"))

    return [agreement, recovered]


def _axis(group: GroupConfig) -> str:
    if group.x is None:
        raise ValueError(f"group {group.name}: a figure of kind {group.figure} needs x, what its points differ in")
    return group.x


def _series(x: str, points: Points) -> list[tuple[str, Values, list[PointSummary]]]:
    """The points of each architecture in the order of x.

    Raises:
        ValueError: if two points of one architecture stand at the same x.
    """
    found: dict[str, list[PointSummary]] = defaultdict(list)
    for point in sorted(points, key=lambda point: x_value(point.config, x)):
        found[point.config.variant.architecture].append(point)
    for of_one in found.values():
        for one, other in pairwise(of_one):
            if x_value(one.config, x) == x_value(other.config, x):
                raise ValueError(
                    f"{one.config.key} and {other.config.key} have the same {x}: a sweep needs points that differ in it"
                )
    return [(name, np.array([x_value(p.config, x) for p in of_one]), of_one) for name, of_one in found.items()]


def _estimates(at: Values, found: Sequence[Estimate], colour: str, style: Style, marker: str) -> Line:
    low = np.array([np.nan if each.low is None else each.low for each in found])
    high = np.array([np.nan if each.high is None else each.high for each in found])
    return Line(at, np.array([each.value for each in found]), colour, style, low, high, marker)


def _values(records: Sequence[SeedCount] | Sequence[Summaries | None] | Sequence[object], field: str) -> Values:
    found = [getattr(record, field) for record in records]
    return np.array([np.nan if value is None else float(value) for value in found])


def _counts(counts: Sequence[SeedCount]) -> Values:
    return np.array([float(count.n_runs) for count in counts])


def _architectures(points: Points) -> list[Line2D]:
    return architecture_keys([point.config.variant.architecture for point in points])
