"""What was ever materialized, from the history that Dagster keeps: all of it, and the versions of a variant."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from assets.recording import artifacts_of
from sae_core.store import ArtifactStore

if TYPE_CHECKING:  # it brings torch
    from sae_core.model_versions.versions import Version

_PAGE = 100
"""Events that are read at a time: each has up to 30 kB of metadata."""
_DATA_VERSION = "dagster/data_version"


def materializations(
    instance: dg.DagsterInstance, of: dg.AssetKey | dg.AssetRecordsFilter, ascending: bool = False
) -> Iterator[tuple[dg.AssetMaterialization, dg.EventLogRecord]]:
    """Every materialization of an asset, or of some of its partitions, with its record.

    Args:
        ascending: the oldest first, else the newest.
    """
    cursor = None
    while True:
        page = instance.fetch_materializations(of, limit=_PAGE, cursor=cursor, ascending=ascending)
        for record in page.records:
            if record.asset_materialization is not None:
                yield record.asset_materialization, record
        if not page.has_more:
            return
        cursor = page.cursor


def consistency_versions(
    instance: dg.DagsterInstance, store: ArtifactStore, key: dg.AssetKey, variant: str
) -> "list[Version]":
    """Every content that the *consistency* of a variant ever had, in the order of its first materialization.

    A content that was materialized again is one version. A version that the store no longer has is listed without its
    artifact; it counts as found where any of its materializations leads to it.
    """
    from sae_core.model_versions.versions import Version

    found: dict[str, Version] = {}
    for made, record in materializations(instance, dg.AssetRecordsFilter(key, asset_partitions=[variant]), True):
        content, time = (made.tags or {}).get(_DATA_VERSION), datetime.fromtimestamp(record.timestamp, UTC)
        if content is None:
            continue  # reported by hand: it has no content of ours
        known = found.get(content)
        artifact = None if known is None else known.consistency
        if artifact is None:
            artifact = artifacts_of(store, made, missing_ok=True).get("consistency")
        if known is None:
            found[content] = Version(content, time, time, artifact)
        else:
            found[content] = replace(known, last=time, consistency=artifact)
    return list(found.values())
