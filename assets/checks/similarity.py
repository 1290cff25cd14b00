"""Checks of the comparison of explanations."""

import dagster as dg

from assets.checks.common import FINITE, VERIFIED, Check, finite, makes, reasons, results, verified
from sae_core.config import ChecksConfig
from sae_core.store import Artifact


@makes(
    verified=VERIFIED,
    finite=FINITE,
    explained="No more than `checks.max_missing_explanations` of the matched pairs lack the primary measure.",
    shuffled_near_half="By every measure, shuffled matches are no more alike than decoys: their AUC is within "
    "`checks.max_shuffled_auc` of one half.",
)
def similarity_checks(key: dg.AssetKey, similarity: Artifact, limits: ChecksConfig) -> list[dg.AssetCheckResult]:
    """Most matched pairs have a value of the primary measure, and shuffled matches are no more alike than decoys."""
    summary = similarity.summary
    measures = {each["measure"]: each for each in summary["measures"]}
    primary = measures[summary["primary"]]
    missing = 1 - primary["n_used"] / max(primary["n_asked"], 1)
    shuffled = {name: each["auc_shuffled"] for name, each in measures.items() if each["auc_shuffled"] is not None}
    farthest = max((abs(value - 0.5) for value in shuffled.values()), default=0.0)
    checks = [
        verified(similarity),
        finite(summary, "delete the folder of the artifact and materialize it again; report it if it stays"),
        Check(
            "explained",
            missing <= limits.max_missing_explanations,
            missing,
            f"a missing share of at most {limits.max_missing_explanations:g} (checks.max_missing_explanations)",
            "see the reasons, and the check `explained` of the explanations of this variant",
            {"missing": reasons(primary["missing"])},
        ),
        Check(
            "shuffled_near_half",
            farthest <= limits.max_shuffled_auc,
            farthest,
            f"a distance from one half of at most {limits.max_shuffled_auc:g} (checks.max_shuffled_auc)",
            "matched features are explained alike for another reason than that they match (frequency, or the "
            "explainer): do not read the AUC of the matches as agreement; compare more pairs if there are few",
            {f"auc_shuffled/{name}": value for name, value in shuffled.items()},
        ),
    ]
    return results(key, checks, limits.blocking)
