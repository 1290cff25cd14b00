"""Where the scores of a matching come from, block by block: a part of *consistency*.

The assignment never holds the whole matrix of scores. It asks a source for blocks of it, so the same solver matches
decoders by cosine, encoder and decoder jointly, or features by the correlation of their activations.
"""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int16, Int32, Int64
from torch import Tensor

from sae_core.encoder_products import has_fast_bfloat16, linear
from sae_core.matching.assignment_kernels import listed_dots

_PAIRS_AT_ONCE = 64
"""Pairs whose scores are the diagonal of one small product."""


@runtime_checkable
class ScoreSource(Protocol):
    """A matrix of scores that is computed in parts. No score is above 1; the same part always has the same values."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        ...

    def block(self, rows: slice) -> Float32[np.ndarray, "r n"]:
        """Scores of consecutive rows with all columns; may be a buffer that the next call overwrites."""
        ...

    def products(self, rows: Int64[np.ndarray, " r"], columns: Int64[np.ndarray, " c"]) -> Float32[np.ndarray, "r c"]:
        """Scores of some rows with some columns."""
        ...


@runtime_checkable
class CoarseSource(ScoreSource, Protocol):
    """A source that also knows its scores roughly, faster, and how wrong these are at most."""

    def coarse_block(self, rows: slice) -> Int16[np.ndarray, "r n"]:
        """Keys in the order of the rough scores; may be a buffer that the next call overwrites."""
        ...

    def upper_bounds(
        self, row_keys: Int16[np.ndarray, " n_a"], column_keys: Int16[np.ndarray, " n_b"]
    ) -> tuple[Float64[np.ndarray, " n_a"], Float64[np.ndarray, " n_b"]]:
        """For a key of every row and every column: what a score of that row or column with such a key is at most."""
        ...

    def listed(
        self, start: Int64[np.ndarray, " n_a_and_one"], column: Int32[np.ndarray, " n"]
    ) -> Float32[np.ndarray, " n"]:
        """Scores of listed pairs: row i with the columns ``column[start[i]:start[i + 1]]``."""
        ...


class UnitRows:
    """Absolute (or signed) cosines of the unit rows of two matrices; the products run where the matrices are.

    Args:
        a: unit rows.
        b: likewise, as wide and on the same device.
        signed: the cosine itself instead of its absolute value.
    """

    def __init__(self, a: Float32[Tensor, "n_a d"], b: Float32[Tensor, "n_b d"], signed: bool = False) -> None:
        self.a, self.b, self.signed = a, b, signed
        self._no_bias = torch.zeros(len(b), device=b.device)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows of the two matrices."""
        return len(self.a), len(self.b)

    def block(self, rows: slice) -> Float32[np.ndarray, "r n"]:
        """Cosines of consecutive rows with all columns."""
        return self._scores(self.a[rows], self.b)

    def products(self, rows: Int64[np.ndarray, " r"], columns: Int64[np.ndarray, " c"]) -> Float32[np.ndarray, "r c"]:
        """Cosines of some rows with some columns."""
        return self._scores(_take(self.a, rows), _take(self.b, columns))

    def _scores(self, a: Tensor, b: Tensor) -> Float32[np.ndarray, "r c"]:
        product = linear(a, b, self._no_bias[: len(b)]) if a.device.type == "cpu" else a @ b.T
        if not self.signed:
            product.abs_()
        found: np.ndarray = product.cpu().numpy()
        return found


