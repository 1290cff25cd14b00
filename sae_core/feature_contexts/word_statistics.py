"""The words on, before and after which features fire."""

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64

from sae_core.feature_contexts.codes import FeatureCodes
from sae_core.feature_contexts.contexts import N_HALVES, WORD_SCHEMA, Place
from sae_core.feature_contexts.token_kernels import telling_words
from sae_core.held_out_text import HeldOutText


class WordStatistics:
    """Finds the telling words of features.

    A word's score is its part of the Kullback-Leibler divergence between the words that a feature fires on, weighted by
    squared activation, and those of the corpus: ``p log(p / q)``, a tf-idf whose idf is ``-log q``.

    Args:
        looked_at: tokens whose activations were encoded.
        n_words: words kept of each place, feature and half.
    """

    def __init__(self, text: HeldOutText, looked_at: Bool[np.ndarray, " n"], n_words: int):
        self.text, self.n_words = text, n_words
        self._texts = pa.array(text.words.texts, pa.string())
        self._places: list[tuple[Place, Int64[np.ndarray, " n"]]] = [
            ("now", text.word),
            ("before", text.word_before),
            ("after", text.word_after),
        ]
        self._expected = [self._shares(word[looked_at]) for _, word in self._places]

    def table(self, codes: FeatureCodes) -> pa.Table:
        """Rows in the order of feature, half, place, then the largest score first; see ``WORD_SCHEMA``."""
        n_slots, n = N_HALVES * len(codes.features), self.n_words
        chosen = np.full((n_slots, len(self._places), n), -1, dtype=np.int64)
        shares, scores = np.zeros(chosen.shape), np.zeros(chosen.shape)
        for i, (_, word) in enumerate(self._places):
            arrays = (np.full((n_slots, n), -1, dtype=np.int64), np.zeros((n_slots, n)), np.zeros((n_slots, n)))
            telling_words(codes.start, codes.token, codes.activation, self.text.half, word, self._expected[i], *arrays)
            chosen[:, i], shares[:, i], scores[:, i] = arrays
        slot, place, _ = found = np.nonzero(chosen >= 0)
        return pa.table(
            {
                "feature": codes.features[slot // N_HALVES].astype(np.int32),
                "half": (slot % N_HALVES).astype(np.int8),
                "place": pa.array([name for name, _ in self._places]).take(pa.array(place)),
                "word": self._texts.take(pa.array(chosen[found])),
                "share": shares[found].astype(np.float32),
                "score": scores[found].astype(np.float32),
            },
            schema=WORD_SCHEMA,
        )

    def _shares(self, word: Int64[np.ndarray, " m"]) -> Float64[np.ndarray, " words"]:
        # Every word counts once more than it was seen, so that one seen only here is no miracle.
        counts = np.bincount(word[word >= 0], minlength=len(self._texts))
        expected: np.ndarray = (counts + 1) / (len(word) + len(counts))
        return expected
