"""The table of an experiment's points, as Markdown.

Part of *reproduction*.
"""

from collections.abc import Sequence

from sae_core.report.numbers import MISSING, number, percent, with_interval
from sae_core.reproduction.cells import nulls
from sae_core.reproduction.estimates import Points, gt, pw
from sae_core.reproduction.labels import label
from sae_core.synthetic.results import PointSummary

SHARED_AT = "0.7"
"""Cosine from which the literature calls a feature shared (Paulo & Belrose 2025)."""
SMALLEST_SHOWN_P = 0.001
_HEADER = [
    "point", "GT-MCC [95 % CI]", "null", "kappa", "PW-MCC [95 % CI]", "null", "kappa", "uniqueness", "FVU", "L0",
    f"pairs ≥ {SHARED_AT}", "from the truth: GT-MCC (FVU)", "r over seeds (p)", "",
]  # fmt: skip


def experiment_table(points: Points) -> str:
    """A row a point: recovery, agreement, quality, ceiling, and whether runs that agree are closer to the truth."""
    rows = [_row(point, points) for point in points]
    return markdown(_HEADER, rows, left=(0, len(_HEADER) - 1))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """A Markdown table; columns are flushed right but for those named."""
    sides = ["-" if place in left else "-:" for place in range(len(header))]
    lines = [header, *rows]
    texts = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([texts[0], "|" + "|".join(sides) + "|", *texts[1:]])


def _row(point: PointSummary, points: Points) -> list[str]:
    truth, agreement, ceiling = gt(point), pw(point), point.ceiling
    over_seeds = point.seed_correlation
    correlation = MISSING if over_seeds.pearson is None else number(over_seeds.pearson, 2)
    if over_seeds.p_value is not None:
        p = over_seeds.p_value
        correlation += " (< 0.001)" if p < SMALLEST_SHOWN_P else f" ({number(p, 3)})"
    remarks = [f"{name.upper().replace('_', '-')} chance-like" for name in point.chance_like]
    remarks += ["consistent but wrong"] if point.consistent_but_wrong else []
    return [
        label(point, points),
        with_interval(truth.value, truth.low, truth.high),
        nulls([truth]),
        number(truth.kappa),
        with_interval(agreement.value, agreement.low, agreement.high),
        nulls([agreement]),
        number(agreement.kappa),
        number(point.recovery.uniqueness),
        number(point.quality.fvu),
        number(point.quality.l0, 1),
        percent(point.consistency.shared_fraction.get(SHARED_AT)),
        f"{number(ceiling.gt_mcc)} ({number(ceiling.fvu)})" if ceiling else MISSING,
        correlation,
        ", ".join(remarks),
    ]
