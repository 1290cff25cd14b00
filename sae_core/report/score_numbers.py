"""Scores of explanations over the runs of a variant: part of *report*."""

from collections.abc import Mapping
from statistics import fmean

from sae_core.scoring.results import ScoresSummary


def mean_of_medians(runs: Mapping[str, ScoresSummary], name: str) -> float | None:
    """Mean over the runs of their median score; None where a run has none.

    Args:
        name: of a score, ``detection_auc`` for example.
    """
    found = [score.median for summary in runs.values() if (score := summary.score(name)) is not None]
    known = [value for value in found if value is not None]
    return fmean(known) if known else None
