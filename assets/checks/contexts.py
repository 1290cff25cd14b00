"""Checks of the contexts of features."""

import dagster as dg

from assets.checks.common import FINITE, VERIFIED, finite, makes, results, verified
from sae_core.config import ChecksConfig
from sae_core.store import Artifact


@makes(verified=VERIFIED, finite=FINITE)
def context_checks(key: dg.AssetKey, contexts: Artifact, limits: ChecksConfig) -> list[dg.AssetCheckResult]:
    """The files are all there."""
    again = "check the SAE of this partition (`finite`), then materialize the contexts again"
    return results(key, [verified(contexts), finite(contexts.summary, again)], limits.blocking)
