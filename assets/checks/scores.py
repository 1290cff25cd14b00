"""Checks of the scores of explanations."""

import math
from collections.abc import Mapping

import dagster as dg

from assets.checks.common import VERIFIED, Check, makes, results, verified
from sae_core.config import ChecksConfig
from sae_core.store import Artifact


@makes(
    verified=VERIFIED,
    finite="The median of every score that was measured is a finite number.",
    measured="Every explainer that explained anything has at least one score.",
)
def score_checks(
    key: dg.AssetKey, scores: Mapping[str, Artifact], explanations: Mapping[str, Artifact], limits: ChecksConfig
) -> list[dg.AssetCheckResult]:
    """Scores are numbers, and every explainer that explained anything has some.

    Args:
        scores: by name, an artifact an explainer.
        explanations: those scored, in the same order.
    """
    unscored, infinite = [], []
    n_known = 0
    for made, explained in zip(scores.values(), explanations.values(), strict=True):
        explainer, found = explained.summary["explainer"], made.summary["scores"]
        known = [score for score in found if score["n"]]
        n_known += len(known)
        if made.summary["n_explanations"] and not known:
            unscored.append(explainer)
        # None where there is a count would be a number that got lost.
        infinite += [f"{explainer} {score['name']}" for score in known if not _is_finite(score["median"])]
    checks = [
        verified(*scores.values()),
        Check(
            "finite",
            not infinite,
            len(infinite),
            "no score without a finite median",
            "delete the folder of the artifact and materialize the scores again; report it if it stays",
            {"wrong": ", ".join(infinite)},
        ),
        Check(
            "measured",
            not unscored,
            n_known,
            "a score of every explainer",
            "see why in the table of scores: too little text that made no explanation, or `scoring` leaves all out",
            {"without_scores": ", ".join(unscored)},
        ),
    ]
    return results(key, checks, limits.blocking)


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
