"""The artifacts upstream of one, read from their manifests. Part of *lineage*."""

from dataclasses import dataclass

from sae_core.store import Artifact, ArtifactStore, UpstreamEntry

Key = tuple[str, str]
"""Kind and fingerprint."""


@dataclass(frozen=True)
class Node:
    """One artifact of a chain."""

    entry: UpstreamEntry
    """What the manifest below it says of it: kind, fingerprint and the content that was used."""
    artifact: Artifact | None
    """None where the store no longer has it."""

    @property
    def key(self) -> Key:
        """Kind and fingerprint."""
        return self.entry.kind, self.entry.fingerprint

    @property
    def upstream(self) -> dict[str, UpstreamEntry]:
        """What it was made from, by name; nothing where its manifest is gone."""
        return {} if self.artifact is None else self.artifact.manifest.upstream

    @property
    def replaced(self) -> bool:
        """Whether the store now holds other content under its name than what was used."""
        return self.artifact is not None and self.artifact.content != self.entry.content


@dataclass(frozen=True)
class Lineage:
    """An artifact and everything upstream of it, each once."""

    root: Node
    nodes: dict[Key, Node]
    """In an order in which what is nearer to the root comes first."""


def trace(store: ArtifactStore, artifact: Artifact) -> Lineage:
    """Everything that an artifact was made from. Reads manifests only."""
    root = Node(artifact.entry(), artifact)
    nodes, waiting = {root.key: root}, [root]
    while waiting:
        for entry in waiting.pop(0).upstream.values():
            key = (entry.kind, entry.fingerprint)
            if key not in nodes:
                nodes[key] = Node(entry, store.get(*key))
                waiting.append(nodes[key])
    return Lineage(root, nodes)
