"""What the theory of identifiability asks of a dictionary, and whether SAEs do what it promises.

Part of the *synthetic* stage. Song et al. 2025, section 3, rest on Hillar & Sommer 2015: when any 2k features are
linearly independent (``spark > 2k``), no sample has two k-sparse codes.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from sae_core.architectures.base import Sae
from sae_core.matching.directions import as_matrix, rows_with_direction, unit_rows
from sae_core.synthetic.results import Premises, RoundTrip
from sae_core.synthetic.round_trips import spread_codes, through_best_sets, through_sae, through_truth

ALL_SETS = 20_000
"""Up to so many sets of 2k features all are looked at; of more, ``SAMPLED_SETS``."""
SAMPLED_SETS = 5_000
DEPENDENT = 1e-6
"""Features are linearly dependent when the smallest singular value of their unit rows is not above this: ten times the
rounding of float32, in which dictionaries are kept."""
_SETS_AT_ONCE = 1024


def premises(
    dictionary: Float[Tensor | np.ndarray, "d_gt d_in"],
    draw_values: Callable[[int, int], Float[np.ndarray, "n k"]],
    k: int,
    saes: Sequence[Sae],
    n_codes: int,
    seed: int,
) -> Premises:
    """Coherence and spark of the true dictionary, and round trips of k-sparse codes through it and through SAEs.

    Sets of k active features are uniformly random; the SAEs' are sets of their own features.

    Args:
        dictionary: the true one; its rows are taken as unit directions.
        draw_values: of a number and a seed, so many codes of k active features each, positive, as in the data.
        k: features active in a code.
        saes: trained, at least one; each gets codes of its own.
        n_codes: codes for the truth, and for each SAE.
        seed: of codes and of the sample of sets.

    Raises:
        ValueError: if there is no code or no SAE, k is impossible, an SAE has another width, values have another
            shape, or a row of the dictionary is not finite or zero.
    """
    unit = _unit(dictionary)
    _check(unit, k, saes, n_codes)
    coherence, closest = mutual_coherence(unit)
    smallest, n_sets, all_sets = smallest_singular_value(unit, 2 * k, closest, seed)

    def values(number: int) -> tuple[Float[np.ndarray, "n k"], np.random.Generator]:
        """Codes for the truth (0) or an SAE, and where randomness for their features comes from."""
        of_values, of_features = np.random.SeedSequence([seed, number]).generate_state(2).tolist()
        drawn = draw_values(n_codes, of_values)
        if drawn.shape != (n_codes, k):
            raise ValueError(f"expected values of shape ({n_codes}, {k}), got {drawn.shape}; draw k values a code")
        return drawn, np.random.default_rng(of_features)

    drawn, rng = values(0)
    truth, codes = torch.from_numpy(unit), spread_codes(drawn, len(unit), rng)
    return Premises(
        mutual_coherence=coherence,
        # Never more than all features are active: that caps the bound of orthogonal features, which have none.
        coherence_bound=min((1 + 1 / coherence) / 2, len(unit) + 1.0) if coherence > 0 else len(unit) + 1.0,
        smallest_singular_value=smallest,
        n_sets=n_sets,
        all_sets=all_sets,
        spark_condition=False if smallest == 0 else (True if all_sets else None),
        truth=through_truth(truth, k, codes),
        truth_exhaustive=through_best_sets(truth, k, codes),
        learned=_mean([through_sae(sae, *values(number)) for number, sae in enumerate(saes, start=1)]),
    )


def mutual_coherence(unit: Float64[np.ndarray, "d_gt d_in"]) -> tuple[float, tuple[int, int]]:
    """Largest absolute cosine of two of the unit rows, in [0, 1], and which two; 0 for a single row."""
    if len(unit) == 1:
        return 0.0, (0, 0)
    cosine = np.abs(unit @ unit.T)
    np.fill_diagonal(cosine, -1.0)
    i, j = divmod(int(cosine.argmax()), len(unit))
    return min(1.0, float(cosine[i, j])), (i, j)


def smallest_singular_value(
    unit: Float64[np.ndarray, "d_gt d_in"], size: int, closest: tuple[int, int], seed: int
) -> tuple[float, int, bool]:
    """Smallest singular value over sets of so many unit rows, how many sets were looked at, and whether these are all.

    0 when rows are linearly dependent (see ``DEPENDENT``), as more rows than dimensions always are: that is known
    of all sets. Larger sets than there are rows are the set of all rows. One set of a sample holds the two most similar
    rows, so that a duplicate is never overlooked.

    Args:
        size: rows in a set. A smaller set never has a smaller singular value.
        closest: the two most similar rows.
        seed: of the sample, taken when there are more sets than ``ALL_SETS``.
    """
    d_gt, d_in = unit.shape
    size = min(size, d_gt)
    n_all = comb(d_gt, size)
    if size > d_in:
        return 0.0, n_all, True
    all_sets = n_all <= ALL_SETS
    sets = np.array(list(combinations(range(d_gt), size))) if all_sets else _sample(d_gt, size, closest, seed)
    starts = range(0, len(sets), _SETS_AT_ONCE)
    found = [np.linalg.svd(unit[sets[i : i + _SETS_AT_ONCE]], compute_uv=False)[:, -1].min() for i in starts]
    smallest = float(min(found))
    return smallest if smallest > DEPENDENT else 0.0, len(sets), all_sets


def _sample(d_gt: int, size: int, closest: tuple[int, int], seed: int) -> Int64[np.ndarray, "sets size"]:
    """Different random sets of rows, the first two most similar rows in one of them."""
    order = np.random.default_rng(seed).random((SAMPLED_SETS, d_gt))
    order[0, list(closest)] = -1.0
    return np.unique(np.sort(order.argpartition(size - 1, axis=1)[:, :size], axis=1), axis=0)


def _unit(dictionary: Float[Tensor | np.ndarray, "d_gt d_in"]) -> Float64[np.ndarray, "d_gt d_in"]:
    name = "the ground truth"
    matrix, kept = as_matrix(dictionary, name), rows_with_direction(dictionary, name)
    if len(kept) < len(matrix):
        zero = sorted(set(range(len(matrix))) - set(kept.tolist()))
        raise ValueError(
            f"{name}: row {zero[0]} is zero, {len(zero)} of {len(matrix)} rows are; a feature has a direction"
        )
    return unit_rows(matrix, torch.from_numpy(kept)).cpu().numpy()


def _check(unit: Float64[np.ndarray, "d_gt d_in"], k: int, saes: Sequence[Sae], n_codes: int) -> None:
    d_gt, d_in = unit.shape
    if not 1 <= k <= d_gt:
        raise ValueError(f"k features are active, of the {d_gt} there are: got k={k}; change it")
    if n_codes < 1:
        raise ValueError(f"a round trip needs at least one code: got n_codes={n_codes}; raise it")
    if not saes:
        raise ValueError("a round trip through SAEs needs at least one: got none; pass those that were trained")
    for number, sae in enumerate(saes):
        if sae.d_in != d_in:
            raise ValueError(
                f"SAE {number} and the ground truth must have the same d_in: got {sae.d_in} and {d_in}; pass SAEs that "
                "were trained on these data"
            )


def _mean(found: Sequence[RoundTrip]) -> RoundTrip:
    return RoundTrip(
        n_codes=found[0].n_codes,
        same_support=float(np.mean([one.same_support for one in found])),
        error=float(np.mean([one.error for one in found])),
    )
