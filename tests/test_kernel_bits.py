"""Trained bits depend on no compiler and no cache: kernels add in an order that is written down."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError
from numba.extending import is_jitted

from sae_core.ordered_dots import LANES, SUMS, dot
from sae_core.training import sparse_kernels as kernels
from sae_core.training.row_sums import sum_rows

TRAIN = """
import hashlib
import torch
from sae_core.training import sparse_kernels
from sae_core.architectures import build
from sae_core.config import GatedConfig, JumpReLUConfig, StandardConfig, TrainingConfig
from sae_core.training import train

torch.set_num_threads(1)
x = torch.randn(40, 256, 40, generator=torch.Generator().manual_seed(0)) / 40**0.5
config = TrainingConfig(n_steps=40, batch_size=256, warmup_steps=0, sparsity_warmup_steps=0, dead_after_tokens=10**6)
bits = b""
for variant in (
    StandardConfig(d_sae=64, l1_coefficient=0.1),
    GatedConfig(d_sae=64, l1_coefficient=0.1),
    JumpReLUConfig(d_sae=64, target_l0=6, bandwidth=0.1, initial_threshold=0.1),
):
    sae = build(variant, 40, seed=0)
    sae.get_parameter("b_gate" if variant.architecture == "gated" else "b_enc").data.fill_(-0.2)  # sparse at once
    result = train(sae, lambda first: iter(x[first:]), config, lr=1e-3)
    assert result.gradients == "sparse"
    bits += b"".join(parameter.detach().contiguous().numpy().tobytes() for parameter in result.sae.parameters())
stats = sparse_kernels.weight_gradients.stats
print(sum(stats.cache_misses.values()), sum(stats.cache_hits.values()), hashlib.sha256(bits).hexdigest())
"""


@numba.njit
def compiled_dot(left, right):
    return dot(left, right)


def dot_in_the_order_of_the_docs(left, right):
    """Every operation by numpy, in float32."""
    products, block = left * right, SUMS * LANES
    sums, done = np.zeros(block, np.float32), 0
    for size in (block, LANES):
        while done + size <= len(products):
            sums[:size] += products[done : done + size]
            done += size
    sums = sums.reshape(SUMS, LANES)
    total = (sums[0] + sums[1]) + (sums[2] + sums[3])
    while len(total) > 1:
        total = total[: len(total) // 2] + total[len(total) // 2 :]
    for product in products[done:]:
        total = total + product
    return total[0]


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 63, 64, 65, 127, 150, 576])
def test_a_dot_product_is_summed_in_the_order_of_the_docs(n):
    left, right = np.random.default_rng(n).standard_normal((2, n)).astype(np.float32)
    assert compiled_dot(left, right) == dot_in_the_order_of_the_docs(left, right)


@numba.njit
def compiled_sum_rows(start, rows, index, factor, first, last, out):
    sum_rows(start, rows, index, factor, first, last, out)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 64, 65, 150])
def test_a_sum_of_rows_adds_one_after_another(n):
    rng = np.random.default_rng(n)
    rows, factor = rng.standard_normal((7, n)).astype(np.float32), rng.standard_normal(20).astype(np.float32)
    index, out = rng.integers(0, 7, 20).astype(np.int32), rng.standard_normal(n).astype(np.float32)
    expected = out.copy()
    for p in range(3, 18):
        expected += factor[p] * rows[index[p]]
    compiled_sum_rows(out, rows, index, factor, 3, 18, out)
    assert np.array_equal(out, expected)
    compiled_sum_rows(out, rows, index, factor, 5, 5, out)
    assert np.array_equal(out, expected)


def test_sums_of_strided_rows_and_of_doubles_are_refused():
    row, rows, index = np.ones(4, np.float32), np.ones((3, 4), np.float32), np.zeros(2, np.int32)
    for given in (
        (row, rows.T.copy().T, index, row),
        (row, rows, index.astype(np.int64), row),
        (row, rows, index, np.ones(2)),
        (np.ones(8, np.float32)[::2], rows, index, row),
    ):
        with pytest.raises(TypingError, match="sum_rows takes a contiguous"):
            compiled_sum_rows(*given, 0, 2, row.copy())


def test_dot_products_of_strided_vectors_and_of_doubles_are_refused():
    single, double = np.ones(8, np.float32), np.ones(8)
    for left, right in ((single[::2], single[:4]), (single, double), (single.reshape(2, 4), single)):
        with pytest.raises(TypingError, match="dot takes contiguous vectors of float32"):
            compiled_dot(left, right)


def test_no_kernel_of_the_training_step_lets_the_compiler_reorder_sums():
    compiled = [kernel for kernel in vars(kernels).values() if is_jitted(kernel)]
    assert compiled
    assert not any(kernel.targetoptions.get("fastmath") for kernel in compiled)


@pytest.mark.slow
def test_a_process_that_compiles_the_kernels_trains_the_same_bits_as_one_that_loads_them(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run(
            [sys.executable, "-c", TRAIN], env=environment, check=True, capture_output=True, text=True
        ).stdout.split()
        for _ in range(2)
    )
    assert first[:2] == ["1", "0"]  # compiled
    assert second[:2] == ["0", "1"]  # loaded
    assert first[2] == second[2]
