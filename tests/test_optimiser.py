"""The update, held equal to torch.optim.Adam with the constraints written out, by kernels and without."""

import numpy as np
import pytest
import torch

from sae_core.architectures import Standard, build
from sae_core.config import GatedConfig, JumpReLUConfig, StandardAprilConfig, StandardConfig, TopKConfig
from sae_core.training.optimiser import ConstrainedAdam

D_IN, D_SAE = 70, 40
VARIANTS = [
    TopKConfig(d_sae=D_SAE, k=3),
    StandardAprilConfig(d_sae=D_SAE, l1_coefficient=0.1),  # decoder rows of any length
    GatedConfig(d_sae=D_SAE, l1_coefficient=0.1),  # parameters and betas of its own
    JumpReLUConfig(d_sae=D_SAE, target_l0=4),
]
CONSTRAINTS = [
    {"grad_clip": 1.0},
    {"grad_clip": None},
    {"grad_clip": 1.0, "l2_coefficient": 0.3},
    {"grad_clip": 0.5, "aligned": True},
    {"grad_clip": 1e3, "l2_coefficient": 0.1, "aligned": True},
]


def random_sae(variant, seed=0, *, by_kernels=True):
    sae = build(variant, D_IN, seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in sae.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    if sae.unit_decoder:
        sae.W_dec.data.div_(sae.W_dec.data.norm(dim=1, keepdim=True))
    if not by_kernels:
        sae.W_enc.data = sae.W_enc.data.contiguous()
    return sae


def set_gradients(sae, seed, *, idle=3):
    """Random ones; feature ``idle`` did not fire."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in sae.parameters():
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
    sae.W_dec.grad[idle] = 0.0
    sae.W_enc.grad[:, idle] = 0.0


def bits(sae):
    return [parameter.detach().clone().contiguous() for parameter in sae.parameters()]


@torch.no_grad()
def expected_step(sae, adam, lr, grad_clip, l2_coefficient=0.0, aligned=False):
    """The step as the contract of ``ConstrainedAdam`` has it, by torch's own parts."""
    for weights in (sae.W_enc, sae.W_dec):
        weights.grad += 2 * l2_coefficient * weights
    if aligned:
        sae.W_enc.grad -= (sae.W_enc.grad * sae.W_dec.T).sum(0) * sae.W_dec.T
    if sae.unit_decoder:
        sae.W_dec.grad -= (sae.W_dec.grad * sae.W_dec).sum(1, keepdim=True) * sae.W_dec
    if grad_clip is not None:
        torch.nn.utils.clip_grad_norm_(sae.parameters(), grad_clip)
    adam.param_groups[0]["lr"] = lr
    adam.step()
    if sae.unit_decoder:
        sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
    if aligned:
        sae.W_enc += (1 - (sae.W_enc * sae.W_dec.T).sum(0)) * sae.W_dec.T


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.architecture)
@pytest.mark.parametrize("constraints", CONSTRAINTS, ids=str)
@pytest.mark.parametrize("by_kernels", [True, False])
def test_steps_are_those_of_torchs_adam_under_the_constraints(variant, constraints, by_kernels):
    sae, expected = random_sae(variant, by_kernels=by_kernels), random_sae(variant)
    ours = ConstrainedAdam(sae, **constraints)
    adam = torch.optim.Adam(expected.parameters(), betas=expected.adam_betas, eps=1e-8)
    for step, lr in enumerate((0.01, 0.02, 0.0, 0.005)):
        for one in (
            sae,
            expected,
        ):  # of a decay along the row, the formulas leave rounding errors, which Adam scales up
            set_gradients(one, step, idle=slice(0, 0) if "l2_coefficient" in constraints else 3)
        ours.step(lr)
        expected_step(expected, adam, lr, **constraints)
        for name, parameter in expected.named_parameters():
            assert torch.allclose(sae.get_parameter(name), parameter, rtol=1e-5, atol=2e-6), (step, name)


