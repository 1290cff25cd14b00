"""What was ever materialized: the versions of a variant, from the history that Dagster keeps."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from assets.recording import artifacts_of
from sae_core.store import ArtifactStore

if TYPE_CHECKING:  # it brings torch
    from sae_core.model_versions.versions import Version

_PAGE = 1000
_DATA_VERSION = "dagster/data_version"


def consistency_versions(
    instance: dg.DagsterInstance, store: ArtifactStore, key: dg.AssetKey, variant: str
) -> "list[Version]":
    """Every content that the *consistency* of a variant ever had, in the order of its first materialization.

    A content that was materialized again is one version. A version that the store no longer has is listed without its
    artifact; it counts as found where any of its materializations leads to it.
    """
    from sae_core.model_versions.versions import Version

    found: dict[str, Version] = {}
    for content, time, materialization in _materializations(instance, key, variant):
        known = found.get(content)
        artifact = None if known is None else known.consistency
        if artifact is None:
            artifact = artifacts_of(store, materialization, missing_ok=True).get("consistency")
        if known is None:
            found[content] = Version(content, time, time, artifact)
        else:
            found[content] = replace(known, last=time, consistency=artifact)
    return list(found.values())


def _materializations(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition: str
) -> Iterator[tuple[str, datetime, dg.AssetMaterialization]]:
    """Content, time and event of every materialization of a partition, the oldest first."""
    wanted = dg.AssetRecordsFilter(key, asset_partitions=[partition])
    cursor = None
    while True:
        page = instance.fetch_materializations(wanted, limit=_PAGE, cursor=cursor, ascending=True)
        for event in page.records:
            made = event.asset_materialization
            # What was reported by hand has no content of ours.
            if made is not None and made.tags and _DATA_VERSION in made.tags:
                yield made.tags[_DATA_VERSION], datetime.fromtimestamp(event.timestamp, UTC), made
        if not page.has_more:
            return
        cursor = page.cursor
