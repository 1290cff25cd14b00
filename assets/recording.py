"""What every asset does around its stage: find its upstream artifacts, watch progress, record what was made."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets.processes import mark_process
from assets.provenance import provenance
from sae_core.progress import Progress
from sae_core.store import Artifact, ArtifactStore, StoreError, digest_json
from sae_core.terminal_progress import TerminalProgress

_PREFIX = "artifact/"
_LOG_EVERY_S = 15.0


class StoreResource(dg.ConfigurableResource):
    """The artifact store."""

    root: str
    """Folder or fsspec URL."""

    def open(self) -> ArtifactStore:
        """The store at this root."""
        return ArtifactStore(self.root)


def record(
    artifacts: Mapping[str, Artifact],
    metadata: Mapping[str, Any],
    check_results: list[dg.AssetCheckResult] | None = None,
) -> dg.MaterializeResult:
    """A materialization whose data version is the content of its artifacts, and whose metadata leads to them.

    Args:
        artifacts: by name; the first one is the main one.
        metadata: what the UI shows beside the provenance.
    """
    contents = {name: artifact.content for name, artifact in artifacts.items()}
    version = next(iter(contents.values())) if len(contents) == 1 else digest_json(contents)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(version),
        metadata={
            **metadata,
            **provenance(artifacts),
            **{
                _PREFIX + name: dg.MetadataValue.json({"url": artifact.url, "content": artifact.content})
                for name, artifact in artifacts.items()
            },
        },
        check_results=check_results or [],
    )


def upstream(
    context: dg.AssetExecutionContext, store: ArtifactStore, key: dg.AssetKey, partition: str | None = None
) -> dict[str, Artifact]:
    """The artifacts of the latest materialization of one upstream partition.

    Raises:
        dagster.Failure: if there is none, or the store no longer holds it; nothing is retried.
    """
    found = upstream_if_any(context, store, key, partition)
    if found is None:
        name = _name(key, partition)
        raise dg.Failure(f"{name} has never been materialized: materialize it first", allow_retries=False)
    return found


def upstream_if_any(
    context: dg.AssetExecutionContext, store: ArtifactStore, key: dg.AssetKey, partition: str | None = None
) -> dict[str, Artifact] | None:
    """The same, or None where it has never been materialized.

    Raises:
        dagster.Failure: if the store no longer holds what was materialized.
    """
    event = context.instance.get_latest_data_version_record(key, is_source=False, partition_key=partition)
    if event is None or event.asset_materialization is None:
        return None
    try:
        return artifacts_of(store, event.asset_materialization)
    except StoreError as error:
        raise dg.Failure(f"{_name(key, partition)}: {error}", allow_retries=False) from error


def artifacts_of(
    store: ArtifactStore, materialization: dg.AssetMaterialization, missing_ok: bool = False
) -> dict[str, Artifact]:
    """The artifacts that a materialization recorded, by name, the main one first.

    Args:
        missing_ok: leave out what the store no longer holds.

    Raises:
        StoreError: if the store no longer holds one.
    """
    found: dict[str, Artifact] = {}
    for name, (url, content) in recorded_artifacts(materialization).items():
        try:
            found[name] = store.open(url, content)
        except StoreError:
            if not missing_ok:
                raise
    return found


def recorded_artifacts(materialization: dg.AssetMaterialization) -> dict[str, tuple[str, str]]:
    """URL and content digest of the artifacts that a materialization recorded, by name, whether the store has them or
    not.
    """
    found = {}
    for label, value in materialization.metadata.items():
        if label.startswith(_PREFIX):
            reference: Any = value.value
            found[label.removeprefix(_PREFIX)] = (str(reference["url"]), str(reference["content"]))
    return found


def _name(key: dg.AssetKey, partition: str | None) -> str:
    return key.to_user_string() + (f" [{partition}]" if partition else "")


def progress_of(context: dg.AssetExecutionContext, title: str) -> Progress:
    """Progress into the run's log every few seconds, and as a bar where ``concord run`` shows one."""
    mark_process(context)
    if os.environ.get("SAE_CONCORD_TERMINAL"):
        return TerminalProgress(title)
    return _LogProgress(context)


class _LogProgress:
    def __init__(self, context: dg.AssetExecutionContext):
        self.context, self.last = context, time.monotonic()

    def __call__(self, done: int, total: int, text: str) -> None:
        now = time.monotonic()
        if now - self.last >= _LOG_EVERY_S or done == 0:
            self.last = now
            self.context.log.info(f"{done:,} of {total:,} ({done / max(total, 1):.0%}): {text}")


def default_store_root() -> str:
    """``SAE_CONCORD_STORE``, or ``.concord/store`` in the project."""
    return os.environ.get("SAE_CONCORD_STORE", str(Path(__file__).resolve().parent.parent / ".concord" / "store"))
