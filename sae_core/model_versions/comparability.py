"""Whether the results of two versions of a model can be compared, and what a reader must know of the comparison.

Part of *model versions*. Judged from manifests, before anything is matched.
"""

from collections.abc import Mapping
from typing import Any

from sae_core.model_versions.versions import saes_of, what_differs
from sae_core.store import Artifact, ArtifactStore

_ELSEWHERE = "the SAEs were trained elsewhere, so they do not change with the model"


def why_not_comparable(store: ArtifactStore, old: Artifact, new: Artifact) -> str | None:
    """Why the dictionaries of two *consistency* artifacts cannot be compared; None where they can.

    They can when all SAEs are there, were trained here with equal settings, on the same hook of models of one width.
    """
    sides = {"earlier": saes_of(store, old), "current": saes_of(store, new)}
    for which, saes in sides.items():
        if gone := [name for name, artifact in saes.items() if artifact is None]:
            return f"the SAEs of the {which} version are no longer in the store ({', '.join(gone)})"
    one, other = (next(sae for sae in saes.values() if sae is not None) for saes in sides.values())
    settings = [sae.manifest.inputs for sae in (one, other)]
    if any("variant" not in each for each in settings):
        return _ELSEWHERE
    for name in ("variant", "training"):
        if settings[0].get(name) != settings[1].get(name):
            return f"the settings differ: {_unequal(name, *(each.get(name) for each in settings))}"
    return _activations_differ(store, one, other)


def _activations_differ(store: ArtifactStore, one: Artifact, other: Artifact) -> str | None:
    a, b = (store.upstream(sae).get("activations") for sae in (one, other))
    if a is None or b is None:
        return None  # their decoders still tell the width
    if a.manifest.inputs["hook"] != b.manifest.inputs["hook"]:
        return f"the hooks differ: {a.manifest.inputs['hook']} → {b.manifest.inputs['hook']}"
    widths = [each.summary.get("d_in") for each in (a, b)]
    if widths[0] != widths[1]:
        return f"the activations have another width (d_in): {widths[0]} → {widths[1]}, as of a model of another size"
    return None


def _unequal(name: str, old: Any, new: Any) -> str:
    """``variant.k 4 → 5``: the settings that are not equal."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return f"{name} {old} → {new}"
    names = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    return ", ".join(_unequal(f"{name}.{key}", old.get(key), new.get(key)) for key in names)


def cautions(store: ArtifactStore, old: Artifact, new: Artifact) -> list[str]:
    """What differs beside the model, and versions whose seeds are not independent."""
    more = [text for text in what_differs(store, old, new) if not text.startswith("model: ")]
    found = [f"the model is not all that differs: {'; '.join(more)}"] if more else []
    for which, artifact in (("earlier", old), ("current", new)):
        if artifact.summary.get("shared_initialisation"):
            found.append(f"the seeds of the {which} version share an initialisation: they agree more for that alone")
    return found
