"""Artifacts that are built together, each as if it were built alone. Beside *store*, used by *chain*."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_core.store import Artifact, ArtifactStore

Summary = Mapping[str, Any]
Work = Callable[[Mapping[str, Path]], Mapping[str, Callable[[], Summary]]]
"""``work(folders)``: makes what lies in the folders, by fingerprint; returns for each a function that completes its
folder and returns its summary."""


def build_together(
    store: ArtifactStore,
    kind: str,
    code_version: str,
    inputs: Sequence[Mapping[str, Any]],
    upstream: Mapping[str, Artifact],
    work: Work,
    recipes: Sequence[Mapping[str, Any]],
) -> list[Artifact]:
    """The artifacts with these inputs: those that exist at once, all others from one call of ``work``.

    Each is built by ``get_or_build``, one inside the build of the other, so each has its folder, its lock and its
    manifest (whose ``seconds`` are those of all of them). When one cannot be completed, the others still are.

    Args:
        recipes: of each, how to make it alone.

    Raises:
        Exception: what ``work`` or the completion of an artifact raised, the first of them.
    """
    prints = [store.fingerprint(kind, code_version, one, upstream) for one in inputs]
    inputs_of = dict(zip(prints, inputs, strict=True))
    recipe_of = dict(zip(prints, recipes, strict=True))
    made = {name: store.add_recipe(hit, recipe_of[name]) for name in inputs_of if (hit := store.get(kind, name))}
    # In one order everywhere: two processes that ask for some of the same then never wait for each other.
    missing = sorted(name for name in inputs_of if name not in made)
    folders: dict[str, Path] = {}
    ends: dict[str, Callable[[], Summary]] = {}
    errors: list[Exception] = []

    def build(level: int) -> None:
        if level == len(missing):
            ends.update(work(folders) if folders else {})
            return
        name, entered = missing[level], False

        def in_folder(folder: Path) -> Summary:
            nonlocal entered
            entered, folders[name] = True, folder
            build(level + 1)
            return ends[name]()

        try:
            made[name] = store.get_or_build(
                kind,
                in_folder,
                code_version=code_version,
                inputs=inputs_of[name],
                upstream=upstream,
                recipe=recipe_of[name],
            )
        except Exception as error:
            if name not in ends:  # nothing was made, of none of them
                raise
            errors.append(error)
        if not entered:  # another process made it in the meantime
            build(level + 1)

    build(0)
    if errors:
        raise errors[0]
    return [made[name] for name in prints]
