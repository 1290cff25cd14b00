"""What the points of a group say, in a few sentences made of their numbers alone.

Part of *reproduction*. No conclusion stands here that the numbers did not decide.
"""

from collections.abc import Callable, Sequence

from sae_core.report.numbers import number, percent, with_interval
from sae_core.reproduction.estimates import Points, correlation_in_training, gt, pw
from sae_core.reproduction.labels import architecture, label, true_value, x_label, x_value
from sae_core.synthetic.results import PointSummary
from sae_core.synthetic_config import GroupConfig


def sentences(group: GroupConfig, points: Points) -> list[str]:
    """Sentences about the points of a group: first what its figure shows, then what holds for all groups."""
    kinds: dict[str, Callable[[GroupConfig, Points], list[str]]] = {
        "sweep": _sweep,
        "groups": _groups,
        "frequency": _frequency,
        "dynamics": _dynamics,
        "round_trip": _round_trip,
        "seeds": _seeds,
    }
    found = kinds[group.figure](group, points) if group.figure in kinds else _each(points)
    return [*found, *_apart(points), *_chance(points), *_ceilings(points)]


def _each(points: Points) -> list[str]:
    texts = [f"{label(p, points)}: GT-MCC {number(gt(p).value)}, PW-MCC {number(pw(p).value)}" for p in points]
    return ["; ".join(texts) + "."] if len(points) <= 3 else []


def _apart(points: Points) -> list[str]:
    """How far agreement and truth are from each other, and where the most."""
    apart = max(points, key=lambda point: abs(pw(point).value - gt(point).value))
    agreement, truth = pw(apart).value, gt(apart).value
    if len(points) == 1:
        return []
    return [
        f"PW-MCC and GT-MCC are at most {number(abs(agreement - truth))} apart, at {label(apart, points)} "
        f"(PW-MCC {number(agreement)}, GT-MCC {number(truth)})."
    ]


def _chance(points: Points) -> list[str]:
    found = []
    like = [point for point in points if point.chance_like]
    if like:
        found.append(f"At the level of chance: {_named(like, points)}.")
    wrong = [point for point in points if point.consistent_but_wrong]
    if wrong:
        found.append(f"Consistent but wrong: {_named(wrong, points)}.")
    return found


def _ceilings(points: Points) -> list[str]:
    """Whether training that starts at the truth ends closer to it, beyond the interval, and what it reconstructs."""
    known = [point for point in points if point.ceiling]
    beyond = [p for p in known if p.ceiling and p.ceiling.gt_mcc > p.recovery.gt_ci_high]
    if not beyond:
        return []
    worse = [p for p in beyond if p.ceiling and p.ceiling.fvu > p.quality.fvu]
    return [
        f"Started at the truth, training ends closer to it at {len(beyond)} of {len(known)} points, and reconstructs "
        f"worse there at {len(worse)} of those."
    ]


def _sweep(group: GroupConfig, points: Points) -> list[str]:
    x, found = str(group.x), []
    for name, of_one in _by_architecture(points):
        truth, agreement = (max(of_one, key=lambda point: of(point).value) for of in (gt, pw))
        text = (
            f"{name}, against {x_label(x)}: GT-MCC is highest at {x_value(truth.config, x):g} "
            f"({number(gt(truth).value)}), PW-MCC at {x_value(agreement.config, x):g} ({number(pw(agreement).value)})"
        )
        true = {true_value(point.config, x) for point in of_one}
        known = true.pop() if len(true) == 1 else None
        found.append(text + (f"; the truth has {known:g}." if known is not None else "."))
    return found


def _groups(_group: GroupConfig, points: Points) -> list[str]:
    found = []
    for point in points:
        groups = [group for group in point.groups or [] if group.gt_mcc is not None]
        if groups:
            text = (
                f"{architecture(point)}: GT-MCC of the most frequent group is {number(groups[0].gt_mcc)}, of the "
                f"rarest that any feature is matched to {number(groups[-1].gt_mcc)}"
            )
            law = point.capacity
            if law:
                text += f"; capacity grows as probability to the {with_interval(law.alpha, law.ci_low, law.ci_high, 2)}"
            found.append(text + ".")
    return found


