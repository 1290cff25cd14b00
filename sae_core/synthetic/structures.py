"""From settings to the law of which features fire. Part of the *synthetic* stage."""

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from numpy.random import Generator

from sae_core.synthetic.copulas import Copula, CorrelatedProbabilities, CorrelatedRanks
from sae_core.synthetic.firing import ExactlyK, Firing, Independent, OneOfGroup
from sae_core.synthetic.forests import Forest
from sae_core.synthetic.frequencies import probabilities
from sae_core.synthetic_config import Correlated, Exclusive, Hierarchical, SyntheticConfig


def firing(config: SyntheticConfig, weight: Float64[ndarray, " d_gt"], rng: Generator) -> Firing:
    """Which features fire, with these weights.

    Args:
        weight: as ``weights`` makes it.
        rng: of what is random in the structure itself.

    Raises:
        ValueError: if exclusive features would have to fire more often than on every sample.
    """
    structure, exactly, k = config.structure, config.support == "exactly", config.k
    if isinstance(structure, Correlated):
        copula = Copula(config.d_gt, structure.rank, structure.strength, rng)
        if exactly:
            return CorrelatedRanks(weight, k, copula)
        return CorrelatedProbabilities(probabilities(weight, k), copula)
    if isinstance(structure, Hierarchical):
        return Forest(weight, k, structure.n_roots, structure.branching)
    if isinstance(structure, Exclusive):
        of_group = weight.reshape(-1, structure.group_size)
        if exactly:
            return OneOfGroup(of_group, ExactlyK(of_group.sum(1), k))
        return OneOfGroup(of_group, Independent(_of_groups(probabilities(weight, k), structure.group_size)))
    return ExactlyK(weight, k) if exactly else Independent(probabilities(weight, k))


def _of_groups(probability: Float64[ndarray, " d_gt"], group_size: int) -> Float64[ndarray, " n_groups"]:
    found = probability.reshape(-1, group_size).sum(1)
    if found[0] > 1 + 1e-9:
        raise ValueError(
            f"at most one feature of an exclusive group fires, so its probabilities may add up to 1 at most: those of "
            f"the first {group_size} features add up to {found[0]:.4g}; lower k, group_size or the exponent"
        )
    return np.asarray(np.minimum(1, found))
