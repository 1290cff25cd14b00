"""Whether the store still holds what Dagster says was made: a check to run on demand, or by the job ``verify``.

Assets stay fresh in Dagster's eyes when someone deletes or alters their artifacts behind it. These checks look, for all
partitions of an asset in one evaluation, and name those to materialize again.
"""

from collections.abc import Iterable
from typing import Any

import dagster as dg

from assets.recording import StoreResource, recorded_artifacts
from sae_core.store import ArtifactStore
from sae_core.stored_files import stored_faults

NAME = "in_store"
_ROWS = 100
"""Partitions in the table at most: it lives in Dagster's event database."""


class InStoreConfig(dg.Config):
    """How closely to look."""

    hash: bool = False
    """Read and hash every file, as slow as reading the store; else sizes decide."""


def in_store_checks(assets: Iterable[dg.AssetsDefinition]) -> list[dg.AssetChecksDefinition]:
    """A check ``in_store`` for each of these assets: it runs with the asset, with the job ``verify``, or by itself in
    the UI. It never raises and never blocks; a fault is an error.
    """
    return [_in_store(asset.key, asset.partitions_def) for asset in assets]


def _in_store(key: dg.AssetKey, partitions: dg.PartitionsDefinition | None) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=key,
        name=NAME,
        description="The store holds the artifacts of the latest materialization of every partition, whole. Run it "
        "with `hash: true` to read every byte.",
    )
    def in_store(
        context: dg.AssetCheckExecutionContext, config: InStoreConfig, store: StoreResource
    ) -> dg.AssetCheckResult:
        names: list[str | None] = [None] if partitions is None else [*partitions.get_partition_keys()]
        return _result(*_look(context.instance, store.open(), key, names, config.hash))

    return in_store


def _look(
    instance: dg.DagsterInstance, store: ArtifactStore, key: dg.AssetKey, partitions: list[str | None], hashes: bool
) -> tuple[int, dict[str, list[str]]]:
    """Artifacts that were looked at, and what is wrong, by partition."""
    n_artifacts, wrong = 0, {}
    for partition in partitions:
        record = instance.get_latest_data_version_record(key, is_source=False, partition_key=partition)
        if record is None or record.asset_materialization is None:
            continue  # never materialized: nothing is promised
        recorded = recorded_artifacts(record.asset_materialization)
        n_artifacts += len(recorded)
        faults = [fault for url, content in recorded.values() for fault in stored_faults(store, url, content, hashes)]
        if faults:
            wrong[partition or "(the asset)"] = faults
    return n_artifacts, wrong


def _result(n_artifacts: int, wrong: dict[str, list[str]]) -> dg.AssetCheckResult:
    remedy = "materialize these partitions again; if the store was moved, point SAE_CONCORD_STORE to where it is now"
    metadata: dict[str, Any] = {
        "value": len(wrong),
        "expected": "0 partitions whose artifact is missing or altered",
        "what_to_do": remedy if wrong else "nothing",
        "n_artifacts": n_artifacts,
    }
    if wrong:
        rows = [f"| {name} | {_cell(faults)} |" for name, faults in list(wrong.items())[:_ROWS]]
        more = [f"| and {len(wrong) - _ROWS} more | |"] if len(wrong) > _ROWS else []
        metadata["wrong"] = dg.MetadataValue.md("\n".join(["| partition | what is wrong |", "|-|-|", *rows, *more]))
    return dg.AssetCheckResult(
        passed=not wrong,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{', '.join(list(wrong)[:5])}: {remedy}" if wrong else None,
        metadata=metadata,
    )


def _cell(faults: list[str]) -> str:
    shown = faults[:3] + ([f"and {len(faults) - 3} more"] if len(faults) > 3 else [])
    return "; ".join(shown).replace("|", "\\|").replace("\n", " ")
