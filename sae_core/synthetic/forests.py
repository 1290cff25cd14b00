"""Features that stand in trees: a child fires only where its parent does. Part of the *synthetic* stage."""

from typing import final

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from numpy.random import Generator

from sae_core.synthetic.firing import Fired, Firing, Independent, sorted_pairs
from sae_core.synthetic.frequencies import probabilities


@final
class Forest(Firing):
    """Feature i has the children ``n_roots + branching * i`` and on; they can fire only where it does."""

    def __init__(self, weight: Float64[ndarray, " d_gt"], k: int, n_roots: int, branching: int):
        """Where its parent fires, a feature does with probability ``min(1, c w)``; c is such that k fire on average."""
        self._n_roots, self._branching, self.cells = n_roots, branching, len(weight)
        self.conditional = self._scaled(weight, k)
        """Probability of each feature where its parent fires."""
        self.probability = self._product(self.conditional)

    def draw(self, n: int, rng: Generator) -> Fired:
        """From the roots down, where a parent fired."""
        d_gt = len(self.conditional)
        level = Independent(self.conditional[: self._n_roots]).draw(n, rng)
        pairs = []
        while len(level.sample):
            pairs.append(level.sample * d_gt + level.feature)
            child = self._n_roots + self._branching * level.feature[:, None] + np.arange(self._branching)
            sample = np.broadcast_to(level.sample[:, None], child.shape)[child < d_gt]
            child = child[child < d_gt]
            fires = rng.random(len(child)) < self.conditional[child]
            level = Fired(sample[fires], child[fires])
        return sorted_pairs(np.concatenate(pairs) if pairs else np.empty(0, np.int64), d_gt)

    def _product(self, conditional: Float64[ndarray, " d_gt"]) -> Float64[ndarray, " d_gt"]:
        """Probability that a feature and all above it fire."""
        found: Float64[ndarray, " d_gt"] = conditional.copy()
        start, end = self._n_roots, self._n_roots * (1 + self._branching)
        while start < len(found):  # a level after the other: the one above is complete
            children = np.arange(start, min(end, len(found)))
            found[children] *= found[(children - self._n_roots) // self._branching]
            start, end = end, self._n_roots + self._branching * end
        return found

    def _scaled(self, weight: Float64[ndarray, " d_gt"], k: int) -> Float64[ndarray, " d_gt"]:
        # Without the condition more would fire, so c is at least what it would be then; at 1 / smallest weight all do.
        low, high = np.log(probabilities(weight, k)[-1] / weight[-1]), -np.log(weight[-1])
        for _ in range(100):
            middle = (low + high) / 2
            too_many = self._product(np.minimum(1, np.exp(middle) * weight)).sum() > k
            low, high = (low, middle) if too_many else (middle, high)
        return np.asarray(np.minimum(1, np.exp(high) * weight))
