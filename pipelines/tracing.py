"""From what a user writes to an artifact: a folder, ``kind/fingerprint``, or ``asset@partition`` in the history."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from assets.history import materializations
from assets.recording import artifacts_of, default_store_root
from pipelines.project import dagster_home
from sae_core.store import MANIFEST, Artifact, ArtifactStore, StoreError


class NotFound(Exception):
    """There is no such artifact; the message says what was looked for and what there is."""


def open_store() -> ArtifactStore:
    """The store of this project."""
    return ArtifactStore(default_store_root())


def find_artifact(store: ArtifactStore, name: str) -> Artifact:
    """The artifact that a user means.

    Args:
        name: a folder with a manifest; ``kind/fingerprint`` (its beginning is enough); or an asset key, with
            ``@partition`` where it has partitions and ``:artifact`` where it has several artifacts:
            ``quickstart/consistency@topk-d1024-k16``, ``quickstart/sae@0|topk-d1024-k16:evaluation``.

    Raises:
        NotFound: with what there is instead.
    """
    folder = Path(name)
    if (folder / MANIFEST).is_file():
        return _in_folder(folder)
    kind, _, start = name.partition("/")
    if start and "@" not in name and (found := _by_fingerprint(store, kind, start)):
        return found
    return _materialized(store, name)


def materialized_artifacts(store: ArtifactStore) -> Iterator[Artifact]:
    """Every artifact that Dagster's history refers to and the store still has, those of former versions too."""
    with _instance() as instance:
        for key in instance.all_asset_keys():
            for made, _record in materializations(instance, key):
                yield from artifacts_of(store, made, missing_ok=True).values()


def _instance() -> dg.DagsterInstance:
    dagster_home()
    return dg.DagsterInstance.get()


def _in_folder(folder: Path) -> Artifact:
    folder = folder.resolve()
    found = ArtifactStore(folder.parent.parent).get(folder.parent.name, folder.name)
    assert found is not None
    return found


def _by_fingerprint(store: ArtifactStore, kind: str, start: str) -> Artifact | None:
    found = [each for each in store.artifacts(kind) if each.manifest.fingerprint.startswith(start)]
    if len(found) > 1:
        listed = ", ".join(each.manifest.fingerprint for each in found[:5])
        raise NotFound(f"{kind}/{start} could be any of {len(found)}: {listed}; write more of it")
    return found[0] if found else None


def _materialized(store: ArtifactStore, name: str) -> Artifact:
    asset, _, rest = name.partition("@")
    partition, _, label = rest.partition(":")
    if not rest:
        asset, _, label = asset.partition(":")
    key = dg.AssetKey(asset.split("/"))
    with _instance() as instance:
        record = instance.get_latest_data_version_record(key, is_source=False, partition_key=partition or None)
        unnamed = not partition and bool(instance.get_materialized_partitions(key))
        if unnamed or record is None or record.asset_materialization is None:
            raise NotFound(_nothing(instance, store, key, partition))
        try:
            found = artifacts_of(store, record.asset_materialization)
        except StoreError as error:
            raise NotFound(f"{name}: {error}") from error
    if label and label not in found:
        raise NotFound(f"{asset} has no artifact {label!r}; it has {', '.join(found)}")
    return found[label] if label else next(iter(found.values()))


def _nothing(instance: dg.DagsterInstance, store: ArtifactStore, key: dg.AssetKey, partition: str) -> str:
    name = key.to_user_string()
    partitions = sorted(instance.get_materialized_partitions(key))
    if partitions:
        never, needed = f"partition {partition!r} was never materialized", "name a partition, as in ASSET@PARTITION"
        what = never if partition else needed
        return f"{name}: {what}; materialized are {', '.join(partitions)}"
    known = sorted(each.to_user_string() for each in instance.all_asset_keys())
    return (
        f"nothing is called {name}: no folder with a {MANIFEST}, no kind/fingerprint in {store.root}, no asset of the "
        f"history; that has {', '.join(known) or 'none'}"
    )
