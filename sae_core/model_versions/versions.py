"""What a variant's result once was: its versions in the order of time, with the model and the text they were made from.

Part of *model versions*. Manifests say everything; nothing is opened but them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from sae_core.lineage import Difference, differences, trace
from sae_core.model_versions.results import VersionRow
from sae_core.store import Artifact, ArtifactStore

_SHOWN = 12
"""Hex digits of a digest that are shown."""
_FEW = 6
"""Differences that are told one by one."""
_MEANT = ("contexts", "activations")
"""Kinds whose inputs name what came from outside; the contexts first, they know the text too."""


@dataclass(frozen=True)
class Version:
    """One content that the *consistency* of a variant had."""

    content: str
    first: datetime
    """When it was first materialized."""
    last: datetime
    """When it was last materialized."""
    consistency: Artifact | None
    """None where the store no longer has it."""


def outside_digest(store: ArtifactStore, artifact: Artifact, name: str) -> str | None:
    """Digest of the ``model`` or the ``corpus`` that an artifact comes from; None where the chain to it is broken."""
    nodes = trace(store, artifact).nodes.values()
    for kind in _MEANT:
        for node in nodes:
            if node.entry.kind == kind and node.artifact is not None:
                digest = node.artifact.manifest.inputs.get(name)
                if isinstance(digest, str):
                    return digest
    return None


def saes_of(store: ArtifactStore, consistency: Artifact) -> dict[str, Artifact | None]:
    """The SAEs that a *consistency* compared, by the name of the run; None for those no longer in the store."""
    return {
        name.removeprefix("sae "): artifact
        for name, artifact in store.upstream(consistency).items()
        if name.startswith("sae ")
    }


def current_of(versions: Sequence[Version]) -> Version:
    """The version that was materialized last.

    Raises:
        ValueError: if there is none.
    """
    if not versions:
        raise ValueError("there is no version: consistency has never been materialized; materialize it first")
    return max(versions, key=lambda version: version.last)


def earlier_model(store: ArtifactStore, versions: Sequence[Version]) -> Version | None:
    """The version before the current one that has another model, the last materialized of several.

    None where there is none: every other version has the same model, or the store no longer knows of which model it is.
    """
    current = current_of(versions)
    model = None if current.consistency is None else outside_digest(store, current.consistency, "model")
    if model is None:
        return None
    for version in sorted(versions, key=lambda version: version.last, reverse=True):
        if version.consistency is not None:
            other = outside_digest(store, version.consistency, "model")
            if other is not None and other != model:
                return version
    return None


def version_rows(store: ArtifactStore, versions: Sequence[Version]) -> list[VersionRow]:
    """A row a version, in the order in which they were first materialized."""
    ordered = sorted(versions, key=lambda version: version.first)
    current = current_of(versions)
    found = [each.consistency for each in ordered if each.consistency is not None]
    differs = {b.content: what_differs(store, a, b) for a, b in pairwise(found)}
    return [_row(store, each, each is current, differs.get(each.content, [])) for each in ordered]


def _row(store: ArtifactStore, version: Version, is_current: bool, differs: list[str]) -> VersionRow:
    artifact = version.consistency
    known: dict[str, Any] = {} if artifact is None else _known(store, artifact)
    return VersionRow(
        time=version.first.isoformat(timespec="seconds"),
        content=version.content,
        in_store=artifact is not None,
        is_current=is_current,
        differs=differs,
        **known,
    )


def _known(store: ArtifactStore, artifact: Artifact) -> dict[str, Any]:
    # From the manifest, not the summary's type: an earlier version of the code may have written other fields.
    summary, manifest = artifact.summary, artifact.manifest
    null = "isotropic" if summary.get("null_sign_flip") is None else "sign_flip"
    return {
        "fingerprint": manifest.fingerprint,
        "model": outside_digest(store, artifact, "model"),
        "corpus": outside_digest(store, artifact, "corpus"),
        "code_version": manifest.code_version,
        "commit": manifest.environment.get("git_commit"),
        "null": summary.get(f"null_{null}"),
        "kappa": summary.get(f"kappa_{null}"),
        **{name: summary.get(name) for name in ("n_runs", "pw_mcc", "ci_low", "ci_high")},
    }


def what_differs(store: ArtifactStore, before: Artifact, after: Artifact) -> list[str]:
    """In what two *consistency* artifacts were made otherwise, in words, each thing once however many runs share it."""
    found = list(dict.fromkeys(_in_words(differences(store, before, after))))
    return found if len(found) <= _FEW else [*found[:_FEW], f"and {len(found) - _FEW} more"]


def _in_words(found: Sequence[Difference]) -> Iterator[str]:
    """The model first, then the text, then everything else in the order of the flow upstream."""
    order: Mapping[str, int] = {"model": 0, "corpus": 1, "code version": 2}
    for each in sorted(found, key=lambda difference: order.get(difference.what, 3)):
        kind = each.where[-1].partition(" ")[0] if each.where else "consistency"
        if each.what in ("model", "corpus"):
            yield f"{each.what}: {each.a[:_SHOWN]} → {each.b[:_SHOWN]}"
        elif each.what == "code version":
            yield f"code of {kind}: {each.a} → {each.b}"
        elif each.what == "runs" or _is_of_run(each):
            # A run that only one side has is told by the list of runs.
            if each.what == "runs":
                yield f"runs: {each.a} → {each.b}"
        else:
            yield f"{kind}, {each.what}: {each.a} → {each.b}"


def _is_of_run(difference: Difference) -> bool:
    return not difference.where and difference.what.partition(" ")[0] in ("sae", "evaluation")
