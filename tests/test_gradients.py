"""Gradients in closed form are those of autograd, for every architecture; the rules by which one of them is chosen."""

from dataclasses import replace

import numba
import pytest
import torch

from sae_core import encoder_products as products
from sae_core.architectures import ARCHITECTURES, Moment, build
from sae_core.config import (
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaBatchTopKConfig,
    PAnnealConfig,
    StandardAprilConfig,
    StandardConfig,
    TopKConfig,
)
from sae_core.training import codes as training_codes
from sae_core.training import sparse_kernels as kernels
from sae_core.training.gradients import AutogradGradients, choose_gradients

D_IN, D_SAE = 12, 50
STANDARD = StandardConfig(d_sae=D_SAE, l1_coefficient=0.3)
TOPK = [TopKConfig(d_sae=D_SAE, **given) for given in ({"k": 1}, {"k": 7}, {"k": 49}, {"k": 7, "aux_k": 3})]
OVER_BATCH = [
    BatchTopKConfig(d_sae=D_SAE, k=1),
    BatchTopKConfig(d_sae=D_SAE, k=7, aux_k=3),
    BatchTopKConfig(d_sae=D_SAE, k=45),
    MatryoshkaBatchTopKConfig(d_sae=D_SAE, k=7, group_fractions=[0.1, 0.3, 0.6], aux_k=3),
    MatryoshkaBatchTopKConfig(d_sae=D_SAE, k=7, group_fractions=[0.5, 0.5], group_weights=[3.0, 0.2]),
    MatryoshkaBatchTopKConfig(d_sae=D_SAE, k=2, group_fractions=[0.02, 0.9, 0.08]),
]
OTHERS = [
    STANDARD,
    StandardAprilConfig(d_sae=D_SAE, l1_coefficient=0.3),
    PAnnealConfig(d_sae=D_SAE, l1_coefficient=0.3),
    GatedConfig(d_sae=D_SAE, l1_coefficient=0.3),
    JumpReLUConfig(d_sae=D_SAE, target_l0=7),
]
NOW = Moment(step=3, n_steps=10, sparsity_scale=0.7)


@pytest.fixture(autouse=True)
def always_sparse_and_in_several_chunks(monkeypatch):
    monkeypatch.setattr(training_codes, "DENSE_SHARE", 1.0)
    monkeypatch.setattr(training_codes, "CHUNK", 32)
    monkeypatch.setattr("sae_core.training.auxiliary.CHUNK", 16)