@pytest.mark.parametrize("by_kernels", [True, False])
def test_the_first_step_in_numbers(by_kernels):
    sae = Standard(2, 3, l1_coefficient=0.1)
    sae.W_dec.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
    if not by_kernels:
        sae.W_enc.data = sae.W_enc.data.contiguous()
    for parameter in sae.parameters():
        parameter.grad = torch.zeros_like(parameter)
    sae.W_dec.grad[0] = torch.tensor([5.0, 3.0])  # 5 of it along the row
    sae.b_dec.grad[0] = 4.0
    adam = ConstrainedAdam(sae, grad_clip=1.0)
    adam.step(lr=0.1)
    # The norm was 5, so what is left of the gradient is (0, 3 / 5) and 4 / 5.
    moments = adam.state_dict()["moments"]
    assert torch.allclose(moments["W_dec"][0][0], torch.tensor([0.0, 0.06]), atol=1e-7)
    assert moments["b_dec"][1].tolist() == pytest.approx([0.00064, 0])
    # Adam's first step has the length of the learning rate in every coordinate that moves.
    assert torch.allclose(sae.W_dec[0], torch.tensor([1.0, -0.1]) / 1.01**0.5, atol=1e-6)
    assert sae.b_dec.tolist() == pytest.approx([-0.1, 0])
    assert torch.equal(sae.W_dec[1], torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("by_kernels", [True, False])
def test_aligned_encoders_have_one_with_their_decoders_after_every_step(by_kernels):
    sae = random_sae(VARIANTS[0], by_kernels=by_kernels)
    adam = ConstrainedAdam(sae, 1.0, aligned=True)
    for step in range(3):
        set_gradients(sae, step)
        adam.step(0.1)
        assert torch.allclose((sae.W_enc.T * sae.W_dec).sum(1), torch.ones(D_SAE), atol=1e-5)
        assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(D_SAE), atol=1e-6)


def test_without_a_gradient_of_the_loss_the_l2_coefficient_shrinks_the_encoder():
    sae = random_sae(VARIANTS[0])
    before = sae.W_enc.detach().clone()
    for parameter in sae.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adam = ConstrainedAdam(sae, grad_clip=None, l2_coefficient=0.25)
    adam.step(0.001)
    assert torch.allclose(adam.state_dict()["moments"]["W_enc"][0], 0.1 * 0.5 * before, atol=1e-7)
    assert (sae.W_enc.detach().abs() <= before.abs()).float().mean() > 0.99
    assert torch.allclose(adam.state_dict()["moments"]["W_dec"][0], torch.zeros(()), atol=1e-7)  # along its row


@pytest.mark.parametrize("by_kernels", [True, False])
def test_a_decoder_row_of_zeros_stays_one(by_kernels):
    sae = random_sae(VARIANTS[0], by_kernels=by_kernels)
    set_gradients(sae, 0)
    sae.W_dec.data[3] = 0.0
    ConstrainedAdam(sae, 1.0).step(0.1)
    assert torch.equal(sae.W_dec[3].detach(), torch.zeros(D_IN))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.architecture)
def test_the_number_of_threads_changes_no_bit(variant):
    found = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        sae = random_sae(variant)
        adam = ConstrainedAdam(sae, 1.0, l2_coefficient=0.1, aligned=True)
        for step in range(3):
            set_gradients(sae, step)
            adam.step(0.01)
        found.append(bits(sae))
    torch.set_num_threads(1)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize("by_kernels", [True, False])
@pytest.mark.parametrize(("value", "norm"), [(1e30, "inf"), (np.nan, "nan"), (np.inf, "(inf|nan)")])
def test_a_gradient_that_is_not_finite_is_refused_and_changes_nothing(value, norm, by_kernels):
    sae = random_sae(VARIANTS[0], by_kernels=by_kernels)
    adam = ConstrainedAdam(sae, 1.0)
    set_gradients(sae, 0)
    adam.step(0.1)
    before, moments = bits(sae), [m.clone() for pair in adam.state_dict()["moments"].values() for m in pair]
    sae.W_enc.grad[2, 5] = value
    with pytest.raises(ValueError, match=f"the norm of the gradient became {norm}; lower lr or raise warmup_steps"):
        adam.step(0.1)
    assert all(torch.equal(one, two) for one, two in zip(before, bits(sae), strict=True))
    after = [m for pair in adam.state_dict()["moments"].values() for m in pair]
    assert all(torch.equal(one, two) for one, two in zip(moments, after, strict=True))
    assert adam.state_dict()["steps"] == 1