def _frequency(_group: GroupConfig, points: Points) -> list[str]:
    found = []
    for point in points:
        bins = [of for of in point.consistency.frequency_bins or [] if of.high > 0 and of.mean_cosine is not None]
        if bins:
            cosines = ", ".join(number(of.mean_cosine) for of in bins)
            pairs = ", ".join(f"{of.n_matches:,}" for of in bins)
            found.append(
                f"{architecture(point)}: from the rarest pairs to the most frequent the mean cosine is {cosines}, over "
                f"{pairs} pairs."
            )
    return found


def _dynamics(_group: GroupConfig, points: Points) -> list[str]:
    found = []
    for point in points:
        steps, correlation = point.dynamics or [], correlation_in_training([point])
        if not steps:
            continue
        apart = max(steps, key=lambda step: abs(step.pw_mcc - step.gt_mcc))
        text = (
            f"{architecture(point)}: after {steps[-1].step:,} steps PW-MCC is {number(steps[-1].pw_mcc)} and GT-MCC "
            f"{number(steps[-1].gt_mcc)}; they are furthest apart at step {apart.step:,} "
            f"({number(apart.pw_mcc)} and {number(apart.gt_mcc)})"
        )
        if correlation:
            text += f", and their correlation over {len(steps)} steps is {number(correlation[0].value)}"
        found.append(text + ".")
    return found


def _round_trip(group: GroupConfig, points: Points) -> list[str]:
    x, found = str(group.x), []
    for name, of_one in _by_architecture([point for point in points if point.premises]):
        ordered = sorted(of_one, key=lambda point: x_value(point.config, x))
        ends = [ordered[0], ordered[-1]] if len(ordered) > 1 else ordered
        texts = [
            f"at {x_value(point.config, x):g} the SAEs give {percent(point.premises.learned.same_support)} of the "
            f"codes back, the truth with its transpose {percent(point.premises.truth.same_support)}"
            for point in ends
            if point.premises
        ]
        found.append(f"{name}, against {x_label(x)}: {'; '.join(texts)}.")
    spark = {x_value(p.config, x): p.premises.spark_condition for p in points if p.premises}
    fails = sorted(value for value, holds in spark.items() if holds is False)
    unknown = sorted(value for value, holds in spark.items() if holds is None)
    text = f"The spark condition fails at {_listed(fails)}" if fails else "The spark condition fails nowhere"
    text += f", and could not be decided at {_listed(unknown)}" if unknown else ""
    enough = sorted(
        {x_value(p.config, x) for p in points if p.premises and p.config.data.k < p.premises.coherence_bound}
    )
    text += f"; mutual coherence alone guarantees unique codes {'at ' + _listed(enough) if enough else 'nowhere'}."
    return [*found, text]


def _seeds(_group: GroupConfig, points: Points) -> list[str]:
    found = []
    for point in points:
        counts = point.seed_counts or []
        for count in counts[:1] + counts[1:][-1:]:
            spread = f" (sd over draws {number(count.pw_mcc_sd)})" if count.pw_mcc_sd is not None else ""
            found.append(
                f"{architecture(point)}, {count.n_runs} seeds: PW-MCC {number(count.pw_mcc)}{spread}; a run recovers "
                f"{percent(count.mean_run)} of the truth, the medoid {percent(count.medoid)}, the consensus "
                f"{percent(count.consensus)}."
            )
    return found


def _by_architecture(points: Points) -> list[tuple[str, list[PointSummary]]]:
    names = list(dict.fromkeys(architecture(point) for point in points))
    return [(name, [point for point in points if architecture(point) == name]) for name in names]


def _named(some: Points, points: Points) -> str:
    return "; ".join(label(point, points) for point in some)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
