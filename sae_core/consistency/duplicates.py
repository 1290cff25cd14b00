"""Duplicates inside one dictionary, and the dictionary without them: a part of *consistency*.

A run that holds a feature twice can match only one copy to another run's single one, so duplicates lower PW-MCC
without the runs having found different things.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from sae_core.consistency.neighbour_kernels import nearest_both_ways
from sae_core.encoder_products import linear
from sae_core.matching import rows_with_direction, unit_rows

_BLOCK_ENTRIES = 1 << 22
"""Cosines in one block of the product: 16 MB."""
_LEAST_BLOCK_ROWS = 256
"""With fewer rows in a block the product waits for memory."""
_SIGN_ROUNDS = 100


@dataclass(frozen=True)
class Duplicates:
    """Which features of one dictionary point the same way, up to sign."""

    threshold: float
    nearest: Float64[np.ndarray, " n"]
    """Largest absolute cosine of each feature with another of the same dictionary, in [0, 1]; nan for rows of zeros,
    and for the only feature with a direction."""
    nearest_feature: Int64[np.ndarray, " n"]
    """That other feature, the first of equals; -1 where there is none."""
    group: Int64[np.ndarray, " n"]
    """Number of the group of features that are connected by absolute cosines above the threshold, by first member;
    a feature on its own is a group too; -1 for rows of zeros."""

    @property
    def n_groups(self) -> int:
        """Features that are left when duplicates count once."""
        return int(self.group.max()) + 1

    @property
    def n_duplicates(self) -> int:
        """Features that have another one above the threshold."""
        return int((np.bincount(self.group[self.group >= 0])[self.group[self.group >= 0]] > 1).sum())

    @property
    def uniqueness(self) -> float:
        """Groups over features with a direction, in (0, 1]; 1 without duplicates."""
        return self.n_groups / int((self.group >= 0).sum())


def find_duplicates(
    W: Float[Tensor | np.ndarray, "n d_in"], threshold: float = 0.95, name: str = "dictionary"
) -> Duplicates:
    """Nearest other feature of each feature, and the groups of duplicates.

    One blocked product of the dictionary with itself, half of it by symmetry; memory is linear in the features.

    Args:
        W: one feature a row.
        threshold: absolute cosine above which two features are duplicates, in (0, 1).
        name: what the errors call the dictionary.

    Raises:
        ValueError: if the threshold is not in (0, 1); if ``W`` is no matrix, has a row that is not finite, or only rows
            of zeros.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"{name}: duplicates have a cosine above a threshold in (0, 1): got {threshold}")
    kept = rows_with_direction(W, name)
    unit = unit_rows(torch.as_tensor(W).detach(), torch.from_numpy(kept), torch.float32)
    nearest_feature, label = _scan(unit, threshold)
    nearest = np.full(len(kept), np.nan)
    if len(kept) > 1:
        partner = unit[torch.from_numpy(nearest_feature).to(unit.device)]
        nearest = torch.linalg.vecdot(unit.double(), partner.double()).abs().clamp_max(1).cpu().numpy()
    return Duplicates(
        threshold=threshold,
        nearest=_at(kept, nearest, len(W), np.nan),
        nearest_feature=_at(kept, kept[nearest_feature] if len(kept) > 1 else np.full(1, -1), len(W), -1),
        group=_at(kept, _by_first_member(label), len(W), -1),
    )


def merge_duplicates(
    W: Float[Tensor | np.ndarray, "n d_in"], duplicates: Duplicates
) -> Float64[np.ndarray, "groups d_in"]:
    """The dictionary with one unit row a group: the mean direction of its members, each with the sign that makes the
    mean longest. Rows of zeros are left out. Groups are in the order of their first members.

    Raises:
        ValueError: if the duplicates are those of another dictionary.
    """
    if len(W) != len(duplicates.group):
        raise ValueError(
            f"the duplicates are those of a dictionary of {len(duplicates.group)} features, this one has {len(W)}; "
            "find the duplicates of this one"
        )
    kept = np.flatnonzero(duplicates.group >= 0)
    unit = unit_rows(torch.as_tensor(W).detach(), torch.from_numpy(kept)).cpu().numpy()
    group = duplicates.group[kept]
    _, first = np.unique(group, return_index=True)
    merged = unit[first]
    shared = np.flatnonzero(np.bincount(group)[group] > 1)
    if len(shared) == 0:
        return merged
    members, of = unit[shared], group[shared]
    sign = np.zeros(len(shared))
    for _ in range(_SIGN_ROUNDS):  # every round makes the sums longer, so it ends
        flipped = np.where(np.einsum("ij,ij->i", members, merged[of]) < 0, -1.0, 1.0)
        if (flipped == sign).all():
            break
        sign = flipped
        merged[of] = 0
        np.add.at(merged, of, sign[:, None] * members)
    merged[of] /= np.linalg.norm(merged[of], axis=1, keepdims=True)
    return merged


def _scan(unit: Float[Tensor, "n d_in"], threshold: float) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Nearest other row of each row, and a label of its connected group."""
    n = len(unit)
    best, nearest, label = np.full(n, -1.0, np.float32), np.zeros(n, np.int64), np.arange(n)
    no_bias = torch.zeros(n, device=unit.device)
    size = min(2048, max(_LEAST_BLOCK_ROWS, _BLOCK_ENTRIES // n))
    for start in range(0, n, size):
        stop = min(n, start + size)
        # Columns before the block were seen when they were rows.
        cosine = _products(unit[start:stop], unit[start:], no_bias[start:])
        above = np.zeros(stop - start, bool)
        nearest_both_ways(cosine, start, np.float32(threshold), best, nearest, above)
        if above.any():
            label = _joined(label, cosine, start, np.flatnonzero(above), threshold)
    return nearest, label


def _products(a: Tensor, b: Tensor, no_bias: Tensor) -> Float32[np.ndarray, "r c"]:
    product = linear(a, b, no_bias) if a.device.type == "cpu" else a @ b.T
    return np.asarray(product.cpu().numpy())


def _joined(
    label: Int64[np.ndarray, " n"], cosine: Float32[np.ndarray, "r c"], start: int, rows: np.ndarray, threshold: float
) -> Int64[np.ndarray, " n"]:
    """Labels after joining what the rows of a block have above the threshold; a label is a number of a feature."""
    row, column = np.nonzero(np.abs(cosine[rows]) > np.float32(threshold))
    left, right = label[start + rows[row]], label[start + column]
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(len(label), len(label)))
    _, component = connected_components(graph, directed=False)
    return np.asarray(component[label], np.int64)


def _by_first_member(label: np.ndarray) -> Int64[np.ndarray, " n"]:
    """Groups numbered 0, 1, ... in the order of their first members."""
    _, first, inverse = np.unique(label, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return np.asarray(rank[inverse])


def _at(places: np.ndarray, values: np.ndarray, n: int, elsewhere: int | float) -> np.ndarray:
    out = np.full(n, elsewhere, values.dtype)
    out[places] = values
    return out
