"""Whether sparse codes survive decoding and encoding: ``encode(decode(f)) = f``. Part of the *synthetic* stage.

Encoders of a known dictionary, from the simplest to the best there is, stand beside those that were trained.
"""

from collections.abc import Callable
from itertools import combinations
from math import comb

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_core.architectures.base import Sae
from sae_core.architectures.trainable import keep_largest
from sae_core.synthetic.results import RoundTrip

EXHAUSTIVE_SETS = 6_000
"""Up to so many sets of k features the best of all is looked for."""
_NEGATIVE = -1e-9
"""Least-squares codes below this are negative, those above are so by rounding."""
_ENTRIES = 1 << 22
"""Numbers that are computed at a time: 32 MB."""


def round_trip(
    encode: Callable[[Float[Tensor, "n d_in"]], Float[Tensor, "n d"]],
    decode: Callable[[Float[Tensor, "n d"]], Float[Tensor, "n d_in"]],
    codes: Float[Tensor, "n d"],
) -> RoundTrip:
    """Decode codes, encode what comes out, and compare.

    Args:
        encode: samples to codes.
        decode: codes to samples.
        codes: dense, not negative; a feature with a positive code is active.

    Raises:
        ValueError: if a code is negative or has no active feature: then there is nothing to compare with.
    """
    if not ((codes >= 0).all() and (codes > 0).any(dim=1).all()):
        raise ValueError("codes must not be negative and must have an active feature each; draw them again")
    with torch.no_grad():
        back = encode(decode(codes))
    same = ((back > 0) == (codes > 0)).all(dim=1)
    error = (back - codes).norm(dim=1) / codes.norm(dim=1)
    return RoundTrip(
        n_codes=len(codes),
        same_support=float(same.double().mean()),
        error=float(np.median(error.double().cpu().numpy())),
    )


def through_truth(dictionary: Float[Tensor, "d_gt d_in"], k: int, codes: Float[Tensor, "n d_gt"]) -> RoundTrip:
    """Round trip through a dictionary whose transpose encodes; the k largest codes are kept, if positive."""
    return round_trip(lambda x: keep_largest((x @ dictionary.T).relu(), k), lambda f: f @ dictionary, codes)


def through_best_sets(
    dictionary: Float[Tensor, "d_gt d_in"], k: int, codes: Float[Tensor, "n d_gt"]
) -> RoundTrip | None:
    """Round trip through a dictionary and the best of all sets of k features; None when there are too many sets."""
    if comb(len(dictionary), k) > EXHAUSTIVE_SETS:
        return None
    return round_trip(lambda x: best_set_codes(x, dictionary, k), lambda f: f @ dictionary, codes)


def best_set_codes(
    x: Float[Tensor, "n d_in"], dictionary: Float[Tensor, "d_gt d_in"], k: int
) -> Float[Tensor, "n d_gt"]:
    """Codes of the set of k features that explains each sample best: least squares over all sets.

    Codes are taken to be not negative, as those of an SAE are. A set whose least-squares solution has a negative entry
    is therefore not admissible, even if the rest of it would explain the sample well: fewer features than k are found
    as a set with zeros. A sample with no admissible set has no active feature.
    """
    sets = torch.tensor(list(combinations(range(len(dictionary)), k)), device=dictionary.device)
    rows = dictionary[sets]
    solve = torch.linalg.pinv(rows.transpose(1, 2)).flatten(0, 1).T  # (d_in, sets * k): x to all solutions
    products = rows.flatten(0, 1).T
    out = x.new_zeros(len(x), len(dictionary))
    size = max(1, _ENTRIES // solve.shape[1])
    for start in range(0, len(x), size):
        part = x[start : start + size]
        solutions = (part @ solve).reshape(-1, *sets.shape)
        # The squared residual is |x|^2 less what the set explains, which is <x, reconstruction>.
        explained = ((part @ products).reshape(-1, *sets.shape) * solutions).sum(dim=2)
        explained[(solutions < _NEGATIVE).any(dim=2)] = -torch.inf
        value, best = explained.max(dim=1)
        found = solutions[torch.arange(len(part)), best].clamp_min(0)
        found[value.isinf()] = 0
        out[start : start + size].scatter_(1, sets[best], found)
    return out


def through_sae(sae: Sae, values: Float[np.ndarray, "n k"], rng: np.random.Generator) -> RoundTrip:
    """Round trip through an SAE, of codes over random sets of its own features.

    A code is divided by the length of its feature's decoder row, so that samples are as large as those of the data
    however long the rows are: an SAE with biases or thresholds knows one scale.

    Raises:
        ValueError: if there are more active features than the SAE has.
    """
    codes = spread_codes(values, sae.d_sae, rng).to(sae.W_dec)
    length = sae.W_dec.detach().norm(dim=1)
    return round_trip(sae.encode, sae.decode, codes / torch.where(length > 0, length, 1.0))


def spread_codes(values: Float[np.ndarray, "n k"], d: int, rng: np.random.Generator) -> Float[Tensor, "n d"]:
    """Each row of values on a set of k of d features, all sets alike; float64.

    Raises:
        ValueError: if k is larger than d.
    """
    n, k = values.shape
    if k > d:
        raise ValueError(f"{k} features cannot be active where there are {d}; lower k, or take a larger SAE")
    features: Int64[np.ndarray, "n k"] = rng.random((n, d)).argsort(axis=1)[:, :k]
    codes = np.zeros((n, d))
    np.put_along_axis(codes, features, values.astype(np.float64), axis=1)
    return torch.from_numpy(codes)
