"""Which contexts a share of them consists of: a matter of the context's number and a seed alone. Beside *shards*.

So no list of contexts is kept, however many there are.
"""

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray


def is_drawn(context_ids: Int64[ndarray, " n"], fraction: float, seed: int) -> Bool[ndarray, " n"]:
    """Whether each context is in the share drawn; each with probability ``fraction``, independent of the others.

    With one seed, what a smaller fraction draws is part of what a larger one draws.
    """
    first = _mixed(np.array([seed], np.uint64))
    return _mixed(context_ids.astype(np.uint64) ^ first) >> np.uint64(11) < np.uint64(fraction * 2**53)


def _mixed(numbers: ndarray) -> ndarray:
    """One step of SplitMix64 (Steele et al. 2014): every bit of the result depends on every bit of the number."""
    z = numbers + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: ndarray = z ^ (z >> np.uint64(31))
    return mixed
