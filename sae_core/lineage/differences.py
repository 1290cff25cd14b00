"""In which inputs two results differ. Part of *lineage*."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sae_core.store import Artifact, ArtifactStore, UpstreamEntry

_ABSENT = "(absent)"


@dataclass(frozen=True)
class Difference:
    """One input that two results do not share."""

    where: tuple[str, ...]
    """Names of the artifacts on the way upstream; empty: the results themselves."""
    what: str
    """``code version``, a setting as ``config.training.lr``, or the name of an upstream artifact that only one has."""
    a: str
    b: str

    def __str__(self) -> str:
        place = " > ".join(self.where)
        return f"{place + ': ' if place else ''}{self.what}: {self.a} | {self.b}"


def differences(store: ArtifactStore, a: Artifact, b: Artifact) -> list[Difference]:
    """The inputs in which two artifacts of one kind differ, followed upstream to where the difference begins.

    Where two artifacts were made from the same inputs but hold other content, the versions of packages, the machine and
    the commit that differ are listed too.

    Raises:
        ValueError: if they are of different kinds.
    """
    if a.manifest.kind != b.manifest.kind:
        raise ValueError(
            f"only artifacts of one kind can be compared: got {a.manifest.kind} and {b.manifest.kind}; name two of one"
        )
    return list(_differences(store, a, b, (), set()))


def _differences(
    store: ArtifactStore, a: Artifact, b: Artifact, where: tuple[str, ...], seen: set[tuple[str, str]]
) -> Iterator[Difference]:
    pair = (a.manifest.fingerprint, b.manifest.fingerprint)
    if a.content == b.content or pair in seen:
        return
    seen.add(pair)
    found = []
    if a.manifest.code_version != b.manifest.code_version:
        found.append(Difference(where, "code version", a.manifest.code_version, b.manifest.code_version))
    found += _of_mappings(where, _flat(a.manifest.inputs), _flat(b.manifest.inputs))
    explained = bool(found)
    for name in dict.fromkeys([*a.manifest.upstream, *b.manifest.upstream]):
        one, other = a.manifest.upstream.get(name), b.manifest.upstream.get(name)
        if one is None or other is None:
            sides = [_ABSENT if each is None else f"{each.kind}/{each.fingerprint}" for each in (one, other)]
            found.append(Difference(where, name, *sides))
        elif one.content != other.content:
            found += _upstream(store, (*where, name), one, other, seen)
        else:
            continue
        explained = True
    if not explained:
        found = _of_mappings(where, _flat(a.manifest.environment), _flat(b.manifest.environment))
        found = found or [Difference(where, "content (same inputs, same environment)", a.content[:12], b.content[:12])]
    yield from found


def _upstream(
    store: ArtifactStore,
    where: tuple[str, ...],
    one: UpstreamEntry,
    other: UpstreamEntry,
    seen: set[tuple[str, str]],
) -> list[Difference]:
    a, b = (store.get(entry.kind, entry.fingerprint) for entry in (one, other))
    if a is None or b is None:
        sides = ((one, a), (other, b))
        gone = [f"{e.kind}/{e.fingerprint}{' (missing)' if found is None else ''}" for e, found in sides]
        return [Difference(where, "content", *gone)]
    return list(_differences(store, a, b, where, seen))


def _of_mappings(where: tuple[str, ...], a: Mapping[str, str], b: Mapping[str, str]) -> list[Difference]:
    names = [name for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name)]
    return [Difference(where, name, a.get(name, _ABSENT), b.get(name, _ABSENT)) for name in names]


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested JSON values as ``{"a.b": "1"}``; lists whole."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: str(value)} if prefix else {}
    found: dict[str, str] = {}
    for name, inner in value.items():
        found |= _flat(inner, f"{prefix}.{name}" if prefix else name)
    return found
