"""The parts of a training step besides gradients: kernels held equal to brute force, updates to formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_core import encoder_products as products
from sae_core.architectures import Moment, Standard, build
from sae_core.config import StandardConfig, TrainingConfig
from sae_core.kernel_options import torch_threads
from sae_core.training import selection_kernels as kernels
from sae_core.training.gradients import AutogradGradients
from sae_core.training.initial_values import geometric_median, resample
from sae_core.training.optimiser import ConstrainedAdam
from sae_core.training.schedules import learning_rate_factor, sparsity_factor

D_IN, D_SAE = 12, 50
STANDARD = StandardConfig(d_sae=D_SAE, l1_coefficient=0.3)


def random_sae(seed=0):
    sae = build(STANDARD, D_IN, seed)
    generator = torch.Generator().manual_seed(seed)
    sae.b_enc.data.normal_(-0.3, 0.3, generator=generator)
    sae.b_dec.data.normal_(generator=generator)
    sae.W_enc.data.add_(0.1 * torch.randn(D_IN, D_SAE, generator=generator))
    return sae


def selected(pre, k):
    n = len(pre)
    start, end = np.arange(n) * k, np.empty(n, np.int64)
    feature, value = np.full(n * k, -1, np.int32), np.empty(n * k, np.float32)
    kernels.select_largest(pre, k, end, feature, value)
    return [(feature[a:b], value[a:b]) for a, b in zip(start, end, strict=True)]


@given(st.integers(2, 400), st.integers(1, 60), st.integers(0, 2**31), st.sampled_from([0, 1, 3]), st.floats(-2, 2))
@settings(max_examples=150, deadline=None)
def test_the_largest_entries_are_selected_also_among_ties_and_zeros(n, k, seed, decimals, shift):
    k = min(k, n)
    pre = np.random.default_rng(seed).standard_normal((3, n)).round(decimals).astype(np.float32) + np.float32(shift)
    for row, (features, values) in zip(pre, selected(pre, k), strict=True):
        expected = np.sort(row[row > 0])[::-1][:k]
        assert np.array_equal(np.sort(values)[::-1], expected)
        assert len(set(features)) == len(features)
        assert np.array_equal(row[features], values)


@given(st.integers(2, 300), st.integers(1, 40), st.integers(0, 2**31), st.floats(-1, 1), st.sampled_from([0.0, 3.0]))
@settings(max_examples=100, deadline=None)
def test_a_coarse_product_first_gives_the_same_choice(n, k, seed, shift, spread):
    """Also when many entries are closer together than the coarse product can tell, and when few are positive."""
    k = min(k, n)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 20, generator=generator)
    rows = torch.randn(n, 20, generator=generator) * torch.rand(n, 1, generator=generator).pow(spread)
    rows[::3] = rows[0] + 1e-3 * torch.randn(len(rows[::3]), 20, generator=generator)
    bias = shift * torch.rand(n, generator=generator)
    exact = torch.nn.functional.linear(x.double(), rows.double(), bias.double())
    coarse, error = products.coarse_linear(x, rows, bias)
    end, feature, value = np.empty(4, np.int64), np.full(4 * k, -1, np.int32), np.empty(4 * k, np.float32)
    arrays = [tensor.numpy() for tensor in (coarse.view(torch.int16), error, x, rows, bias)]
    kernels.select_largest_of_coarse(*arrays, k, end, feature, value)
    for b in range(4):
        chosen = feature[b * k : end[b]]
        expected = exact[b].relu().topk(k).values
        assert len(set(chosen)) == len(chosen)
        assert torch.allclose(
            exact[b][chosen.astype(np.int64)].sort(descending=True).values, expected[: len(chosen)], atol=1e-5
        )
        assert (expected[len(chosen) :] < 1e-5).all()


def test_the_coarse_product_is_as_wrong_as_it_says_at_most():
    generator = torch.Generator().manual_seed(0)
    x, rows, bias = (torch.randn(*shape, generator=generator) for shape in ((50, 64), (80, 64), (80,)))
    coarse, error = products.coarse_linear(x, rows, bias)
    exact = torch.nn.functional.linear(x.double(), rows.double(), bias.double())
    wrong = (coarse.double() - exact).abs() - 2**-8 * coarse.double().abs()
    assert (wrong <= error[:, None]).all()


def test_a_gradient_that_is_not_finite_is_refused():
    sae = random_sae()
    for parameter in sae.parameters():
        parameter.grad = torch.full_like(parameter, 1e30)
    with pytest.raises(ValueError, match="the norm of the gradient became inf; lower lr"):
        ConstrainedAdam(sae, 1.0).step(0.1)


def test_selection_keeps_to_its_rows_when_an_entry_is_not_a_number():
    pre = np.full((2, 30), np.nan, np.float32)
    pre[0, 3] = np.inf
    for features, _ in selected(pre, 4):
        assert len(features) <= 4
        assert ((features >= 0) & (features < 30)).all()


def test_the_encoder_product_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    x, rows, bias = (torch.randn(*shape, generator=generator) for shape in ((33, 17), (29, 17), (29,)))
    assert torch.allclose(products.linear(x, rows, bias), torch.nn.functional.linear(x, rows, bias), atol=1e-5)


def test_kernels_use_as_many_threads_as_torch_and_give_them_back():
    import numba

    before = numba.get_num_threads()
    with torch_threads():
        assert numba.get_num_threads() == min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    assert numba.get_num_threads() == before


def test_the_update_is_adam_on_the_clipped_gradient_without_its_part_along_the_row():
    sae = Standard(2, 3, l1_coefficient=0.1)
    sae.W_dec.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
    for parameter in sae.parameters():
        parameter.grad = torch.zeros_like(parameter)
    sae.W_dec.grad[0] = torch.tensor([5.0, 3.0])  # 5 of it along the row
    sae.b_dec.grad[0] = 4.0
    adam = ConstrainedAdam(sae, grad_clip=1.0)
    adam.step(lr=0.1)
    assert torch.allclose(sae.W_dec.grad[0], torch.tensor([0.0, 3 / 5]), atol=1e-6)
    assert sae.b_dec.grad[0] == pytest.approx(4 / 5)
    # Adam's first step has the length of the learning rate in every coordinate that moves.
    assert torch.allclose(sae.W_dec[0], torch.tensor([1.0, -0.1]) / 1.01**0.5, atol=1e-6)
    assert sae.b_dec.tolist() == pytest.approx([-0.1, 0])
    assert torch.equal(sae.W_dec[1], torch.tensor([0.0, 1.0]))


def test_the_learning_rate_rises_stays_and_falls():
    config = TrainingConfig(n_steps=10, warmup_steps=2, decay_start=0.6, sparsity_warmup_steps=4)
    assert [learning_rate_factor(step, config) for step in range(10)] == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert [sparsity_factor(step, config) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_without_decay_and_warm_ups_all_steps_are_equal():
    config = TrainingConfig(n_steps=4, warmup_steps=0, decay_start=1.0, sparsity_warmup_steps=0)
    assert [learning_rate_factor(step, config) * sparsity_factor(step, config) for step in range(4)] == [1, 1, 1, 1]


def test_the_geometric_median_stays_with_the_majority():
    points = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [100.0, 0.0]])
    assert geometric_median(points).abs().max() < 1e-3
    square = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    assert torch.allclose(geometric_median(square), torch.ones(2))


def test_the_geometric_median_has_the_least_sum_of_distances():
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)).exp()
    median = geometric_median(points)

    def total(point):
        return (points - point).norm(dim=1).sum()

    for step in 0.01 * torch.cat([torch.eye(3), -torch.eye(3)]):
        assert total(median) <= total(median + step)


def test_resampling_points_dead_features_at_badly_reconstructed_inputs():
    sae = Standard(2, 4, l1_coefficient=0.1).requires_grad_(False)
    sae.W_dec.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))
    sae.W_enc[:, 0] = torch.tensor([1.0, 0.0])
    sae.b_enc[1:] = -1.0
    x = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])  # only the second is reconstructed badly
    dead = torch.tensor([False, True, True, True])
    changed = resample(sae, x, dead, seed=0)
    assert changed.tolist() == [False, True, False, False]
    assert sae.W_dec[1].tolist() == [0, 1]
    assert sae.b_enc.tolist() == [0, 0, -1, -1]
    assert torch.allclose(sae.W_enc[:, 1], torch.tensor([0.0, 0.2]))  # a fifth of the one that is alive
    assert not resample(sae, x, torch.zeros(4, dtype=torch.bool), seed=0).any()


def test_forgetting_zeroes_the_moments_of_those_features_only():
    sae = random_sae()
    adam = ConstrainedAdam(sae, 1.0)
    AutogradGradients(sae)(torch.randn(64, D_IN, generator=torch.Generator().manual_seed(0)), Moment())
    adam.step(0.01)
    features = torch.arange(D_SAE) < 5
    adam.forget(features)
    moments = [entry["exp_avg_sq"] for entry in adam.state_dict()["state"].values()]
    zero = {tuple(m.shape): (m == 0) for m in moments}
    assert torch.equal(zero[D_SAE, D_IN].all(1) & zero[D_IN, D_SAE].all(0) & zero[D_SAE,], features)
