"""Making artifacts again, and what came of it. Part of *reproduce*."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sae_core.lineage import trace
from sae_core.lineage.walks import Key
from sae_core.progress import Progress, silent
from sae_core.reproduce.plans import CannotReproduce, arguments_of, check_artifact, place_of, stage_of, upstream_of
from sae_core.reproduce.stages import STAGES
from sae_core.store import Artifact, ArtifactStore, Manifest, UpstreamEntry, is_private
from sae_core.version_chain import EARLIER

_BESIDE = ("language_model",)
"""Kinds that stages read without naming them upstream: converted models, which take a minute each."""


@dataclass(frozen=True)
class Remade:
    """One artifact, as it was and as it came out."""

    before: Artifact
    manifest: Manifest
    """Of what came out."""
    was_there: bool
    """Whether an earlier call made it, which was ended before it was done."""

    @property
    def same(self) -> bool:
        """Whether the content is the same, byte for byte."""
        return self.before.content == self.manifest.content

    @property
    def different_files(self) -> list[str]:
        """Files of the content that are not the same, or that only one of the two has."""
        one, other = self.before.manifest.files, self.manifest.files
        digests = [
            {name: entry.sha256 for name, entry in files.items() if not is_private(name)} for files in (one, other)
        ]
        return [
            name for name in dict.fromkeys([*digests[0], *digests[1]]) if digests[0].get(name) != digests[1].get(name)
        ]

    @property
    def different_environment(self) -> dict[str, tuple[str, str]]:
        """Versions, machine and commit that differ: then and now."""
        one, other = self.before.manifest.environment, self.manifest.environment
        names = dict.fromkeys([*one, *other])
        return {name: (one.get(name, "-"), other.get(name, "-")) for name in names if one.get(name) != other.get(name)}

    @property
    def renamed_upstream(self) -> list[str]:
        """Names of what both were made from that has the same content, but was made by another version of its code."""
        before, now = self.before.manifest.upstream, self.manifest.upstream
        return [
            name
            for name, entry in before.items()
            if name in now and now[name].content == entry.content and now[name].fingerprint != entry.fingerprint
        ]

    def __str__(self) -> str:
        """A line where it is the same; else what differs, too."""
        there = f" (made before, {self.manifest.created})" if self.was_there else ""
        line = f"{place_of(self.before)}: {'same' if self.same else 'DIFFERENT'}{there}, content "
        if self.same:
            return line + self.before.content[:12]
        lines = [f"{line}{self.manifest.content[:12]}, expected {self.before.content[:12]}"]
        lines.append(f"  files that differ: {', '.join(self.different_files)}")
        if self.before.manifest.code_version != self.manifest.code_version:
            lines.append(f"  code version: {self.before.manifest.code_version} | {self.manifest.code_version}")
        if renamed := self.renamed_upstream:
            # A report prints fingerprints.
            lines.append(
                f"  made from equal content of other fingerprints (see their code versions): {', '.join(renamed)}"
            )
        lines += [f"  {name}: {then} | {now}" for name, (then, now) in self.different_environment.items()]
        if len(lines) == 2:
            lines.append("  same code and environment: it depends on something that the manifest does not hold")
        return "\n".join(lines)


@dataclass(frozen=True)
class Reproduction:
    """What came of making an artifact again."""

    remade: list[Remade]
    """What lies upstream first, the artifact last."""

    @property
    def same(self) -> bool:
        """Whether all of it is as it was."""
        return all(each.same for each in self.remade)


def reproduce(
    store: ArtifactStore,
    artifact: Artifact,
    into: ArtifactStore,
    everything: bool = False,
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda note: None,
) -> Reproduction:
    """Make an artifact again by the recipe of its manifest, and compare the contents.

    What it was made from is taken from its store. Models that write text are not asked again for what the store keeps
    replies to. A call that was killed goes on where it stopped, in the same ``into``.

    Args:
        store: has the artifact and what it was made from.
        into: an empty local store, or one that an earlier call left.
        everything: make everything upstream again as well, from the model and the text on. Results of a former model,
            which versions of the model are compared with, are taken as they are: that model is no longer there.
        tell: gets a sentence, before the work, on each thing that may make the result another one.

    Raises:
        CannotReproduce: before any work: if something has no recipe, is gone, or has changed since: the model, the
            text, an embedder, a prompt.
    """
    _check_into(store, into)
    wanted = _in_order(store, artifact) if everything else [artifact]
    notes = [note for each in wanted for note in check_artifact(store, each)]
    notes += [note for each in wanted if everything for note in _taken_as_they_are(each)]
    for note in dict.fromkeys(notes):
        tell(note)
    made: dict[Key, Artifact] = {}
    with _lent(store, into, [] if everything else list(upstream_of(store, artifact).values()), wanted):
        remade = [_remake(store, each, into, made, progress) for each in wanted]
    return Reproduction(remade)


def _remake(
    store: ArtifactStore, artifact: Artifact, into: ArtifactStore, made: dict[Key, Artifact], progress: Progress
) -> Remade:
    upstream = {
        name: made.get((each.manifest.kind, each.manifest.fingerprint), each)
        for name, each in upstream_of(store, artifact).items()
    }
    with _threads(artifact.manifest.environment.get("threads")):
        found = STAGES[stage_of(artifact)](into, arguments_of(artifact), upstream, progress)
    made[artifact.manifest.kind, artifact.manifest.fingerprint] = found
    # A killed call, or a stage that makes what lies upstream of it as well: only the first was there before.
    return Remade(artifact, found.manifest, found.cache_hit)


@contextmanager
def _threads(wanted: str | None) -> Iterator[None]:
    """As many threads as it was made with: the last digits of large sums depend on how many share them."""
    if wanted is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(int(wanted))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_order(store: ArtifactStore, artifact: Artifact) -> list[Artifact]:
    """Everything upstream of an artifact and itself, each after what it was made from."""
    nodes = trace(store, artifact).nodes
    order: dict[Key, Artifact] = {}

    def visit(key: Key) -> None:
        node = nodes[key]
        if node.artifact is None or node.replaced:
            what = "is no longer in the store" if node.artifact is None else "has been replaced by other content"
            raise CannotReproduce(
                f"{place_of(artifact)}: {key[0]}/{key[1]}, which it was made from, {what}, and its recipe with it; "
                "materialize its asset again"
            )
        former = _former(node.artifact)
        for name, entry in node.upstream.items():
            if name not in former and (entry.kind, entry.fingerprint) not in order:
                visit((entry.kind, entry.fingerprint))
        order[key] = node.artifact

    visit((artifact.manifest.kind, artifact.manifest.fingerprint))
    return list(order.values())


def _former(artifact: Artifact) -> dict[str, UpstreamEntry]:
    """What an artifact was made from that a former model was used for, by name."""
    if artifact.manifest.kind != "model_versions":
        return {}
    return {name: entry for name, entry in artifact.manifest.upstream.items() if name.startswith(EARLIER)}


def _taken_as_they_are(artifact: Artifact) -> Iterator[str]:
    if former := _former(artifact):
        named = ", ".join(f"{entry.kind}/{entry.fingerprint}" for entry in former.values())
        yield (
            f"{place_of(artifact)}: what it sets beside the present, results of a former model, is taken from the "
            f"store as it is and not made again: {named}"
        )


def _check_into(store: ArtifactStore, into: ArtifactStore) -> None:
    if not into.is_local:
        raise CannotReproduce(f"expected a local folder to make it again in, got {into.root}")
    if store.is_local and Path(into.root.path).resolve() == Path(store.root.path).resolve():
        raise CannotReproduce(f"{into.root} is the store of the artifact: it would be found there; name another one")


@contextmanager
def _lent(
    store: ArtifactStore, into: ArtifactStore, upstream: list[Artifact], wanted: list[Artifact]
) -> Iterator[None]:
    """What stages look up in their own store lies there as links: upstream artifacts, converted models, replies."""
    root = Path(into.root.path)
    _remove_links(root)  # of a call that was killed
    kinds = {each.manifest.kind for each in wanted}
    beside = [each for kind in _BESIDE if kind not in kinds for each in store.artifacts(kind)]
    for artifact in [*upstream, *beside]:
        link = root / artifact.manifest.kind / artifact.manifest.fingerprint
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(artifact.path.resolve())
    if not into.replies.exists():
        store.replies.mkdir(parents=True, exist_ok=True)
        into.replies.parent.mkdir(parents=True, exist_ok=True)
        into.replies.symlink_to(store.replies.resolve())
    try:
        yield
    finally:
        _remove_links(root)


def _remove_links(root: Path) -> None:
    for path in [*root.glob("*"), *root.glob("*/*")]:
        if path.is_symlink():
            path.unlink()
