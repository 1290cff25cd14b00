"""``words``: whether two features fire on the same words, without any explanation."""

from collections.abc import Iterable, Mapping
from typing import final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64, Int64
from scipy import sparse

from sae_core.feature_contexts.contexts import N_HALVES, FeatureContexts
from sae_core.similarity.across_halves import AcrossHalves, Slots
from sae_core.similarity.measures import NEVER_FIRED, Kind


@final
class WordMeasure(AcrossHalves):
    """Bhattacharyya affinity ``sum sqrt(p q)``, in [0, 1], of the shares of two features' activation on each word.

    Of every feature the words with the largest scores are known; what it does on others is left out, so that the
    affinity of a feature with itself is their share.

    Args:
        contexts: of every run.
        runs: those that are needed.
        min_activations: a feature that fired less often in a half has no words there.
    """

    kind: Kind = "words"
    name = "words"
    explainer: str | None = None

    def __init__(self, contexts: Mapping[str, FeatureContexts], runs: Iterable[str], min_activations: int = 1) -> None:
        tables = {run: contexts[run].word_table.filter(pc.field("place") == "now") for run in runs}
        vocabulary = pc.unique(pa.chunked_array([t["word"].combine_chunks() for t in tables.values()], pa.string()))
        self._roots = {}
        slots = {}
        for run, table in tables.items():
            features = contexts[run].features
            for half in range(N_HALVES):
                self._roots[run, half] = _roots(table.filter(pc.field("half") == half), features, vocabulary)
            slots[run] = self._slots_of(run, contexts[run], min_activations)
        super().__init__(slots)

    def compare(
        self,
        left: tuple[str, int],
        rows: Int64[np.ndarray, " n"],
        right: tuple[str, int],
        others: Int64[np.ndarray, " n"],
    ) -> Float64[np.ndarray, " n"]:
        """Affinity of features at these places."""
        product = self._roots[left][rows].multiply(self._roots[right][others])
        return np.asarray(product.sum(axis=1), np.float64).ravel().clip(0, 1)

    def _slots_of(self, run: str, contexts: FeatureContexts, min_activations: int) -> Slots:
        n_words = np.stack([np.diff(self._roots[run, half].indptr) for half in range(N_HALVES)], axis=1)
        reason = np.full((contexts.d_sae, N_HALVES), NEVER_FIRED, object)
        row = np.full((contexts.d_sae, N_HALVES), -1, np.int64)
        enough = contexts.n_fired >= min_activations
        known = enough & (n_words > 0)
        row[contexts.features] = np.where(known, np.arange(len(contexts.features))[:, None], -1)
        too_few = f"fewer than {min_activations} activations in a half of the text"
        why = np.where(enough, "no word that it fires on", too_few).astype(object)
        why[contexts.n_fired == 0] = "no activation in a half of the text"
        why[known] = None
        reason[contexts.features] = why
        return Slots(row, reason, NEVER_FIRED)


def _roots(words: pa.Table, features: Int64[np.ndarray, " n"], vocabulary: pa.Array) -> sparse.csr_array:
    """(features, vocabulary): the root of every share."""
    place = np.searchsorted(features, words["feature"].to_numpy())
    number = pc.index_in(words["word"].combine_chunks(), vocabulary).to_numpy(zero_copy_only=False)
    root = np.sqrt(words["share"].to_numpy().astype(np.float64))
    return sparse.csr_array((root, (place, number)), shape=(len(features), len(vocabulary)))
