"""Checks of explanations."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets.checks.common import VERIFIED, Check, makes, reasons, results, verified
from sae_core.config import ChecksConfig
from sae_core.store import Artifact


@makes(
    verified=VERIFIED,
    explained="Of every explainer, no more than `checks.max_missing_explanations` of the explanations are missing.",
)
def explanation_checks(
    key: dg.AssetKey, explanations: Mapping[str, Artifact], limits: ChecksConfig
) -> list[dg.AssetCheckResult]:
    """Every explainer explained most of the features it was asked for.

    Args:
        explanations: by name, an artifact an explainer.
    """
    details: dict[str, Any] = {}
    shares = []
    for made in explanations.values():
        summary = made.summary
        shares.append(summary["n_missing"] / max(summary["n_missing"] + summary["n_explanations"], 1))
        details[f"missing_fraction/{summary['explainer']}"] = shares[-1]
        details[f"missing/{summary['explainer']}"] = reasons(summary["missing"])
    explained = Check(
        "explained",
        max(shares) <= limits.max_missing_explanations,
        max(shares),
        f"a missing share of at most {limits.max_missing_explanations:g} (checks.max_missing_explanations)",
        "see the reasons: for features that fire too rarely read more held-out text, or lower "
        "explanations.min_activations; for failed requests see that the model answers",
        details,
    )
    return results(key, [verified(*explanations.values()), explained], limits.blocking)
