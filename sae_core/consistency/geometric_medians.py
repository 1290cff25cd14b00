"""Geometric medians of many small groups of vectors at once: the robust mean behind the consensus of runs.

The geometric median of some vectors has the smallest sum of distances to them. Up to half of them may be anything and
it stays near the others; unlike a median coordinate by coordinate it turns with its vectors, and in many dimensions
it wastes next to none of what the mean would know.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

_STEPS = 60
"""A fixed number, so that the result of a group does not depend on the others."""
_CLOSEST = 1e-7
"""Distances below this share of a vector's typical length count as this: where the median is one of its vectors."""
_CHUNK_ENTRIES = 1 << 22
"""Entries of the vectors that are held at a time: 32 MB."""


def geometric_weights(
    gram: Float[np.ndarray, "groups n n"], taking_part: Bool[np.ndarray, "groups n"]
) -> Float[np.ndarray, "groups n"]:
    """Weights, summing to one, with which the vectors of each group average to their geometric median.

    Weiszfeld's iteration from the mean, on inner products alone: the median is a weighted mean of its vectors, so
    their lengths and angles decide it. Two vectors give their mean. A group in which nothing takes part has weights 0.

    Args:
        gram: inner products of the vectors of each group.
        taking_part: vectors that count.
    """
    part = taking_part.astype(np.float64)
    squared = np.diagonal(gram, axis1=1, axis2=2)
    n = np.maximum(part.sum(axis=1, keepdims=True), 1)
    length = np.sqrt((squared * part).sum(axis=1, keepdims=True) / n)
    least = np.where(length > 0, _CLOSEST * length, 1.0)
    weights = part / n
    for _ in range(_STEPS):
        projected = (gram @ weights[:, :, None])[:, :, 0]
        distance = squared - 2 * projected + (weights * projected).sum(axis=1, keepdims=True)
        weights = part / np.maximum(np.sqrt(np.maximum(distance, 0)), least)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return np.asarray(weights)


def geometric_medians(
    vectors: Float[np.ndarray, "groups n d"], taking_part: Bool[np.ndarray, "groups n"]
) -> Float[np.ndarray, "groups d"]:
    """The geometric median of each group of vectors, in float64; zero where none takes part."""
    vectors = vectors.astype(np.float64, copy=False)
    weights = geometric_weights(vectors @ vectors.transpose(0, 2, 1), taking_part)
    return np.asarray((weights[:, None, :] @ vectors)[:, 0, :])


def chunks(n_groups: int, n_vectors: int, d: int) -> Iterator[slice]:
    """Groups a few at a time, so that their vectors fit into little memory."""
    size = max(1, _CHUNK_ENTRIES // (n_vectors * d))
    for start in range(0, n_groups, size):
        yield slice(start, min(n_groups, start + size))
