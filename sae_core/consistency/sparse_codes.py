"""Feature activations of one SAE on held-out tokens, as a sparse matrix: what activations are compared by.

Part of *consistency*. Memory is that of the active codes, about 8 bytes x tokens x L0 a run.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from scipy import sparse
from torch import Tensor

from sae_core.architectures import Sae
from sae_core.progress import Progress, silent
from sae_core.shards import Shards

_CODE_BLOCK = 1 << 24
"""Codes (tokens x features) of one block: 64 MiB in float32."""


@dataclass(frozen=True)
class SparseCodes:
    """Codes of one SAE on some tokens, feature by feature."""

    name: str
    codes: sparse.csr_array
    """(features, tokens), float32; what is not stored is zero."""
    mean: Float64[np.ndarray, " d_sae"]
    """Mean over all tokens, those with zeros included."""
    deviation: Float64[np.ndarray, " d_sae"]
    """Length of the centred activation vector: the root of the sum of squared deviations from the mean."""

    @property
    def n_tokens(self) -> int:
        """Tokens the codes are of."""
        return int(self.codes.shape[1])

    @property
    def n_fired(self) -> Int64[np.ndarray, " d_sae"]:
        """Tokens on which each feature is active."""
        return np.asarray(np.diff(self.codes.indptr), np.int64)

    @property
    def varies(self) -> Int64[np.ndarray, " m"]:
        """Features that have a correlation with anything: not constant, so above all not dead."""
        return np.flatnonzero(self.deviation > 0)


def collect_codes(name: str, blocks: Iterable[sparse.csr_array]) -> SparseCodes:
    """Put blocks of codes, each (tokens, features), together.

    Raises:
        ValueError: if there is no token, blocks have different numbers of features, or a code is not finite.
    """
    parts = [sparse.csr_array(block, dtype=np.float32) for block in blocks]
    if sum(part.shape[0] for part in parts) == 0:
        raise ValueError(f"{name}: correlations need tokens, got none; pass held-out activations")
    widths = sorted({part.shape[1] for part in parts})
    if len(widths) > 1:
        raise ValueError(f"{name}: blocks of codes must have the same number of features: got {widths}")
    codes = sparse.csr_array(sparse.vstack(parts, format="csr").T)
    codes.eliminate_zeros()
    if not np.isfinite(codes.data).all():
        bad = int(np.searchsorted(codes.indptr, np.flatnonzero(~np.isfinite(codes.data))[0], side="right")) - 1
        raise ValueError(f"{name}: an activation of feature {bad} is not finite; check the SAE and its input")
    n = codes.shape[1]
    sums, squares = (_row_sums(codes, power) for power in (1, 2))
    constant = (np.diff(codes.indptr) == n) & (_row_extreme(codes, np.maximum) == _row_extreme(codes, np.minimum))
    spread = np.where(constant, 0.0, np.maximum(squares - sums**2 / n, 0.0))
    return SparseCodes(name, codes, sums / n, np.sqrt(spread))


def encode_blocks(sae: Sae, blocks: Iterable[Float[Tensor, "_ d_in"]]) -> Iterator[sparse.csr_array]:
    """Codes of blocks of activations, each (tokens, features)."""
    for x in blocks:
        with torch.no_grad():
            codes = sae.encode(x.to(sae.W_dec.device, sae.W_dec.dtype))
        token, feature = torch.nonzero(codes, as_tuple=True)
        values = codes[token, feature].float().cpu().numpy()
        yield sparse.csr_array((values, (token.cpu().numpy(), feature.cpu().numpy())), shape=tuple(codes.shape))


def held_out_codes(
    name: str, sae: Sae, held_out: Shards, n_tokens: int | None = None, progress: Progress = silent
) -> SparseCodes:
    """Codes of an SAE on the first held-out activations, in stored order: the same tokens for every SAE.

    Args:
        name: what errors call the run.
        sae: on any device.
        held_out: activations of the hook the SAE reads.
        n_tokens: how many at most; None takes all.
        progress: called after every block.

    Raises:
        ValueError: if the widths differ, or a code is not finite.
    """
    if held_out.d_in != sae.d_in:
        raise ValueError(
            f"{name} reads activations of width {sae.d_in}, the shards hold {held_out.d_in}; pass the activations of "
            "the hook it was trained on"
        )
    total = held_out.n_tokens if n_tokens is None else min(n_tokens, held_out.n_tokens)

    def blocks() -> Iterator[Tensor]:
        done = 0
        for rows in held_out.in_order(max(1, _CODE_BLOCK // sae.d_sae)):
            yield rows.activations[: total - done]
            done = min(total, done + len(rows.activations))
            progress(done, total, f"{name}: {done:,} of {total:,} held-out tokens encoded")
            if done == total:
                return

    return collect_codes(name, encode_blocks(sae, blocks()))


def check_tokens(a: SparseCodes, b: SparseCodes) -> None:
    """Refuse codes of different numbers of tokens.

    Raises:
        ValueError: if they differ.
    """
    if a.n_tokens != b.n_tokens:
        raise ValueError(
            f"activations are compared over the same tokens: {a.name} has {a.n_tokens:,}, {b.name} has {b.n_tokens:,}; "
            "encode the same held-out activations with both"
        )


def _row_sums(codes: sparse.csr_array, power: int) -> Float64[np.ndarray, " d_sae"]:
    """Sum over the tokens of a power of each feature's activations."""
    feature = np.repeat(np.arange(codes.shape[0]), np.diff(codes.indptr))
    values = codes.data.astype(np.float64) ** power
    return np.bincount(feature, values, minlength=codes.shape[0]).astype(np.float64)  # integers when nothing fired


def _row_extreme(codes: sparse.csr_array, extreme: np.ufunc) -> Float64[np.ndarray, " d_sae"]:
    """Largest or smallest stored activation of each feature; 0 where none is stored."""
    stored = np.diff(codes.indptr) > 0
    out = np.zeros(codes.shape[0])
    if stored.any():
        out[stored] = extreme.reduceat(codes.data, codes.indptr[:-1][stored])
    return out
