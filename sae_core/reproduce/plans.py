"""What can be known before anything is made again: what is missing, what has changed. Part of *reproduce*.

A stage is asked what it would make, in a store where nothing can be built: the inputs it names, digests of the model
and the text among them, are then set beside those of the manifest.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sae_core.config import LanguageModelConfig
from sae_core.progress import silent
from sae_core.reproduce.stages import STAGES
from sae_core.store import Artifact, ArtifactStore


class CannotReproduce(ValueError):
    """An artifact cannot be made again as it was; the message says why."""


def check_artifact(store: ArtifactStore, artifact: Artifact) -> list[str]:
    """Refuse an artifact that can be known not to come out as it was.

    Returns:
        What may make it come out otherwise all the same, or what it will do, a sentence each.

    Raises:
        CannotReproduce: if it has no recipe, something upstream is gone or replaced, or the model, the text or
            something else that decides it is not as it was.
    """
    place, given = place_of(artifact), arguments_of(artifact)
    upstream = upstream_of(store, artifact)
    notes: list[str] = []
    try:
        _check_model(artifact, upstream, given)
        STAGES[stage_of(artifact)](_Asking(store, artifact, upstream, notes), given, upstream, silent)
    except _Asked as asked:
        notes += _compare(place, asked, artifact)
    except ValidationError as error:
        commit = artifact.manifest.environment.get("git_commit", "unknown")
        raise CannotReproduce(
            f"{place}: this version of sae-concord does not know these settings (it was made by commit {commit}; check "
            f"that out): {error}"
        ) from error
    except (OSError, ModuleNotFoundError, RuntimeError) as error:  # what it was made from is not where it was
        raise CannotReproduce(f"{place}: {error}") from error
    if artifact.manifest.inputs.get("chat") and not store.replies.is_dir():
        notes.append(f"{place}: {store.replies} keeps no replies, so a model is asked for all of them again")
    return notes


def place_of(artifact: Artifact) -> str:
    """``kind/fingerprint``."""
    return f"{artifact.manifest.kind}/{artifact.manifest.fingerprint}"


def stage_of(artifact: Artifact) -> str:
    """The stage that made an artifact.

    Raises:
        CannotReproduce: if it has no recipe, or one of a stage that is not known.
    """
    recipe = artifact.manifest.recipe
    if recipe is None:
        raise CannotReproduce(
            f"{place_of(artifact)} was made before recipes were kept; materialize its asset again: that adds it"
        )
    if recipe["stage"] not in STAGES:
        raise CannotReproduce(
            f"{place_of(artifact)} was made by the stage {recipe['stage']!r}, this version of sae-concord has "
            f"{', '.join(STAGES)}; upgrade it"
        )
    return str(recipe["stage"])


def arguments_of(artifact: Artifact) -> dict[str, Any]:
    """What its stage was called with.

    Raises:
        CannotReproduce: as ``stage_of``.
    """
    stage_of(artifact)
    assert artifact.manifest.recipe is not None
    arguments: dict[str, Any] = artifact.manifest.recipe["arguments"]
    return arguments


def upstream_of(store: ArtifactStore, artifact: Artifact) -> dict[str, Artifact]:
    """What an artifact was made from, by name.

    Raises:
        CannotReproduce: if the store no longer has something, or has other content in its place.
    """
    found = {}
    for name, entry in artifact.manifest.upstream.items():
        one = store.get(entry.kind, entry.fingerprint)
        if one is None or one.content != entry.content:
            what = "is no longer in the store" if one is None else "has been replaced by other content"
            raise CannotReproduce(
                f"{place_of(artifact)}: {name} ({entry.kind}/{entry.fingerprint}), which it was made from, {what}; "
                "materialize its asset again, then that of this one"
            )
        found[name] = one
    return found


class _Asked(Exception):
    """What a stage would make."""

    def __init__(self, code_version: str, inputs: Mapping[str, Any]):
        super().__init__()
        self.code_version, self.inputs = code_version, json.loads(json.dumps(inputs))


class _Asking(ArtifactStore):
    """A store in which nothing is built: it says what a stage would make, given what the artifact was made from."""

    def __init__(self, store: ArtifactStore, artifact: Artifact, upstream: Mapping[str, Artifact], notes: list[str]):
        super().__init__(store.root.path if store.is_local else str(store.root), store.scratch)
        self.artifact, self.made_of, self.notes = artifact, upstream, notes

    def get(self, kind: str, fingerprint: str) -> Artifact | None:
        """As in the store, without what is to be made."""
        return None if kind == self.artifact.manifest.kind else super().get(kind, fingerprint)

    def get_or_build(
        self,
        kind: str,
        build: Callable[[Path], Mapping[str, Any]],
        *,
        code_version: str,
        inputs: Mapping[str, Any],
        upstream: Mapping[str, Artifact] | None = None,
        recipe: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """What lies upstream, where the stage makes it itself; for the rest ``_Asked`` is raised."""
        asked = _Asked(code_version, inputs)
        if kind == self.artifact.manifest.kind:
            raise asked
        candidates = [each for each in self.made_of.values() if each.manifest.kind == kind]
        for each in candidates:
            if asked.inputs == each.manifest.inputs:
                if each.manifest.code_version != code_version:
                    self.notes += _compare(place_of(each), asked, each)
                return each
        _compare(place_of(candidates[0]), asked, candidates[0])
        raise AssertionError(f"{kind} would be made with other inputs, none of which differs")


def _compare(place: str, asked: _Asked, artifact: Artifact) -> list[str]:
    """A note where the code is another one.

    Raises:
        CannotReproduce: if an input is another one.
    """
    manifest = artifact.manifest
    if changed := list(_changed(manifest.inputs, asked.inputs)):
        raise CannotReproduce(
            f"{place} was made with {'; '.join(changed)}: put back what it was, or materialize its asset "
            "again for a new result"
        )
    if asked.code_version == manifest.code_version:
        return []
    commit = manifest.environment.get("git_commit", "unknown")
    return [
        f"{place} was made by version {manifest.code_version} of its code (commit {commit[:12]}), this is version "
        f"{asked.code_version}: the result may differ"
    ]


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys([*before, *now]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from (f"{name} {inner}" for inner in _changed(old, new))
        elif old != new:
            yield f"{name} {_short(old)}, which is {_short(new)} now"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check_model(artifact: Artifact, upstream: Mapping[str, Artifact], given: Mapping[str, Any]) -> None:
    """Refuse another language model where its digest is an input of what lies upstream only."""
    if "model" not in given or "contexts" not in upstream:
        return
    from sae_core.model_sources import model_digest

    config = LanguageModelConfig.model_validate(
        {name: value for name, value in given["model"].items() if name in LanguageModelConfig.model_fields}
    )
    expected, found = upstream["contexts"].manifest.inputs["model"], model_digest(config.source)
    if found != expected:
        raise CannotReproduce(
            f"{place_of(artifact)} was made with the language model {config.name} of digest {expected[:12]}, which is "
            f"{found[:12]} now: put back what it was, or materialize its asset again for a new result"
        )
