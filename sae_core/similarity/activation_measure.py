"""``activations``: whether two features fire on the same tokens, without any explanation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from sae_core.feature_contexts.contexts import FeatureContexts
from sae_core.kernel_options import torch_threads
from sae_core.progress import Progress
from sae_core.similarity.activation_kernels import moments, products
from sae_core.similarity.measures import NEVER_FIRED, FeaturePairs, Kind, Scores

_ROUNDING = 1e-9
"""A variance below so much of the mean square is rounding: the feature is constant."""


@final
class ActivationMeasure:
    """Absolute Pearson correlation, in [0, 1], of two features over the tokens looked at in both runs.

    Tokens on which a feature is not active count as zeros.

    Args:
        contexts: of every run.
        min_activations: a feature that fired less often has no correlation.
    """

    name = "activations"
    kind: Kind = "activations"
    explainer: str | None = None
    costly = False

    def __init__(self, contexts: Mapping[str, FeatureContexts], min_activations: int = 1) -> None:
        self._contexts = contexts
        self._min_activations = min_activations

    def score(self, pairs: Sequence[FeaturePairs], progress: Progress) -> list[Scores]:
        """The correlation of all pairs of features."""
        found = []
        for number, pair in enumerate(pairs, 1):
            found.append(self._score(pair))
            progress(number, len(pairs), f"{self.name}: {number} of {len(pairs)} pairs of runs")
        return found

    def known(self, run: str, features: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which features fired often enough."""
        contexts = self._contexts[run]
        often = contexts.features[contexts.n_fired.sum(axis=1) >= self._min_activations]
        return np.isin(features, often)

    def ceiling(self, used: Mapping[str, Int64[np.ndarray, " _"]]) -> None:
        """None: on the same tokens a feature correlates with itself perfectly."""

    def _score(self, pair: FeaturePairs) -> Scores:
        contexts = self._contexts[pair.run_a], self._contexts[pair.run_b]
        a, b = _on_common_tokens(*contexts)
        (left, in_a), (right, in_b) = _places(contexts[0], pair.left), _places(contexts[1], pair.right)
        rows = np.flatnonzero(in_a & in_b)
        few = np.minimum(np.diff(a.start)[left[rows]], np.diff(b.start)[right[rows]]) < self._min_activations
        r = _correlations(a, b, left[rows], right[rows])
        value = np.full(len(left), np.nan)
        value[rows] = np.where(few, np.nan, np.abs(r))
        reason = np.full(len(left), NEVER_FIRED, object)
        why = np.full(len(rows), None, object)
        why[np.isnan(r)] = "the activation of a feature does not vary"
        why[few] = f"fewer than {self._min_activations} activations in the text"
        reason[rows] = why
        return Scores(value, reason)


@dataclass(frozen=True)
class _Codes:
    """Activations of one run, feature by feature, as in ``FeatureContexts``."""

    start: Int64[np.ndarray, " starts"]
    token: Int64[np.ndarray, " codes"]
    value: Float32[np.ndarray, " codes"]
    n_tokens: int


def _places(
    contexts: FeatureContexts, features: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Places of features, and whether they have one (the place is 0 where not)."""
    if len(contexts.features) == 0:
        return np.zeros(len(features), np.int64), np.zeros(len(features), bool)
    place = np.minimum(np.searchsorted(contexts.features, features), len(contexts.features) - 1)
    there = contexts.features[place] == features
    return np.where(there, place, 0), there


def _on_common_tokens(a: FeatureContexts, b: FeatureContexts) -> tuple[_Codes, _Codes]:
    """The activations on the tokens looked at in both runs; those of all tokens, uncopied, where they are the same."""
    if np.array_equal(a.looked_at, b.looked_at):
        n = len(a.looked_at)
        return tuple(_Codes(c.code_start, c.code_token, c.code_activation, n) for c in (a, b))  # type: ignore[return-value]
    common = np.intersect1d(a.looked_at, b.looked_at, assume_unique=True)
    return _restricted(a, common), _restricted(b, common)


def _restricted(contexts: FeatureContexts, tokens: Int64[np.ndarray, " m"]) -> _Codes:
    wanted = np.zeros(int(max(tokens.max(initial=-1), contexts.code_token.max(initial=-1))) + 1, bool)
    wanted[tokens] = True
    kept = wanted[contexts.code_token]
    start = np.concatenate([[0], np.cumsum(kept)])[contexts.code_start]
    return _Codes(start, contexts.code_token[kept], contexts.code_activation[kept], len(tokens))


def _correlations(
    a: _Codes, b: _Codes, left: Int64[np.ndarray, " n"], right: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Pearson correlations; nan where a feature does not vary."""
    n = max(a.n_tokens, 1)
    with torch_threads():
        inner = products(a.start, a.token, a.value, b.start, b.token, b.value, left, right)
        of_a, of_b = moments(a.start, a.value)[left], moments(b.start, b.value)[right]
    variance = [squares - sums**2 / n for sums, squares in (of_a.T, of_b.T)]
    varies = (variance[0] > _ROUNDING * of_a[:, 1]) & (variance[1] > _ROUNDING * of_b[:, 1])
    scale = np.sqrt(np.where(varies, variance[0] * variance[1], 1.0))
    return np.where(varies, ((inner - of_a[:, 0] * of_b[:, 0] / n) / scale).clip(-1, 1), np.nan)
