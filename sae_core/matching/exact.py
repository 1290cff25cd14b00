"""``match``: the exact matching of two dictionaries, small or large, of decoders or of decoders and encoders.

Rows of ``W_dec`` are normalised; the score of a pair of rows is the absolute cosine (or the signed one), and the
matching is the linear assignment optimum, rectangular allowed. Small problems go to scipy; large ones to
:mod:`sae_core.matching.sparse_assignment`, which never holds the n x n matrix and proves its answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sae_core.matching.assignment_budget import Budget
from sae_core.matching.directions import (
    as_matrix,
    check_width,
    has_direction,
    paired_cosines,
    rows_with_direction,
    write_unit_rows,
)
from sae_core.matching.results import JointMatching, Matching
from sae_core.matching.score_sources import ScoreSource, UnitRows, unit_row_scores
from sae_core.matching.sparse_assignment import Assignment, assign
from sae_core.progress import Progress, silent

Method = Literal["auto", "dense", "sparse"]

DENSE_PAIRS = 1 << 22
"""Up to so many pairs of rows, 2048 x 2048, scipy on the full matrix takes a third of a second: less than it takes to
compile the sparse solver once."""
_DENSE_BYTES = 16
"""Memory of one pair for scipy: its score, and a copy."""


def match(
    W_a: Float[Tensor | np.ndarray, "n_a d_a"],
    W_b: Float[Tensor | np.ndarray, "n_b d_b"],
    signed: bool = False,
    tolerance: float = 1e-6,
    method: Method = "auto",
    names: tuple[str, str] = ("left", "right"),
    *,
    time_budget_s: float | None = None,
    memory_budget_bytes: int | None = None,
    progress: Progress = silent,
) -> Matching:
    """Match the rows of two dictionaries one to one so that the mean absolute cosine is as large as possible.

    The value is MCC of Song et al. 2025 (arXiv 2505.20254, eq. 3): symmetric, unchanged when features are permuted,
    scaled or flipped, or when both dictionaries are rotated together. The mean is over ``min(n_a, n_b)`` pairs, rows
    of zeros left out and counted.

    Args:
        W_a: one feature a row, any floating dtype, on any device; the products run on that of ``W_a``.
        W_b: likewise, as wide.
        signed: maximise the cosine itself; the released code of the paper does so, its text does not.
        tolerance: gap between the matching and the proven bound that counts as exact.
        method: ``dense`` (scipy, which cannot be stopped), ``sparse`` (memory-bounded), or ``auto``: dense for small
            problems, which take less than a second.
        names: what the errors call the two dictionaries.
        time_budget_s: after so many seconds the search stops with a complete matching and an upper bound; the result
            says so in ``stopped``. The compilation of the first call counts too.
        memory_budget_bytes: what may be taken above the dictionaries; fewer candidates are listed to stay below it.
        progress: told how many rows were multiplied and matched, and about the rounds of the certificate.

    Raises:
        ValueError: if the dictionaries are not matrices of equal width, if a row is not finite (the message names
            dictionary and row), if a dictionary has no row with a direction, if a budget is given for ``dense``, or if
            the memory budget is too small to begin with.
    """
    budget = Budget(time_budget_s, memory_budget_bytes, progress)
    a, b = (as_matrix(W, name) for W, name in zip((W_a, W_b), names, strict=True))
    check_width(a, b, names)
    kept_a, kept_b = rows_with_direction(a, names[0]), rows_with_direction(b, names[1])
    found = _assign(_Side([a], kept_a), _Side([b], kept_b), signed, tolerance, method, budget)
    cosine = paired_cosines(a, b, kept_a[found.left], kept_b[found.right])
    return _matching(found, (kept_a, kept_b), (len(a), len(b)), cosine, signed, tolerance)


def match_joint(
    W_dec_a: Float[Tensor | np.ndarray, "n_a d_out_a"],
    W_enc_a: Float[Tensor | np.ndarray, "d_in_a n_a_too"],
    W_dec_b: Float[Tensor | np.ndarray, "n_b d_out_b"],
    W_enc_b: Float[Tensor | np.ndarray, "d_in_b n_b_too"],
    signed: bool = False,
    tolerance: float = 1e-6,
    method: Method = "auto",
    names: tuple[str, str] = ("left", "right"),
    *,
    time_budget_s: float | None = None,
    memory_budget_bytes: int | None = None,
    progress: Progress = silent,
) -> JointMatching:
    """Match features by decoder and encoder together (Paulo & Belrose 2025, arXiv 2501.16615).

    The score of a pair is the absolute value of the mean of its decoder cosine and its encoder cosine (signed: that
    mean), which is the cosine of the two unit rows put one behind the other. Features without a direction in decoder
    or encoder are left out and counted.

    Args:
        W_dec_a: decoder, one feature a row.
        W_enc_a: encoder of the same features, one a column.
        W_dec_b: likewise, as wide as ``W_dec_a``.
        W_enc_b: likewise, as high as ``W_enc_a``.
        signed: maximise the mean itself instead of its absolute value.
        tolerance: see :func:`match`, as for all that follows.

    Raises:
        ValueError: as :func:`match`, and if an encoder has not one column a feature.
    """
    budget = Budget(time_budget_s, memory_budget_bytes, progress)
    sides = [
        _encoder_and_decoder(W_dec, W_enc, name)
        for W_dec, W_enc, name in zip((W_dec_a, W_dec_b), (W_enc_a, W_enc_b), names, strict=True)
    ]
    a, b = sides
    for what, part in (("decoder", 0), ("encoder", 1)):
        check_width(a.parts[part], b.parts[part], (f"the {what} of {names[0]}", f"the {what} of {names[1]}"))
    found = _assign(a, b, signed, tolerance, method, budget)
    left, right = a.kept[found.left], b.kept[found.right]
    decoder, encoder = (paired_cosines(x, y, left, right) for x, y in zip(a.parts, b.parts, strict=True))
    sizes = len(a.parts[0]), len(b.parts[0])
    matching = _matching(found, (a.kept, b.kept), sizes, (decoder + encoder) / 2, signed, tolerance)
    return JointMatching(matching, decoder, encoder)


def match_scores(
    source: ScoreSource,
    tolerance: float = 1e-6,
    method: Method = "auto",
    *,
    time_budget_s: float | None = None,
    memory_budget_bytes: int | None = None,
    progress: Progress = silent,
) -> Matching:
    """Match the rows and columns of any source of scores one to one so that the mean score is as large as possible.

    In the result ``cosine`` is the score, and ``signed`` is set, so that ``mcc`` is the mean score.

    Args:
        source: the scores, none of them above 1.
        tolerance: see :func:`match`, as for all that follows.

    Raises:
        ValueError: if the source has no row or no column, or for its budgets as :func:`match`.
    """
    n_rows, n_columns = source.shape
    if 0 in source.shape:
        raise ValueError(f"there is nothing to match: the scores have shape {tuple(source.shape)}")
    budget = Budget(time_budget_s, memory_budget_bytes, progress)
    if _is_dense(method, n_rows, n_columns, budget):
        found = _assign_dense(source.block(slice(0, n_rows)).astype(np.float64))
    else:
        found = assign(source, tolerance, budget=budget)
    everything = np.arange(n_rows), np.arange(n_columns)
    return _matching(found, everything, (n_rows, n_columns), found.score, True, tolerance)


@dataclass(frozen=True)
class _Side:
    """Features of one SAE: their rows in one matrix, or in several that count alike."""

    parts: Sequence[Tensor]
    kept: Int64[np.ndarray, " m"]
    """Features with a direction."""

    def unit_rows(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The kept features as unit rows, the parts one behind the other."""
        widths = [part.shape[1] for part in self.parts]
        out = torch.empty(len(self.kept), sum(widths), dtype=dtype, device=self.parts[0].device)
        for part, place in zip(self.parts, torch.split(out, widths, dim=1), strict=True):
            write_unit_rows(part, torch.from_numpy(self.kept), place, length=len(self.parts) ** -0.5)
        return out.to(device)

    @property
    def n_entries(self) -> int:
        """Size of the unit rows."""
        return len(self.kept) * sum(part.shape[1] for part in self.parts)


