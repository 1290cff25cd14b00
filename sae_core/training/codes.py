"""Which features are active on the tokens of a batch, and how much: the codes that the sparse training step works on.

Part of the training stage. Pre-activations are ``centred rows^T + bias``. No array is as large as those of a whole
batch: they are computed for ``CHUNK`` tokens at once. Where the processor is fast with 8-bit integers, coarse ones are
computed of all features (``coarse``), and exact ones only of those that may be selected (``candidates``): each is one
dot product in one order, so neither the coarse ones nor the number of threads decide about a bit. Elsewhere all are
computed by a product in float32.
"""

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from sae_core.training import selection_kernels as kernels
from sae_core.training.candidates import POSITIVE, Encoder, Found, chunks

CHUNK = 256
"""Tokens whose pre-activations are computed at once: they stay in the cache."""
DENSE_SHARE = 0.2
"""Share of positive pre-activations above which dense products are faster: early in the training of ReLU SAEs."""


class Codes:
    """Feature activations of a batch: those of token b are entries ``start[b]`` to ``end[b]``."""

    def __init__(self, start: Int64[ndarray, " batch"], end: Int64[ndarray, " batch"], size: int):
        self.start, self.end = start, end
        self.feature, self.value = np.empty(size, np.int32), np.empty(size, np.float32)

    @classmethod
    def of(cls, found: Found, batch: int) -> "Codes":
        """The same, run by run."""
        end = np.cumsum(np.bincount(found.token, minlength=batch))
        codes = cls(np.concatenate([[0], end[:-1]]), end, 0)
        codes.feature, codes.value = found.feature, found.value
        return codes

    def total(self) -> float:
        """Sum of all activations; every entry belongs to a token."""
        return float(self.value.sum(dtype=np.float64))


def largest(
    centred: Float[Tensor, "batch d_in"], rows: Float[Tensor, "d_sae d_in"], bias: Float[Tensor, " d_sae"], k: int
) -> Codes:
    """The k largest positive pre-activations of each token, by feature; of equal ones the first."""
    batch, encoder = len(centred), Encoder(centred, rows, bias)
    found = Found.joined([chunk.largest(k) for chunk in chunks(encoder, CHUNK)])
    listed = Codes.of(found, batch)
    if not found.exact:
        # About k of each token are computed first; those that cannot reach the k-th largest of them need not be.
        wanted = np.zeros(len(found.value), np.bool_)
        compute = encoder.compute(found, wanted)
        for mark in (kernels.mark_first, kernels.mark_rest):
            mark(listed.start, listed.end, listed.value, k, wanted)
            compute()
    codes = Codes(np.arange(batch) * k, np.empty(batch, np.int64), batch * k)
    candidates = (listed.start, listed.end, listed.feature, listed.value)
    kernels.take_largest(*candidates, k, codes.end, codes.feature, codes.value)
    return codes


def positive(
    centred: Float[Tensor, "batch d_in"], rows: Float[Tensor, "d_sae d_in"], bias: Float[Tensor, " d_sae"]
) -> Codes | None:
    """All positive pre-activations; None where, in some chunk of tokens, more than ``DENSE_SHARE`` are or may be."""
    encoder, parts = Encoder(centred, rows, bias), []
    for chunk in chunks(encoder, CHUNK):
        parts.append(chunk.reaching(POSITIVE))
        if len(parts[-1].value) > DENSE_SHARE * chunk.size:
            return None
    return Codes.of(_positive(parts, encoder), len(centred))


def largest_of_batch(
    centred: Float[Tensor, "batch d_in"], rows: Float[Tensor, "d_sae d_in"], bias: Float[Tensor, " d_sae"], n: int
) -> Codes:
    """The n largest positive pre-activations of the whole batch; of equal ones the first.

    All that reach a guess are found, and if these are n at least, the n largest are among them, however it was guessed.
    """
    encoder, guess = Encoder(centred, rows, bias), 0
    while True:
        bound, parts = guess, []
        for chunk in chunks(encoder, CHUNK):
            if guess == 0:
                bound = guess = chunk.guess(n / len(centred))
            parts.append(chunk.reaching(bound))
            if sum(len(part.value) for part in parts) > 4 * n:
                parts = [_positive(parts, encoder).first_largest(n)]
                if len(parts[0].value) == n:
                    bound = max(bound, int(parts[0].bits().min()) + 1)  # of equal ones, those that come later lose
        found = _positive(parts, encoder).first_largest(n)
        if guess == POSITIVE or (found.bits() >= guess).sum() == n:
            return Codes.of(found, len(centred))
        guess = POSITIVE


def _positive(parts: list[Found], encoder: Encoder) -> Found:
    """Those of all parts that are positive, exactly."""
    candidates, found = [part for part in parts if not part.exact], [part for part in parts if part.exact]
    if candidates:
        found.append(Found.joined(candidates))
        encoder.compute(found[-1])()
    whole = Found.joined(found)
    if len(found) > 1 and candidates:
        whole = whole.where(np.argsort(whole.token, kind="stable"))
    return whole.where(whole.bits() >= POSITIVE)
