"""``concord reproduce``: an artifact made again in a folder of its own."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from pipelines.tracing import find_artifact, open_store
from sae_core.progress import Progress
from sae_core.reproduce import Reproduction, reproduce
from sae_core.store import ArtifactStore


def reproduce_artifact(
    name: str, into: Path | None, everything: bool, progress: Progress, tell: Callable[[str], None]
) -> Reproduction:
    """Make the artifact again that a user means.

    Args:
        name: as ``find_artifact`` takes it.
        into: folder that keeps what is made; None makes it on the disk of the store and removes it.
        everything: make what lies upstream again as well.

    Raises:
        NotFound, CannotReproduce: before any work; the message says why.
    """
    store = open_store()
    artifact = find_artifact(store, name)
    if into is not None:
        return reproduce(store, artifact, ArtifactStore(into), everything, progress, tell)
    # In the scratch folder, so that `concord gc` finds what a kill leaves.
    parent = store.scratch / "reproduce"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        return reproduce(store, artifact, ArtifactStore(folder), everything, progress, tell)