def _encoder_and_decoder(W_dec: Tensor | np.ndarray, W_enc: Tensor | np.ndarray, name: str) -> _Side:
    decoder, encoder = as_matrix(W_dec, f"the decoder of {name}"), as_matrix(W_enc, f"the encoder of {name}").T
    if len(decoder) != len(encoder):
        raise ValueError(
            f"{name}: the encoder must be (d_in, features) with one column for each of the {len(decoder)} rows of the "
            f"decoder, got {tuple(W_enc.shape)}; transpose it, or pass the encoder of the same SAE"
        )
    directed = has_direction(decoder, f"the decoder of {name}")
    directed &= has_direction(encoder, f"the encoder of {name} (columns as rows)")
    if not directed.any():
        raise ValueError(f"{name}: no feature has a direction in both decoder and encoder; check the weights")
    return _Side([decoder, encoder.to(decoder.device)], np.flatnonzero(directed))


def _is_dense(method: Method, n_rows: int, n_columns: int, budget: Budget) -> bool:
    limited = [name for name, limit in budget.limits.items() if limit is not None]
    if method == "dense" and limited:
        raise ValueError(f"{' and '.join(limited)} cannot be kept by method 'dense'; use 'sparse' or 'auto'")
    n_pairs = n_rows * n_columns
    fits = budget.room is None or _DENSE_BYTES * n_pairs <= budget.room
    return method == "dense" or (method == "auto" and n_pairs <= DENSE_PAIRS and fits)