def normal(*shape, seed=5):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_sae(variant, seed=0):
    """Every parameter away from where it begins: decoder rows of any length, biases of both signs."""
    sae = build(variant, D_IN, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sae.named_parameters():
        spread = {"b_dec": 1.0, "W_enc": 0.1, "W_dec": 0.1}.get(name, 0.3)
        parameter.data.add_(spread * torch.randn(parameter.shape, generator=generator))
    gate_bias(sae).sub_(0.3)
    return sae


def gate_bias(sae):
    """What decides how many features are active."""
    return sae.get_parameter("b_gate" if sae.architecture == "gated" else "b_enc").data


def gradients_of(compute, sae, x, moment):
    sae.zero_grad()
    numbers = compute(x, moment)
    return numbers, {name: parameter.grad.clone() for name, parameter in sae.named_parameters()}


def assert_same(sae, moment=NOW, n_tokens=75):
    """Gradients and numbers in closed form are those of autograd; returns the latter."""
    x = normal(n_tokens, D_IN)
    expected, reference = gradients_of(AutogradGradients(sae), sae, x, moment)
    sparse = choose_gradients(sae)
    assert sparse.name == "sparse"
    for _ in range(2):  # the second time into gradients that are there already
        found, closed = gradients_of(sparse, sae, x, moment)
        for name in reference:
            scale = max(1.0, float(reference[name].abs().max()))
            assert torch.allclose(closed[name], reference[name], rtol=1e-4, atol=2e-6 * scale), name
            assert closed[name].stride() == sae.get_parameter(name).stride()
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert found.error == pytest.approx(expected.error, rel=1e-5)
    assert found.l0 == pytest.approx(expected.l0)
    assert torch.equal(found.fired, expected.fired)
    assert (found.values is None) == (expected.values is None) == (not sae.observes)
    if sae.observes:
        assert torch.allclose(found.values.sort().values, expected.values.sort().values, rtol=1e-4, atol=1e-6)
    return expected, reference


def test_the_variants_here_are_of_every_architecture():
    assert {variant.architecture for variant in [*TOPK, *OVER_BATCH, *OTHERS]} == set(ARCHITECTURES)


@pytest.mark.parametrize("variant", [*TOPK, *OVER_BATCH], ids=lambda v: v.key)
@pytest.mark.parametrize("n_dead", [0, 1, 20, 50])
@pytest.mark.parametrize("coarse", [False, True])
def test_selecting_saes_have_the_gradients_of_autograd(variant, n_dead, coarse, monkeypatch):
    monkeypatch.setattr(products, "has_fast_int8", lambda: coarse)
    dead = (torch.arange(D_SAE) % 2 == 0).logical_not() if n_dead == 20 else torch.arange(D_SAE) < n_dead
    assert_same(random_sae(variant), replace(NOW, dead=dead if n_dead else None))


@pytest.mark.parametrize("variant", OTHERS, ids=lambda v: v.key)
@pytest.mark.parametrize("scale", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_saes_under_a_penalty_have_the_gradients_of_autograd(variant, scale, seed):
    assert_same(random_sae(variant, seed), replace(NOW, sparsity_scale=scale))


@pytest.mark.parametrize("step", [0, 3, 6, 7, 10])
def test_k_is_that_of_the_moment(step):
    numbers, _ = assert_same(random_sae(TopKConfig(d_sae=D_SAE, k=2, k_anneal=0.7)), Moment(step=step, n_steps=10))
    assert numbers.l0 == pytest.approx(12 - 10 * min(1, step / 7), abs=0.6)


@pytest.mark.parametrize("n_updated", [0, 1, 4, 10])
def test_the_power_of_the_penalty_is_that_of_now(n_updated):
    sae = random_sae(PAnnealConfig(d_sae=D_SAE, l1_coefficient=0.3))
    sae.n_updated += n_updated
    sae.coefficient *= 1 + n_updated
    assert_same(sae)


@pytest.mark.parametrize("bandwidth", [1e-3, 0.5, 2.0])
@pytest.mark.parametrize("threshold", [-0.4, 0.0, 0.1, 0.3, 1.0])
def test_thresholds_feel_what_is_near_them_and_zeros_where_the_window_holds_zero(bandwidth, threshold):
    """Those of half the features differ from that of the others, so that some windows hold zero and others do not."""
    sae = random_sae(JumpReLUConfig(d_sae=D_SAE, target_l0=7, bandwidth=bandwidth))
    sae.threshold.data.fill_(threshold)
    sae.threshold.data[::2] += 0.2 * normal(D_SAE // 2).abs()
    _, reference = assert_same(sae)
    assert bandwidth < 0.5 or reference["threshold"].any()


def test_gates_that_are_open_on_nothing_positive_learn_from_their_own_task_only():
    sae = random_sae(GatedConfig(d_sae=D_SAE, l1_coefficient=0.3))
    sae.b_mag.data.fill_(-100.0)
    numbers, reference = assert_same(sae)
    assert numbers.l0 == 0
    assert not reference["W_dec"].any()
    assert reference["b_gate"].any()


def test_a_decoder_row_of_length_zero_has_no_gradient_by_its_length():
    sae = random_sae(OTHERS[1])
    sae.W_dec.data[3] = 0
    assert_same(sae)


def test_an_auxiliary_loss_on_a_residual_without_variance_is_zero():
    sae = random_sae(TOPK[1])
    sae.b_enc.data.fill_(-100.0)
    x = torch.ones(4, D_IN)
    moment = Moment(dead=torch.ones(D_SAE, dtype=torch.bool))
    found, gradients = gradients_of(choose_gradients(sae), sae, x, moment)
    assert found.loss == pytest.approx(found.error)
    assert not gradients["W_enc"].any()


@pytest.mark.parametrize("variant", OTHERS, ids=lambda v: v.key)
def test_codes_that_are_not_sparse_go_through_dense_products_with_the_same_numbers(variant, monkeypatch):
    monkeypatch.setattr(training_codes, "DENSE_SHARE", 0.2)
    sae = random_sae(variant)
    gate_bias(sae).fill_(5.0)
    x = normal(40, D_IN)
    expected, reference = gradients_of(AutogradGradients(sae), sae, x, NOW)
    found, closed = gradients_of(choose_gradients(sae), sae, x, NOW)
    assert all(torch.equal(closed[name], reference[name]) for name in reference)
    assert found.loss == expected.loss
    assert found.l0 == expected.l0


def test_dense_and_sparse_batches_may_follow_each_other():
    """Each finds the gradients of the other where its own are to go."""
    sae, x = random_sae(STANDARD), normal(40, D_IN)
    sparse, dense = choose_gradients(sae), AutogradGradients(sae)
    _, expected = gradients_of(sparse, sae, x, NOW)
    for compute in (dense, sparse, sparse, dense, sparse):
        compute(x.T.contiguous().T, NOW)  # also of a batch that lies column by column
    assert all(torch.equal(parameter.grad, expected[name]) for name, parameter in sae.named_parameters())


def test_a_k_of_most_features_goes_through_dense_products(monkeypatch):
    monkeypatch.setattr(training_codes, "DENSE_SHARE", 0.2)
    sae = random_sae(TOPK[2])
    _, reference = gradients_of(AutogradGradients(sae), sae, normal(40, D_IN), NOW)
    _, closed = gradients_of(choose_gradients(sae), sae, normal(40, D_IN), NOW)
    assert all(torch.equal(closed[name], reference[name]) for name in reference)


@pytest.mark.parametrize("variant", [TOPK[1], OVER_BATCH[3], *OTHERS], ids=lambda v: v.key)
def test_a_batch_on_which_nothing_fires_moves_the_decoder_bias_only(variant):
    sae = random_sae(variant)
    gate_bias(sae).fill_(-100.0)
    if variant.architecture == "jumprelu":
        sae.threshold.data.fill_(1.0)
    x = torch.ones(4, D_IN)
    found, gradients = gradients_of(choose_gradients(sae), sae, x, NOW)
    assert found.l0 == 0
    assert not found.fired.any()
    assert found.values is None or len(found.values) == 0
    weight = sum(sae.group_weights) / len(sae.group_weights) if hasattr(sae, "group_weights") else 1.0
    assert torch.allclose(gradients.pop("b_dec"), weight * 2 * (sae.b_dec.detach() - 1))
    assert not any(gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("many", [0, 10**6])
def test_features_that_take_turns_on_a_few_tokens_sum_the_same_bits(many, monkeypatch):
    sae = random_sae(STANDARD)
    _, expected = gradients_of(choose_gradients(sae), sae, normal(75, D_IN), NOW)
    monkeypatch.setattr(kernels, "MANY", many)
    monkeypatch.setattr(kernels, "TOKENS_IN_CACHE", 16)
    compiled = numba.njit(parallel=True, error_model="numpy")(kernels.weight_gradients.py_func)
    monkeypatch.setattr(kernels, "weight_gradients", compiled)
    _, found = gradients_of(choose_gradients(sae), sae, normal(75, D_IN), NOW)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("variant", [TOPK[3], *OVER_BATCH[3:5], *OTHERS], ids=lambda v: v.key)
def test_the_number_of_threads_changes_no_bit(variant):
    sae, before = random_sae(variant), torch.get_num_threads()
    moment = replace(NOW, dead=torch.arange(D_SAE) < 20)
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            numbers, gradients = gradients_of(choose_gradients(sae), sae, normal(75, D_IN), moment)
            results.append((numbers.loss, numbers.error, gradients))
    finally:
        torch.set_num_threads(before)
    assert results[0][:2] == results[1][:2]
    assert all(torch.equal(results[0][2][name], results[1][2][name]) for name in results[0][2])


def test_the_reference_is_used_where_the_kernels_cannot():
    sae = random_sae(TOPK[0])
    assert choose_gradients(sae).name == "sparse"
    assert choose_gradients(sae, reference=True).name == "autograd"
    assert choose_gradients(sae.double()).name == "autograd"
    assert choose_gradients(random_sae(TopKConfig(d_sae=D_SAE, k=7, l1_coefficient=0.1))).name == "autograd"


@pytest.mark.parametrize("variant", [TOPK[0], *OTHERS], ids=lambda v: v.key)
def test_an_encoder_in_another_layout_is_refused(variant):
    sae = random_sae(variant)
    sae.W_enc.data = sae.W_enc.data.contiguous()
    with pytest.raises(ValueError, match="W_enc stored feature by feature"):
        choose_gradients(sae)
