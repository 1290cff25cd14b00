"""Features that fire together: a Gaussian copula of low rank. Part of the *synthetic* stage.

Every feature has a normal variable of its own; they have the correlation matrix ``R = U' U'^T + own^2 I`` with
``U' = sqrt(strength) U`` and ``own^2 = 1 - strength``. All features are looked at for every sample.
"""

from typing import final

import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray
from numpy.random import Generator
from scipy.special import log_ndtr, ndtri

from sae_core.synthetic.firing import Fired, Firing


class Copula:
    """Normal variables of ``d_gt`` features, correlated as ``strength U U^T + (1 - strength) I``."""

    def __init__(self, d_gt: int, rank: int, strength: float, rng: Generator):
        U = rng.standard_normal((d_gt, rank))
        U /= np.linalg.norm(U, axis=1, keepdims=True)
        self.loadings: Float64[ndarray, "d_gt rank"] = np.sqrt(strength) * U
        """Off the diagonal, ``loadings @ loadings.T`` is the correlation matrix."""
        self.own = float(np.sqrt(1 - strength))

    def draw(self, n: int, rng: Generator) -> Float32[ndarray, "n d_gt"]:
        """Standard normal variables of ``n`` samples."""
        shared = rng.standard_normal((n, self.loadings.shape[1]), np.float32)
        found = rng.standard_normal((n, len(self.loadings)), np.float32)
        found *= np.float32(self.own)
        for column, loading in zip(shared.T, self.loadings.T.astype(np.float32), strict=True):
            found += column[:, None] * loading  # one by one: a matrix product may round as the threads divide it
        return found


@final
class CorrelatedProbabilities(Firing):
    """A feature fires where its normal variable is above a threshold, so that its own probability is exact."""

    def __init__(self, probability: Float64[ndarray, " d_gt"], copula: Copula):
        self.probability, self.cells = probability, len(probability)
        self.copula, self._threshold = copula, -ndtri(probability).astype(np.float32)

    def draw(self, n: int, rng: Generator) -> Fired:
        """As the class says."""
        fires = self.copula.draw(n, rng) > self._threshold
        return Fired(*np.divmod(np.flatnonzero(fires), fires.shape[1]))


@final
class CorrelatedRanks(Firing):
    """The k features with the largest score: logarithm of the weight plus a Gumbel variable, made from the normal one.

    With independent variables these are k features drawn one after the other without replacement, in proportion to
    their weights (Yellott 1977).
    """

    probability = None

    def __init__(self, weight: Float64[ndarray, " d_gt"], k: int, copula: Copula):
        self.copula, self._k, self.cells = copula, k, len(weight)
        self._equal = weight[0] == weight[-1]
        self._log_weight = np.log(weight).astype(np.float32)

    def draw(self, n: int, rng: Generator) -> Fired:
        """As the class says."""
        score = self.copula.draw(n, rng)
        if not self._equal:  # else the Gumbel variables have the order of the normal ones
            score = self._log_weight - np.log(-log_ndtr(score))
        feature = np.sort(np.argpartition(score, -self._k, axis=1)[:, -self._k :], axis=1)
        return Fired(np.repeat(np.arange(n), self._k), feature.ravel())
