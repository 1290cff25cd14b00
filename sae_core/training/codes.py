"""Which features are active on the tokens of a batch, and how much: the codes that the sparse training step works on.

Part of the training stage. Pre-activations are ``centred rows^T + bias``; the kernels are in ``selection_kernels``.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy import ndarray
from torch import Tensor

from sae_core import encoder_products as products
from sae_core.training import selection_kernels as kernels

DENSE_SHARE = 0.2
"""Share of positive pre-activations above which dense products are faster: early in the training of ReLU SAEs."""
CHUNK = 512
"""Tokens whose pre-activations are computed at once where all of a batch are not needed: they stay in the cache."""


class Codes:
    """Feature activations of a batch: those of token b are entries ``start[b]`` to ``end[b]``."""

    def __init__(self, start: Int64[ndarray, " batch"], end: Int64[ndarray, " batch"], size: int):
        self.start, self.end = start, end
        self.feature, self.value = np.empty(size, np.int32), np.empty(size, np.float32)

    def total(self) -> float:
        """Sum of all activations; every entry belongs to a token."""
        return float(self.value.sum(dtype=np.float64))


def positive(
    centred: Float[Tensor, "batch d_in"], rows: Float[Tensor, "d_sae d_in"], bias: Float[Tensor, " d_sae"]
) -> Codes | None:
    """All positive pre-activations; None where more than ``DENSE_SHARE`` of them are."""
    pre = products.linear(centred, rows, bias).numpy()
    count = np.empty(len(pre), np.int64)
    kernels.count_positive(pre, count)
    end = np.cumsum(count)
    if end[-1] > DENSE_SHARE * pre.size:
        return None
    codes = Codes(end - count, end, int(end[-1]))
    kernels.select_positive(pre, codes.start, codes.feature, codes.value)
    return codes


def largest(
    centred: Float[Tensor, "batch d_in"], rows: Float[Tensor, "d_sae d_in"], bias: Float[Tensor, " d_sae"], k: int
) -> Codes:
    """The k largest positive pre-activations of each token.

    Found by a product in bfloat16 first where that is fast; the choice and the values are those of float32.
    """
    batch, coarse = len(centred), products.has_fast_bfloat16()
    codes = Codes(np.arange(batch) * k, np.empty(batch, np.int64), batch * k)
    for first in range(0, batch, CHUNK):
        x = centred[first : first + CHUNK]
        part = slice(first * k, (first + len(x)) * k)
        out = (k, codes.end[first : first + len(x)], codes.feature[part], codes.value[part])
        if coarse:
            pre, error = products.coarse_linear(x, rows, bias)
            exact = (x.numpy(), rows.numpy(), bias.numpy())
            kernels.select_largest_of_coarse(pre.view(torch.int16).numpy(), error.numpy(), *exact, *out)
        else:
            kernels.select_largest(products.linear(x, rows, bias).numpy(), *out)
        codes.end[first : first + len(x)] += first * k
    return codes


def largest_of_batch(
    centred: Float[Tensor, "batch d_in"], rows: Float[Tensor, "d_sae d_in"], bias: Float[Tensor, " d_sae"], n: int
) -> Codes:
    """The n largest positive pre-activations of the whole batch; of equal ones the first."""
    pre = products.linear(centred, rows, bias).numpy().clip(min=0)
    order = np.argsort(-pre, axis=None, kind="stable")[:n]
    chosen = np.sort(order[pre.ravel()[order] > 0])
    token, feature = np.divmod(chosen, pre.shape[1])
    end = np.searchsorted(token, np.arange(len(pre)), side="right")
    codes = Codes(np.searchsorted(token, np.arange(len(pre))), end, len(chosen))
    codes.feature[:], codes.value[:] = feature, pre.ravel()[chosen]
    return codes
