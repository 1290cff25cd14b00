"""The versions of a variant as an artifact, as *chain* has the stages before: what it was with former models.

Which versions there are is the history of the orchestrator, so it is an argument here; what they are is read from
their manifests.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_core.chain import settings_of
from sae_core.config import ConsistencyConfig
from sae_core.progress import Progress, silent
from sae_core.recipes import recipe
from sae_core.store import Artifact, ArtifactStore, StoreError

if TYPE_CHECKING:
    from sae_core.model_versions.artifact import VersionFolders
    from sae_core.model_versions.versions import Version

VERSION_CODE_VERSION = {"model_versions": "1"}
"""As ``CODE_VERSION`` of *chain*."""

EARLIER = "earlier "
"""Before the names of the artifacts of the earlier version, in the manifest."""


def make_model_versions(
    store: ArtifactStore, versions: Sequence["Version"], config: ConsistencyConfig, progress: Progress = silent
) -> Artifact:
    """All versions of a variant, and the current one compared with the latest that had another model.

    Where the model has had one version only, or the two cannot be compared, the artifact says so and nothing is
    matched.

    Args:
        versions: every *consistency* that was ever materialized for the variant, each content once.

    Raises:
        StoreError: if the store no longer has the current one.
        ValueError: if there is no version.
    """
    from sae_core.model_versions.versions import current_of, earlier_model

    current, earlier = current_of(versions), earlier_model(store, versions)
    if current.consistency is None:
        raise StoreError(
            f"the current consistency ({current.content[:12]}) is no longer in the store: it was moved or cleaned; "
            "materialize consistency again"
        )
    inputs, upstream = _inputs(store, versions, config), {"consistency": current.consistency}
    if earlier is not None and earlier.consistency is not None:
        upstream[f"{EARLIER}consistency"] = earlier.consistency
        if inputs["not_compared"] is None:
            upstream |= _named_saes(store, current.consistency, "")
            upstream |= _named_saes(store, earlier.consistency, EARLIER)
    return versions_from(store, inputs, upstream, progress)


def versions_from(
    store: ArtifactStore, inputs: Mapping[str, Any], upstream: Mapping[str, Artifact], progress: Progress = silent
) -> Artifact:
    """The artifact from what its manifest names, which is all that decides it: so it can be made again."""
    return store.get_or_build(
        "model_versions",
        lambda folder: _build(folder, inputs, upstream, progress),
        code_version=VERSION_CODE_VERSION["model_versions"],
        inputs=inputs,
        upstream=upstream,
        recipe=recipe("model_versions", inputs=inputs),
    )


def _build(
    folder: Path, inputs: Mapping[str, Any], upstream: Mapping[str, Artifact], progress: Progress
) -> Mapping[str, Any]:
    from sae_core.model_versions.artifact import Plan, build_versions
    from sae_core.model_versions.results import VersionRow

    plan = Plan(
        rows=[VersionRow.model_validate(row) for row in inputs["versions"]],
        compared_with=inputs["compared_with"],
        not_compared=inputs["not_compared"],
        cautions=inputs["cautions"],
    )
    config = ConsistencyConfig.model_validate(inputs["config"])
    return build_versions(folder, plan, _folders(upstream, EARLIER), _folders(upstream, ""), config, progress)


def _inputs(store: ArtifactStore, versions: Sequence["Version"], config: ConsistencyConfig) -> dict[str, Any]:
    from sae_core.model_versions.artifact import ONE_MODEL
    from sae_core.model_versions.comparability import cautions, why_not_comparable
    from sae_core.model_versions.versions import current_of, earlier_model, version_rows

    current, earlier = current_of(versions).consistency, earlier_model(store, versions)
    reason: str | None = ONE_MODEL
    known: list[str] = []
    if earlier is not None and earlier.consistency is not None and current is not None:
        found = why_not_comparable(store, earlier.consistency, current)
        reason = None if found is None else f"not comparable: {found}"
        known = cautions(store, earlier.consistency, current)
    return {
        "versions": [row.model_dump(mode="json") for row in version_rows(store, versions)],
        "compared_with": None if earlier is None else earlier.content,
        "not_compared": reason,
        "cautions": known,
        "config": settings_of(config),
    }


def _named_saes(store: ArtifactStore, consistency: Artifact, prefix: str) -> dict[str, Artifact]:
    from sae_core.model_versions.versions import saes_of

    saes = saes_of(store, consistency)
    return {f"{prefix}sae {name}": artifact for name, artifact in saes.items() if artifact is not None}


def _folders(upstream: Mapping[str, Artifact], prefix: str) -> "VersionFolders | None":
    from sae_core.model_versions.artifact import VersionFolders

    start = f"{prefix}sae "
    saes = {name.removeprefix(start): artifact.path for name, artifact in upstream.items() if name.startswith(start)}
    return VersionFolders(upstream[f"{prefix}consistency"].path, saes) if saes else None