class CoarseUnitRows(UnitRows):
    """Cosines that are also known roughly, from bfloat16 products: half the time on processors that have them.

    With a' the rounded a, Cauchy-Schwarz bounds ``|ab - a'b'|`` by ``|a - a'| |b| + |a'| |b - b'|``; the norms of the
    rounding errors are computed. Sums in float32 add at most 2^-24 a term, and rounding the result 2^-9 of it.
    """

    def __init__(self, a: Float32[Tensor, "n_a d"], b: Float32[Tensor, "n_b d"], signed: bool = False) -> None:
        super().__init__(a, b, signed)
        (self._a, self._error_a), (self._b, self._error_b) = _rounded(a), _rounded(b)
        self._buffer = torch.empty(0, dtype=torch.bfloat16)

    def coarse_block(self, rows: slice) -> Int16[np.ndarray, "r n"]:
        """Bits of the rounded cosines, as integers in the same order."""
        a = self._a[rows]
        if len(a) > len(self._buffer):
            self._buffer = torch.empty(len(a), len(self.b), dtype=torch.bfloat16)
        product = torch.mm(a, self._b.T, out=self._buffer[: len(a)])
        bits = product.view(torch.int16)
        if self.signed:  # of negative numbers the bits grow downwards
            bits ^= (bits >> 15) & 0x7FFF
        else:
            bits &= 0x7FFF
        return bits.numpy()

    def upper_bounds(
        self, row_keys: Int16[np.ndarray, " n_a"], column_keys: Int16[np.ndarray, " n_b"]
    ) -> tuple[Float64[np.ndarray, " n_a"], Float64[np.ndarray, " n_b"]]:
        """What a cosine with such a key is at most."""
        sums = 2.0**-23 * (self.a.shape[1] + 2)
        bounds = []
        for keys, own, other in ((row_keys, self._error_a, self._error_b), (column_keys, self._error_b, self._error_a)):
            bits = np.where(keys < 0, keys ^ 0x7FFF, keys).astype(np.int32) << 16
            value = bits.view(np.float32).astype(np.float64)
            bounds.append(value + 2.0**-8 * np.abs(value) + own + (1 + own) * other.max() + sums)
        return bounds[0], bounds[1]

    def listed(
        self, start: Int64[np.ndarray, " n_a_and_one"], column: Int32[np.ndarray, " n"]
    ) -> Float32[np.ndarray, " n"]:
        """Cosines of listed pairs, in float32."""
        out = np.empty(len(column), np.float32)
        listed_dots(self.a.numpy(), self.b.numpy(), start, column, out)
        return out if self.signed else np.abs(out, out=out)


def unit_row_scores(a: Float32[Tensor, "n_a d"], b: Float32[Tensor, "n_b d"], signed: bool = False) -> UnitRows:
    """Cosines of unit rows, by the fastest way this machine has; the choice depends on the machine alone."""
    coarse = a.device.type == "cpu" and has_fast_bfloat16()
    return (CoarseUnitRows if coarse else UnitRows)(a, b, signed)


class Transposed:
    """Rows and columns of another source exchanged."""

    def __init__(self, source: ScoreSource) -> None:
        self._source = source
        self._all_rows = np.arange(source.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Number of columns and rows of the other source."""
        n_rows, n_columns = self._source.shape
        return n_columns, n_rows

    def block(self, rows: slice) -> Float32[np.ndarray, "r n"]:
        """Scores of consecutive columns of the other source."""
        return self.products(np.arange(*rows.indices(self.shape[0])), self._all_rows)

    def products(self, rows: Int64[np.ndarray, " r"], columns: Int64[np.ndarray, " c"]) -> Float32[np.ndarray, "r c"]:
        """Scores of some columns of the other source with some of its rows."""
        return np.ascontiguousarray(self._source.products(columns, rows).T)


def transposed(source: ScoreSource) -> ScoreSource:
    """The source with rows and columns exchanged."""
    if isinstance(source, UnitRows):
        return type(source)(source.b, source.a, source.signed)
    return Transposed(source)


def paired_scores(
    source: ScoreSource, rows: Int64[np.ndarray, " n"], columns: Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, " n"]:
    """The score of each row with the column at its place."""
    out = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _PAIRS_AT_ONCE):
        chunk = slice(start, start + _PAIRS_AT_ONCE)
        out[chunk] = np.diagonal(source.products(rows[chunk], columns[chunk]))
    return out


def _take(W: Tensor, rows: Int64[np.ndarray, " r"]) -> Tensor:
    """Some rows; all of them without a copy."""
    if len(rows) == len(W) and np.array_equal(rows, np.arange(len(W))):
        return W
    return W[torch.from_numpy(rows).to(W.device)]


def _rounded(W: Float32[Tensor, "n d"]) -> tuple[Tensor, Float64[np.ndarray, " n"]]:
    """The rows in bfloat16, and the norm of what each lost, rounded up."""
    rounded = torch.empty(W.shape, dtype=torch.bfloat16)
    lost = np.empty(len(W))
    for start in range(0, len(W), 256):  # few enough rows to stay in cache
        chunk = slice(start, start + 256)
        rounded[chunk] = W[chunk]
        lost[chunk] = (W[chunk] - rounded[chunk]).norm(dim=1).numpy()
    return rounded, lost * (1 + 2.0**-10)