def test_a_parameter_without_a_gradient_is_refused():
    sae = random_sae(VARIANTS[0])
    set_gradients(sae, 0)
    sae.b_enc.grad = None
    with pytest.raises(RuntimeError, match="b_enc has no gradient: compute the gradients before the step"):
        ConstrainedAdam(sae, 1.0).step(0.1)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.architecture)
@pytest.mark.parametrize("by_kernels", [True, False])
def test_an_optimiser_that_takes_up_a_state_goes_on_with_the_same_bits(variant, by_kernels, tmp_path):
    sae = random_sae(variant, by_kernels=by_kernels)
    adam = ConstrainedAdam(sae, 1.0)
    for step in range(2):
        set_gradients(sae, step)
        adam.step(0.01)
    torch.save({"sae": sae.state_dict(), "adam": adam.state_dict()}, tmp_path / "state")
    saved = torch.load(tmp_path / "state", weights_only=True)
    other = random_sae(variant, seed=1, by_kernels=by_kernels)
    resumed = ConstrainedAdam(other, 1.0)
    other.load_state_dict(saved["sae"])
    resumed.load_state_dict(saved["adam"])
    for one, optimiser in ((sae, adam), (other, resumed)):
        set_gradients(one, 2)
        optimiser.step(0.01)
    assert all(torch.equal(one, two) for one, two in zip(bits(sae), bits(other), strict=True))


def test_a_state_of_kernels_is_one_without_kernels():
    states = [ConstrainedAdam(random_sae(VARIANTS[0], by_kernels=kind), 1.0).state_dict() for kind in (True, False)]
    ConstrainedAdam(random_sae(VARIANTS[0]), 1.0).load_state_dict(states[1])
    ConstrainedAdam(random_sae(VARIANTS[0], by_kernels=False), 1.0).load_state_dict(states[0])


def test_the_state_of_another_sae_is_refused():
    state = ConstrainedAdam(random_sae(VARIANTS[0]), 1.0).state_dict()
    with pytest.raises(ValueError, match="expected moments of .*b_gate.* resume the run that saved them"):
        ConstrainedAdam(random_sae(VARIANTS[2]), 1.0).load_state_dict(state)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.architecture)
def test_forgetting_zeroes_the_moments_of_those_features_only(variant):
    sae = random_sae(variant)
    adam = ConstrainedAdam(sae, 1.0)
    set_gradients(sae, 0)
    sae.W_enc.grad[:, 3], sae.W_dec.grad[3] = 1.0, 1.0
    adam.step(0.01)
    features = torch.arange(D_SAE) < 5
    adam.forget(features)
    for name, moments in adam.state_dict()["moments"].items():
        for moment in moments:
            rows = moment.T if name == "W_enc" else moment
            if name == "b_dec":
                assert moment.all()
            else:
                assert torch.equal((rows.reshape(D_SAE, -1) == 0).all(1), features), name


def test_a_new_optimiser_has_nothing_to_forget():
    adam = ConstrainedAdam(random_sae(VARIANTS[0]), 1.0)
    adam.forget(torch.ones(D_SAE, dtype=torch.bool))
    assert adam.state_dict()["steps"] == 0


def test_standard_saes_are_updated_on_a_gpu_or_in_double_by_torch():
    sae = random_sae(StandardConfig(d_sae=D_SAE, l1_coefficient=0.1)).double()
    set_gradients(sae, 0)
    ConstrainedAdam(sae, 1.0).step(0.01)
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(D_SAE, dtype=torch.float64))
