"""How often each true feature fires: weights, and probabilities that follow them. Part of the *synthetic* stage."""

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from sae_core.synthetic_config import Frequency, TwoPhaseZipfFrequency, ZipfFrequency


def weights(frequency: Frequency, d_gt: int) -> Float64[ndarray, " d_gt"]:
    """Relative firing frequencies: they fall with the number of the feature, and add up to 1.

    Raises:
        ValueError: if the rarest feature has a weight of zero, because the exponent is so large.
    """
    rank = np.arange(1, d_gt + 1, dtype=np.float64)
    if isinstance(frequency, ZipfFrequency):
        if frequency.n_groups is not None:
            rank = 1 + (rank - 1) // (d_gt // frequency.n_groups)
        weight = rank**-frequency.exponent
    elif isinstance(frequency, TwoPhaseZipfFrequency):
        head = np.minimum(rank, frequency.break_rank)
        weight = head**-frequency.exponent * (rank / head) ** -frequency.tail_exponent
    else:
        weight = np.ones(d_gt)
    if weight[-1] == 0:
        raise ValueError(
            f"the rarest of {d_gt} features has weight zero in double precision under {frequency!r}; lower its exponent"
        )
    return np.asarray(weight / weight.sum())


def probabilities(weight: Float64[ndarray, " d_gt"], k: int) -> Float64[ndarray, " d_gt"]:
    """Probabilities ``min(1, c w)`` that add up to ``k``.

    Args:
        weight: positive, and falling.
        k: at most ``d_gt``, so that there is such a ``c``.
    """
    # The more features are certain, the more of k is left to few: as few as possible, so that no other exceeds 1.
    left = np.cumsum(weight[::-1])[::-1]
    n_certain = np.arange(len(weight))
    fits = (k - n_certain) * weight <= left
    n_first = int(np.argmax(fits)) if k < len(weight) else len(weight)
    found = np.ones(len(weight))
    if n_first < len(weight):
        found[n_first:] = np.minimum(1, (k - n_first) * weight[n_first:] / left[n_first])
    return found
