"""``embedding:<explainer>``: the cosine of the sentence embeddings of two explanations."""

from typing import final

import numpy as np
from jaxtyping import Float, Float64, Int64

from sae_core.similarity.across_halves import AcrossHalves
from sae_core.similarity.explained import Explained
from sae_core.similarity.measures import Kind


@final
class EmbeddingMeasure(AcrossHalves):
    """Cosine of two explanations, in [-1, 1].

    Args:
        vectors: unit vectors of ``explained.texts``.
    """

    kind: Kind = "embedding"

    def __init__(self, explained: Explained, vectors: Float[np.ndarray, "texts dim"]) -> None:
        super().__init__(explained.slots)
        self.explainer = explained.explainer
        self.name = f"{self.kind}:{self.explainer}"
        self._vectors = vectors

    def compare(
        self,
        left: tuple[str, int],
        rows: Int64[np.ndarray, " n"],
        right: tuple[str, int],
        others: Int64[np.ndarray, " n"],
    ) -> Float64[np.ndarray, " n"]:
        """Cosine of the texts in these places; it matters to none of them which run and half they are of."""
        found: np.ndarray = (self._vectors[rows].astype(np.float64) * self._vectors[others]).sum(axis=1)
        return found
