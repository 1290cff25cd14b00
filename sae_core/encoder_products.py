"""The one dense product of the sparse training step: pre-activations, on a CPU.

Part of the training stage. Which product is used depends on the machine alone, never on a measured time, so that equal
runs on one machine give equal bits.
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor


def linear(x: Float[Tensor, "batch d_in"], rows: Float[Tensor, "n d_in"], bias: Float[Tensor, " n"]) -> Tensor:
    """``x rows^T + bias``, through oneDNN where torch has it: on AMD processors 1.3 to 2 times as fast as MKL."""
    if _has_onednn():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, rows, bias, "none", [], "")
        return product
    return torch.nn.functional.linear(x, rows, bias)


@cache
def _has_onednn() -> bool:
    """Whether the private operator exists and computes what it should. Not by speed: the choice must not vary."""
    x, rows, bias = (torch.linspace(-1, 1, n).reshape(shape) for n, shape in ((6, (2, 3)), (12, (4, 3)), (4, (4,))))
    try:
        found = torch.ops.mkldnn._linear_pointwise(x, rows, bias, "none", [], "")
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    return torch.allclose(found, torch.nn.functional.linear(x, rows, bias), atol=1e-6)


def coarse_linear(
    x: Float[Tensor, "batch d_in"], rows: Float[Tensor, "n d_in"], bias: Float[Tensor, " n"]
) -> tuple[Tensor, Tensor]:
    """``linear`` in bfloat16, and a bound for each row of ``x`` of how wrong it is before the result is rounded.

    Two factors rounded to 8 bits give a product with a relative error of at most 2^-8 + 2^-18; sums in float32 add
    2^-23 for each term, generously; by Cauchy-Schwarz the error of a sum is at most that times both norms.
    """
    product = torch.nn.functional.linear(x.bfloat16(), rows.bfloat16(), bias.bfloat16())
    relative = 2**-8 + 2**-18 + 2**-23 * x.shape[1]
    error = relative * x.norm(dim=1) * rows.norm(dim=1).max() + 2**-8 * bias.abs().max()
    return product, error


@cache
def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware; elsewhere it is slower than float32."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)
