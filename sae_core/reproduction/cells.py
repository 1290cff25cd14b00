"""Our numbers as readers see them in tables.

Part of *reproduction*. A row may have several numbers: their texts follow each other, once where they are alike.
"""

from collections.abc import Sequence

from sae_core.report.numbers import MISSING, number, with_interval
from sae_core.reproduction.estimates import Estimate

Estimates = Sequence[Estimate]


def values(ours: Estimates) -> str:
    """The numbers alone."""
    return ", ".join(number(each.value) for each in ours) or MISSING


def intervals(ours: Estimates) -> str:
    """The intervals alone, a dash where there is none."""
    known = [f"[{number(each.low)}, {number(each.high)}]" for each in ours if each.low is not None]
    return ", ".join(known) or MISSING


def values_with_intervals(ours: Estimates) -> str:
    """The numbers, each with its interval where it has one."""
    return (
        ", ".join(
            number(each.value) if each.low is None else with_interval(each.value, each.low, each.high) for each in ours
        )
        or MISSING
    )


def nulls(ours: Estimates) -> str:
    """Chance by random directions and by sign flips, as ``0.630 / 0.641``."""
    return _once([" / ".join(number(null) for null in each.nulls) or MISSING for each in ours])


def kappas(ours: Estimates) -> str:
    """Kappa with the higher null."""
    return _once([number(each.kappa) for each in ours])


def ceilings(ours: Estimates) -> str:
    """The same after a start at the truth."""
    return _once([number(each.ceiling) for each in ours])


def _once(texts: Sequence[str]) -> str:
    return ", ".join(texts if len(set(texts)) > 1 else texts[:1]) or MISSING
