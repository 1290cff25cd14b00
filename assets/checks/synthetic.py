"""Checks of synthetic experiments."""

import math

import dagster as dg

from assets.checks.common import VERIFIED, Check, makes, results, verified
from assets.point_numbers import point_numbers
from sae_core.store import Artifact


@makes(
    verified=VERIFIED,
    finite="GT-MCC and PW-MCC of every point are finite.",
    certified="Every matching of every point is proven to be the best one.",
    above_chance="GT-MCC and PW-MCC of every point are above chance.",
)
def experiment_checks(key: dg.AssetKey, experiment: Artifact) -> list[dg.AssetCheckResult]:
    """The numbers of every point are there, matchings proven optimal, and agreement is more than chance makes it."""
    points = point_numbers(experiment)
    infinite = [point.key for point in points if not (math.isfinite(point.gt_mcc) and math.isfinite(point.pw_mcc))]
    unproven = [point.key for point in points if not point.certified]
    # Not an error: that a published setting is at chance is a result.
    at_chance = [f"{point.key} ({', '.join(point.chance_like)})" for point in points if point.chance_like]
    expected = f"0 of {len(points)} points"
    again = "delete the folders of these points in the store and materialize the experiment again"
    chance = "take the point for a result at chance; if it should not be, train it for more steps (its recipe)"
    return results(
        key,
        [
            verified(experiment),
            Check("finite", not infinite, len(infinite), expected, again, {"wrong": ", ".join(infinite)}),
            Check("certified", not unproven, len(unproven), expected, again, {"wrong": ", ".join(unproven)}),
            Check(
                "above_chance", not at_chance, len(at_chance), expected, chance, {"chance_like": ", ".join(at_chance)}
            ),
        ],
    )
