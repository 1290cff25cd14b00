"""Artifacts that nothing refers to. Part of *lineage*."""

import shutil
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sae_core.lineage.walks import Key, trace
from sae_core.store import Artifact, ArtifactStore

KEPT_KINDS = ("language_model",)
"""Kinds that no manifest names, but every stage that reads a packaged model uses."""


@dataclass(frozen=True)
class Garbage:
    """What can go."""

    artifacts: list[Artifact]
    staging: list[Path]
    """Folders of builds that were killed and not taken up again."""
    n_kept: int
    n_bytes: int
    """Of both."""


def find_garbage(store: ArtifactStore, roots: Iterable[Artifact], older_than_days: float = 1.0) -> Garbage:
    """Artifacts that are neither roots nor upstream of one.

    Args:
        roots: what must stay, with all it was made from.
        older_than_days: what is younger stays: it may belong to a run that has not recorded it yet.
    """
    kept: set[Key] = set()
    for root in roots:
        kept |= set(trace(store, root).nodes)
    now, loose, n_kept = datetime.now(UTC), [], 0
    for artifact in store.artifacts():
        manifest = artifact.manifest
        age = (now - datetime.fromisoformat(manifest.created)).total_seconds() / 86_400
        if manifest.kind in KEPT_KINDS or (manifest.kind, manifest.fingerprint) in kept or age < older_than_days:
            n_kept += 1
        else:
            loose.append(artifact)
    staging = _abandoned(store.scratch, older_than_days)
    sizes = [sum(entry.size for entry in artifact.manifest.files.values()) for artifact in loose]
    return Garbage(loose, staging, n_kept, sum(sizes) + sum(_size(folder) for folder in staging))


def collect_garbage(store: ArtifactStore, garbage: Garbage) -> None:
    """Remove it."""
    for artifact in garbage.artifacts:
        store.remove(artifact)
    for folder in garbage.staging:
        shutil.rmtree(folder, ignore_errors=True)


def _abandoned(scratch: Path, older_than_days: float) -> list[Path]:
    """Staging folders in which nothing was written for so long."""
    limit = time.time() - older_than_days * 86_400
    folders = [folder for folder in scratch.glob("*/*") if folder.is_dir() and folder.parent.name != "copies"]
    return sorted(folder for folder in folders if _last_written(folder) < limit)


def _last_written(folder: Path) -> float:
    return max(path.stat().st_mtime for path in [folder, *folder.rglob("*")])


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def kinds(artifacts: Collection[Artifact]) -> dict[str, tuple[int, int]]:
    """Number and bytes of some artifacts by kind."""
    found: dict[str, tuple[int, int]] = {}
    for artifact in artifacts:
        n, n_bytes = found.get(artifact.manifest.kind, (0, 0))
        size = sum(entry.size for entry in artifact.manifest.files.values())
        found[artifact.manifest.kind] = (n + 1, n_bytes + size)
    return dict(sorted(found.items()))
