"""Features as directions: rows of a dictionary checked and scaled to unit length. A part of *consistency*."""

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

_CHUNK = 256
"""Rows converted to float64 at a time: few enough to stay in cache."""


def as_matrix(W: Float[Tensor | np.ndarray, "..."], name: str) -> Tensor:
    """The dictionary as a tensor that shares its memory.

    Raises:
        ValueError: if it is no matrix with at least one row and one column.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing here writes to it
        tensor = torch.as_tensor(W).detach()
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise ValueError(
            f"{name}: a dictionary is a matrix (features, d_in) with at least one row and one column: "
            f"got shape {tuple(tensor.shape)}"
        )
    return tensor


def check_width(a: Tensor, b: Tensor, names: tuple[str, str]) -> None:
    """Refuse dictionaries of different width.

    Raises:
        ValueError: if the widths differ.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"dictionaries must have the same d_in: {names[0]} has {a.shape[1]}, {names[1]} has {b.shape[1]}; "
            "compare runs that were trained on the same activations"
        )


def rows_with_direction(W: Float[Tensor | np.ndarray, "..."], name: str) -> Int64[np.ndarray, " m"]:
    """Indices of the rows that are not zero.

    Raises:
        ValueError: if ``W`` is no matrix, has a row that is not finite, or only rows of zeros.
    """
    kept = np.flatnonzero(has_direction(as_matrix(W, name), name))
    if len(kept) == 0:
        raise ValueError(f"{name}: all {len(W)} rows are zero, so no feature has a direction; check the weights")
    return kept


def has_direction(W: Float[Tensor, "n d_in"], name: str) -> np.ndarray:
    """For each row whether it is not zero.

    Raises:
        ValueError: if a row is not finite.
    """
    largest = torch.cat([W[chunk].abs().amax(dim=1) for _, chunk in _chunks(len(W))]).cpu()
    finite = torch.isfinite(largest)  # amax hands NaN on
    if not finite.all():
        bad = (~finite).nonzero().flatten()
        raise ValueError(
            f"{name}: row {int(bad[0])} is not finite (NaN or infinite), {len(bad)} of {len(W)} rows are; "
            "this SAE did not train properly: leave it out or train it again"
        )
    found: np.ndarray = (largest > 0).numpy()
    return found


def unit_rows(
    W: Float[Tensor, "n d_in"], rows: Int64[Tensor, " m"], dtype: torch.dtype = torch.float64
) -> Float[Tensor, "m d_in"]:
    """The chosen rows scaled to unit length in float64, returned in ``dtype``."""
    out = torch.empty(len(rows), W.shape[1], dtype=dtype, device=W.device)
    write_unit_rows(W, rows, out)
    return out


def write_unit_rows(
    W: Float[Tensor, "n d_in"], rows: Int64[Tensor, " m"], out: Float[Tensor, "m d_in"], length: float = 1.0
) -> None:
    """The same, into a tensor that is there, with rows of another length if wanted."""
    for start, chunk in _chunks(len(rows)):
        x = _scaled(W[rows[chunk].to(W.device)])
        out[start : start + len(x)] = x / (torch.linalg.vecdot(x, x).sqrt()[:, None] / length)


def paired_cosines(
    a: Float[Tensor, "n_a d_in"],
    b: Float[Tensor, "n_b d_in"],
    left: Int64[np.ndarray, " n"],
    right: Int64[np.ndarray, " n"],
) -> Float64[np.ndarray, " n"]:
    """Cosine, in float64, of each row ``left`` of ``a`` with the row ``right`` of ``b`` at its place."""
    rows_a, rows_b = torch.from_numpy(left).to(a.device), torch.from_numpy(right).to(b.device)
    out = np.empty(len(left))
    for start, chunk in _chunks(len(left)):
        x, y = _scaled(a[rows_a[chunk]]), _scaled(b[rows_b[chunk]]).to(a.device)
        norms = torch.linalg.vecdot(x, x) * torch.linalg.vecdot(y, y)
        cosine = torch.linalg.vecdot(x, y) / norms.sqrt()
        out[start : start + len(cosine)] = cosine.clamp(-1, 1).cpu().numpy()
    return out


def _scaled(x: Tensor) -> Tensor:
    """Rows in float64, divided by their largest entry where squares could overflow or vanish otherwise."""
    if x.dtype != torch.float64:
        return x.double()
    return x / x.abs().amax(dim=1, keepdim=True)


def _chunks(n: int) -> Iterator[tuple[int, slice]]:
    for start in range(0, n, _CHUNK):
        yield start, slice(start, start + _CHUNK)
