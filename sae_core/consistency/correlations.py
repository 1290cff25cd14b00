"""Correlations of feature activations, of chosen pairs or as scores for a matching: a part of *consistency*."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy import sparse

from sae_core.consistency.sparse_codes import SparseCodes, check_tokens

_PAIRS_AT_ONCE = 4096


class Correlations:
    """Absolute (or signed) Pearson correlations of the features of two runs: a source of scores for a matching.

    ``r_ij = (<x_i, y_j> - T mean_i mean_j) / (deviation_i deviation_j)`` over T tokens. Only features that vary take
    part; rows and columns are counted among those (``SparseCodes.varies``).
    """

    def __init__(self, a: SparseCodes, b: SparseCodes, signed: bool = False) -> None:
        check_tokens(a, b)
        for one in (a, b):
            if len(one.varies) == 0:
                raise ValueError(f"{one.name}: no feature varies over the {one.n_tokens:,} tokens; pass more tokens")
        self.signed = signed
        self._a, self._mean_a = _scaled(a)
        self._b, self._mean_b = _scaled(b)
        self._tokens_b = sparse.csr_array(self._b.T)

    @property
    def shape(self) -> tuple[int, int]:
        """Features that vary, of either run."""
        return int(self._a.shape[0]), int(self._b.shape[0])

    def block(self, rows: slice) -> Float32[np.ndarray, "r n"]:
        """Correlations of consecutive features with all of the other run."""
        return self._scores((self._a[rows] @ self._tokens_b).toarray(), self._mean_a[rows], self._mean_b)

    def products(self, rows: Int64[np.ndarray, " r"], columns: Int64[np.ndarray, " c"]) -> Float32[np.ndarray, "r c"]:
        """Correlations of some features with some of the other run."""
        product = self._a[rows] @ sparse.csr_array(self._b[columns].T)
        return self._scores(product.toarray(), self._mean_a[rows], self._mean_b[columns])

    def _scores(self, product: np.ndarray, mean_a: np.ndarray, mean_b: np.ndarray) -> Float32[np.ndarray, "r c"]:
        product -= np.multiply.outer(mean_a, mean_b)
        np.clip(product, -1, 1, out=product)
        if not self.signed:
            np.abs(product, out=product)
        return product.astype(np.float32)


def correlations(
    a: SparseCodes, b: SparseCodes, left: Int64[np.ndarray, " n"], right: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Pearson correlation, in [-1, 1], of features of run a with those of run b at the same places; nan where one of
    the two does not vary.

    Raises:
        ValueError: if the tokens differ in number.
    """
    products = _paired(a, b, left, right, lambda x, y: x.multiply(y).sum(axis=1))
    scale = a.deviation[left] * b.deviation[right]
    covariance = products - a.n_tokens * a.mean[left] * b.mean[right]
    r = np.divide(covariance, scale, out=np.full(len(left), np.nan), where=scale > 0)
    return np.asarray(r.clip(-1, 1))


def jaccard(
    a: SparseCodes, b: SparseCodes, left: Int64[np.ndarray, " n"], right: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Tokens on which both of two features fire over those on which one does, in [0, 1]; nan where neither fires.

    Raises:
        ValueError: if the tokens differ in number.
    """
    both = _paired(a, b, left, right, lambda x, y: ((x != 0).astype(np.float64).multiply(y != 0)).sum(axis=1))
    either = a.n_fired[left] + b.n_fired[right] - both
    return np.asarray(np.divide(both, either, out=np.full(len(left), np.nan), where=either > 0))


def _scaled(one: SparseCodes) -> tuple[sparse.csr_array, Float64[np.ndarray, " m"]]:
    """Rows that vary, divided by their deviation, and sqrt(T) times their means in that unit, in float64."""
    rows = one.varies
    inverse = 1 / one.deviation[rows]
    scaled = sparse.csr_array(one.codes[rows].astype(np.float64).multiply(inverse[:, None]))
    return scaled, np.asarray(one.mean[rows] * inverse * np.sqrt(one.n_tokens))


def _paired(
    a: SparseCodes,
    b: SparseCodes,
    left: Int64[np.ndarray, " n"],
    right: Int64[np.ndarray, " n"],
    combine: Callable[[sparse.csr_array, sparse.csr_array], np.ndarray],
) -> Float64[np.ndarray, " n"]:
    """One number for each pair of features, in float64."""
    check_tokens(a, b)
    out = np.empty(len(left))
    for start in range(0, len(left), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        out[part] = combine(a.codes[left[part]].astype(np.float64), b.codes[right[part]].astype(np.float64))
    return out