def _assign(a: _Side, b: _Side, signed: bool, tolerance: float, method: Method, budget: Budget) -> Assignment:
    device = a.parts[0].device
    if _is_dense(method, len(a.kept), len(b.kept), budget):
        score = (a.unit_rows(torch.float64, device) @ b.unit_rows(torch.float64, device).T).cpu().numpy()
        return _assign_dense(score if signed else np.abs(score, out=score))
    n_bytes = 4 * (a.n_entries + b.n_entries)
    # A rounded copy takes half as much again; in little memory the candidates need the room more.
    coarse = budget.room is None or 3 * n_bytes <= budget.room
    budget.reserve(n_bytes + coarse * n_bytes // 2, "the unit rows")
    make = unit_row_scores if coarse else UnitRows
    source = make(a.unit_rows(torch.float32, device), b.unit_rows(torch.float32, device), signed)
    return assign(source, tolerance, budget=budget)


def _assign_dense(score: Float64[np.ndarray, "n_a n_b"]) -> Assignment:
    left, right = linear_sum_assignment(score, maximize=True)
    found = score[left, right]
    best_left, best_right = score.max(axis=1), score.max(axis=0)
    nearest_left, nearest_right = score.argmax(axis=1), score.argmax(axis=0)
    score[left, right] = -np.inf
    alternative_left, alternative_right = score.max(axis=1)[left], score.max(axis=0)[right]
    return Assignment(
        left=left.astype(np.int64),
        right=right.astype(np.int64),
        score=found,
        best_left=best_left,
        best_right=best_right,
        nearest_left=nearest_left,
        nearest_right=nearest_right,
        alternative_left=np.where(np.isfinite(alternative_left), alternative_left, np.nan),
        alternative_right=np.where(np.isfinite(alternative_right), alternative_right, np.nan),
        gap=0.0,
    )


def _matching(
    found: Assignment,
    kept: tuple[Int64[np.ndarray, " m_a"], Int64[np.ndarray, " m_b"]],
    sizes: tuple[int, int],
    cosine: Float64[np.ndarray, " n"],
    signed: bool,
    tolerance: float,
) -> Matching:
    """What was found, in the row numbers of the inputs."""
    left, right = kept[0][found.left], kept[1][found.right]
    score = cosine if signed else np.abs(cosine)
    return Matching(
        left=left,
        right=right,
        cosine=cosine,
        best_left=_best(found.best_left, kept[0], sizes[0], left, score),
        best_right=_best(found.best_right, kept[1], sizes[1], right, score),
        nearest_left=_nearest(found.nearest_left, kept[0], sizes[0], kept[1]),
        nearest_right=_nearest(found.nearest_right, kept[1], sizes[1], kept[0]),
        alternative_left=found.alternative_left,
        alternative_right=found.alternative_right,
        signed=signed,
        gap=found.gap,
        tolerance=tolerance,
        n_excluded_left=sizes[0] - len(kept[0]),
        n_excluded_right=sizes[1] - len(kept[1]),
        stopped=found.stopped,
    )


def _best(best: np.ndarray, kept: np.ndarray, n: int, matched: np.ndarray, score: np.ndarray) -> np.ndarray:
    """The best scores at the places of all rows; never below that of the match, which rounding could put above."""
    out = np.full(n, np.nan)
    out[kept] = best
    out[matched] = np.fmax(out[matched], score)
    return out


def _nearest(nearest: np.ndarray, kept: np.ndarray, n: int, kept_other: np.ndarray) -> np.ndarray:
    out = np.full(n, -1)
    out[kept] = np.where(nearest >= 0, kept_other[nearest], -1)
    return out
