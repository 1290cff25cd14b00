"""Which features fire on a sample: a class for every kind, which draws many samples at once. Part of *synthetic*.

All but the correlated kinds take time in proportion to the features that fire, not to those there are.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from numpy.random import Generator

from sae_core.synthetic.successive_kernels import draw_without_replacement

_OFTEN = 0.5
"""Features with a larger probability are drawn sample by sample."""


class Fired(NamedTuple):
    """Where features fired: sorted by sample, and by feature within a sample; no pair is there twice."""

    sample: Int64[ndarray, " nnz"]
    feature: Int64[ndarray, " nnz"]


class Firing(ABC):
    """A law of which features fire."""

    probability: Float64[ndarray, " d_gt"] | None
    """Of each feature to fire on a sample; None where no formula is known."""
    cells: float
    """About how many numbers are drawn for a sample."""

    @abstractmethod
    def draw(self, n: int, rng: Generator) -> Fired:
        """What fires on ``n`` samples."""


@final
class Independent(Firing):
    """Every feature by itself, with its own probability."""

    def __init__(self, probability: Float64[ndarray, " d_gt"]):
        self.probability = probability
        often = probability > _OFTEN
        self._often, self._probability_often = np.flatnonzero(often), probability[often]
        rate = -np.log1p(-np.where(often, 0, probability))
        self._ends = np.cumsum(rate)
        self._last = int(np.flatnonzero(rate).max(initial=0))
        self.cells = 2 * self._ends[-1] + len(self._often)

    def draw(self, n: int, rng: Generator) -> Fired:
        """As a Poisson process whose points hit pairs of a sample and a feature: hit once or more, the feature fires.

        With the rate ``-log(1 - p)`` that has probability p, for every pair by itself.
        """
        d_gt, end = len(self._ends), self._ends[-1]
        n_points = rng.poisson(n * end)
        feature = np.searchsorted(self._ends, end * rng.random(n_points), side="right")
        # Rounding may put a point on the end of the line, behind the last feature that has a part in it.
        pairs = rng.integers(n, size=n_points) * d_gt + np.minimum(feature, self._last)
        sample, often = np.nonzero(rng.random((n, len(self._often))) < self._probability_often)
        return sorted_pairs(np.concatenate([pairs, sample * d_gt + self._often[often]]), d_gt)


@final
class ExactlyK(Firing):
    """k features, drawn one after the other without replacement, in proportion to their weights."""

    def __init__(self, weight: Float64[ndarray, " d_gt"], k: int):
        """``weight`` must fall with the number of the feature."""
        self._tail, self._k = np.append(np.cumsum(weight[::-1])[::-1], 0), k
        self.probability = np.full(len(weight), k / len(weight)) if weight[0] == weight[-1] else None
        self.cells = k

    def draw(self, n: int, rng: Generator) -> Fired:
        """As the class says."""
        feature = np.empty((n, self._k), np.int64)
        draw_without_replacement(rng.random((n, self._k)), self._tail, feature)
        return Fired(np.repeat(np.arange(n), self._k), feature.ravel())


@final
class OneOfGroup(Firing):
    """Groups fire, and of a group that does one feature, in proportion to the weights within it.

    The best Gumbel score of a group is distributed as that of one feature with the weights added, whichever of them it
    is. So drawing k features by the k best groups is drawing k groups by their weights.
    """

    def __init__(self, weight: Float64[ndarray, "n_groups group_size"], groups: Firing):
        share = weight / weight.sum(1, keepdims=True)
        self._groups, self._group_size = groups, weight.shape[1]
        # Group g has the stretch from g to g + 1.
        self._ends = (np.arange(len(weight))[:, None] + np.cumsum(share, axis=1)).ravel()
        of_group = groups.probability
        self.probability = None if of_group is None else (of_group[:, None] * share).ravel()
        self.cells = 2 * groups.cells

    def draw(self, n: int, rng: Generator) -> Fired:
        """As the class says."""
        sample, group = self._groups.draw(n, rng)
        found = np.searchsorted(self._ends, group + rng.random(len(group)), side="right")
        first = group * self._group_size
        return Fired(sample, np.clip(found, first, first + self._group_size - 1))


def sorted_pairs(pairs: Int64[ndarray, " n"], d_gt: int) -> Fired:
    """The different pairs among these, which are numbered ``sample * d_gt + feature``."""
    pairs = np.sort(pairs)
    first = np.ones(len(pairs), np.bool_)
    np.not_equal(pairs[1:], pairs[:-1], out=first[1:])
    sample, feature = np.divmod(pairs[first], d_gt)
    return Fired(sample, feature)
