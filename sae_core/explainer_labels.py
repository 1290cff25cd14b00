"""Names of the artifacts that every explainer of a study makes of its own, for one run."""

from collections.abc import Sequence

from sae_core.config import Explainer


def explainer_labels(explainers: Sequence[Explainer], kind: str) -> dict[str, str]:
    """The artifact name for each explainer's name: ``kind`` for the first, ``<kind> <name>`` for the others.

    Args:
        kind: ``explanations`` or ``scores``.
    """
    return {
        explainer.name: kind if number == 0 else f"{kind} {explainer.name}"
        for number, explainer in enumerate(explainers)
    }
