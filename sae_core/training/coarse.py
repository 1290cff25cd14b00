"""Pre-activations by a product of 8-bit integers, and how large the exact ones can be at most.

Part of the training stage. The processors that have instructions for it multiply 8-bit integers four times as fast as
float32. What is certainly too small to be selected is told apart that way; ``selection_kernels`` computes the rest
exactly. So nothing here decides about a bit of the result.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int8, Int32
from numpy import ndarray
from torch import Tensor

from sae_core import encoder_products as products
from sae_core.training import coarse_kernels as kernels


@dataclass(frozen=True)
class Quantised:
    """Rows as ``step[i] * whole[i]``."""

    whole: Int8[Tensor, "n d"]
    step: Float32[ndarray, " n"]
    length: Float32[ndarray, " n"]
    """Norm of each row."""
    error: Float32[ndarray, " n"]
    """Norm of what is missing to each row."""

    @classmethod
    def of(cls, rows: Float[Tensor, "n d"], factors: Float[Tensor, " d"]) -> "Quantised":
        """Rows whose columns were multiplied by ``factors``."""
        whole = torch.empty(rows.shape, dtype=torch.int8)
        step, length, error = (np.empty(len(rows), np.float32) for _ in range(3))
        kernels.quantise(rows.numpy(), factors.numpy(), whole.numpy(), step, length, error)
        return cls(whole, step, length, error)


class CoarseChunk(NamedTuple):
    """What the kernels need to know of the coarse pre-activations of some tokens."""

    product: Int32[ndarray, "batch n"]
    step: Float32[ndarray, " batch"]
    length: Float32[ndarray, " batch"]
    error: Float32[ndarray, " batch"]
    row_step: Float32[ndarray, " n"]
    row_length: Float32[ndarray, " n"]
    row_error: Float32[ndarray, " n"]
    bias: Float32[ndarray, " n"]


class CoarsePreActivations:
    """Coarse ``x rows^T + bias`` for any tokens x, a few at a time.

    By Cauchy-Schwarz a product of rows x and w that were rounded by dx and dw is wrong by ``|dx| |w| + |x| |dw|`` at
    most. Columns of the two are scaled against each other first, so that a few large columns of the activations, as
    language models have them, do not coarsen the others.
    """

    def __init__(self, rows: Float[Tensor, "n d"], bias: Float[Tensor, " n"], alike: Float[Tensor, "batch d"]):
        """``alike``: activations that have the large columns of those to come."""
        sizes = alike.square().mean(0).sqrt()
        factors = (sizes / sizes.mean()).nan_to_num(1.0).clamp(1e-4, 1e4).sqrt()
        self._token_factors, self._rows = 1 / factors, Quantised.of(rows, factors)
        # Besides, float32 rounds sums of d products, here and in the exact pre-activations, and what is added to them.
        rounding = np.float32(2.0**-23 * rows.shape[1] + 2.0**-18)
        self._row_error = self._rows.error + rounding * self._rows.length
        self._bias = (bias + 2.0**-20 * bias.abs()).numpy()
        self._product = torch.empty(0, dtype=torch.int32)

    def __call__(self, x: Float[Tensor, "batch d"]) -> CoarseChunk:
        """Those of the tokens x; valid until the next call."""
        tokens = Quantised.of(x, self._token_factors)
        if self._product.numel() < len(x) * len(self._rows.step):
            self._product = torch.empty(len(x) * len(self._rows.step), dtype=torch.int32)
        product = self._product[: len(x) * len(self._rows.step)].view(len(x), -1)
        products.multiply_int8(tokens.whole, self._rows.whole, product)
        of_tokens = (tokens.step, tokens.length + tokens.error, tokens.error)
        of_rows = (self._rows.step, self._rows.length, self._row_error)
        return CoarseChunk(product.numpy(), *of_tokens, *of_rows, self._bias)
