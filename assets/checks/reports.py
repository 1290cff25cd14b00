"""Checks of what is read in the end: versions over time, the report of a study, the page of a reproduction."""

import dagster as dg

from assets.checks.common import FINITE, VERIFIED, finite, makes, results, verified
from sae_core.config import ChecksConfig
from sae_core.store import Artifact

_AGAIN = "see which variant it comes from in the table, and the checks of its stages"


@makes(verified=VERIFIED, finite=FINITE)
def model_versions_checks(key: dg.AssetKey, versions: Artifact, limits: ChecksConfig) -> list[dg.AssetCheckResult]:
    """The tables are there."""
    return results(key, [verified(versions), finite(versions.summary, _AGAIN)], limits.blocking)


@makes(verified=VERIFIED, finite=FINITE)
def report_checks(key: dg.AssetKey, report: Artifact, limits: ChecksConfig) -> list[dg.AssetCheckResult]:
    """Page, figures and tables are there."""
    return results(key, [verified(report), finite(report.summary, _AGAIN)], limits.blocking)


@makes(verified=VERIFIED, finite=FINITE)
def reproduction_checks(key: dg.AssetKey, reproduction: Artifact) -> list[dg.AssetCheckResult]:
    """Page, figures and tables are there."""
    return results(key, [verified(reproduction), finite(reproduction.summary, _AGAIN)])
