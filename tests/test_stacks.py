"""Many small SAEs trained at once: the same as each alone, and the same as plain autograd says."""

import numba
import numpy as np
import pytest
import torch

from sae_core.architectures import build
from sae_core.config import BatchTopKConfig, StandardConfig, TopKConfig, TrainingConfig
from sae_core.training import train
from sae_core.training.stacks import StackSettings, stackable, train_stack

TOPK = TopKConfig(d_sae=13, k=3, aux_k_coefficient=0)
STANDARD = StandardConfig(d_sae=13, l1_coefficient=0.05)
D_IN, N_STEPS = 6, 25


def batches(n_steps=N_STEPS, seed=0, *more):
    return torch.randn(*more, n_steps, 32, D_IN, generator=torch.Generator().manual_seed(seed))


def saes(variant, n=3):
    return [build(variant, D_IN, seed) for seed in range(n)]


def weights(sae):
    return {name: parameter.detach().clone() for name, parameter in sae.named_parameters()}


def settings(n_steps=N_STEPS, lr=3e-3, **others):
    return StackSettings(np.full(n_steps, lr), **others)


def autograd_training(sae, data, lr, error_weight, l1, unit, grad_clip):
    """The same training by torch alone: its autograd, its Adam, its clipping."""
    adam = torch.optim.Adam(sae.parameters(), lr=lr)
    for x in data:
        adam.zero_grad()
        codes = sae.encode(x)
        error = (sae.decode(codes) - x).pow(2).sum(1).mean()
        (error_weight * error + l1 * codes.sum(1).mean()).backward()
        if unit:
            row = sae.W_dec.detach()
            sae.W_dec.grad -= (sae.W_dec.grad * row).sum(1, keepdim=True) * row
        if grad_clip:
            torch.nn.utils.clip_grad_norm_(sae.parameters(), grad_clip)
        adam.step()
        if unit:
            with torch.no_grad():
                sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("variant", [TOPK, STANDARD], ids=["topk", "standard"])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("mean_error", [True, False])
@pytest.mark.parametrize("grad_clip", [None, 0.1])
def test_a_stack_is_trained_as_autograd_and_adam_would(variant, unit, mean_error, grad_clip):
    data, stacked, alone = batches(), saes(variant), saes(variant)
    l1 = 0.02 if isinstance(variant, TopKConfig) else variant.l1_coefficient
    train_stack(stacked, [data], settings(unit_decoder=unit, mean_error=mean_error, grad_clip=grad_clip, code_l1=0.02))
    for one, other in zip(stacked, alone, strict=True):
        autograd_training(other, data, 3e-3, 1 / D_IN if mean_error else 1.0, l1, unit, grad_clip)
        for name, value in weights(one).items():
            torch.testing.assert_close(value, weights(other)[name], rtol=0, atol=2e-5)


@pytest.mark.parametrize("variant", [TOPK, STANDARD], ids=["topk", "standard"])
def test_a_stack_is_trained_as_the_loop_trains_each(variant):
    config = TrainingConfig(
        n_steps=N_STEPS,
        batch_size=32,
        lr=3e-3,
        warmup_steps=0,
        decay_start=1,
        sparsity_warmup_steps=0,
        b_dec_init="zero",
        checkpoints=[],
    )
    stacked, alone = saes(variant), saes(variant)
    train_stack(stacked, [batches()], settings(grad_clip=config.grad_clip))
    for one, other in zip(stacked, alone, strict=True):
        train(other, iter(batches()), config)
        for name, value in weights(one).items():
            torch.testing.assert_close(value, weights(other)[name], rtol=0, atol=2e-5)


@pytest.mark.parametrize("variant", [TOPK, STANDARD], ids=["topk", "standard"])
def test_an_sae_has_the_same_bits_alone_in_a_stack_and_on_any_number_of_threads(variant):
    found = []
    for n_threads, places in ((1, [0, 1, 2]), (min(2, numba.config.NUMBA_NUM_THREADS), [0, 1, 2]), (1, [1])):
        torch.set_num_threads(n_threads)
        try:
            stack = [saes(variant)[place] for place in places]
            train_stack(stack, [batches()], settings())
        finally:
            torch.set_num_threads(1)
        found.append(weights(stack[places.index(1)]))
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in other)


def test_each_sae_may_have_batches_of_its_own():
    own = batches(N_STEPS, 1, 3)
    stack = saes(TOPK)
    train_stack(stack, [own], settings())
    for place, sae in enumerate(stack):
        alone = saes(TOPK)[place]
        train_stack([alone], [own[place]], settings())
        assert torch.equal(sae.W_dec, alone.W_dec)


def test_the_blocks_that_batches_come_in_change_nothing():
    data, whole, cut = batches(), saes(TOPK), saes(TOPK)
    train_stack(whole, [data], settings())
    train_stack(cut, list(data.split([1, 7, 9, 8])), settings())
    assert torch.equal(whole[2].W_enc, cut[2].W_enc)


def test_what_is_kept_on_the_way_is_what_a_shorter_training_ends_with():
    data, stack, kept = batches(), saes(TOPK), {}
    train_stack(
        stack,
        [data],
        settings(),
        keep_after=[0, 10, N_STEPS],
        on_kept=lambda step: kept.update({step: weights(stack[0])}),
    )
    shorter = saes(TOPK)
    train_stack(shorter, [data], settings(10))
    assert torch.equal(kept[0]["W_dec"], saes(TOPK)[0].W_dec)
    assert torch.equal(kept[10]["W_dec"], shorter[0].W_dec)
    assert torch.equal(kept[N_STEPS]["W_dec"], stack[0].W_dec)


def test_the_curve_tells_error_and_l0_before_each_step():
    data, stack = batches(), saes(TOPK)
    before = [weights(sae) for sae in stack]
    curve = train_stack(stack, [data], settings())
    fresh = saes(TOPK)[1]
    assert torch.equal(fresh.W_dec, before[1]["W_dec"])
    codes = fresh.encode(data[0])
    error = (fresh.decode(codes) - data[0]).pow(2).sum(1).mean()
    assert curve.error[1, 0] == pytest.approx(float(error), rel=1e-5)
    assert curve.l0[1, 0] == pytest.approx(float((codes > 0).sum(1).double().mean()))
    assert curve.error[:, -5:].mean() < curve.error[:, :5].mean()


def test_unit_rows_stay_unit_rows_and_free_ones_do_not():
    for unit in (True, False):
        stack = saes(TOPK)
        train_stack(stack, [batches()], settings(unit_decoder=unit))
        lengths = stack[0].W_dec.norm(dim=1)
        assert torch.allclose(lengths, torch.ones(13), atol=1e-6) == unit


def test_options_are_left_to_the_loop():
    assert stackable(TOPK)
    assert stackable(STANDARD)
    assert not stackable(TopKConfig(d_sae=13, k=3))
    assert not stackable(TopKConfig(d_sae=13, k=3, aux_k_coefficient=0, k_anneal=0.5))
    assert not stackable(StandardConfig(d_sae=13, l1_coefficient=0.1, aligned=True))
    assert not stackable(BatchTopKConfig(d_sae=13, k=3))


def test_what_cannot_be_stacked_is_refused():
    data = [batches()]
    with pytest.raises(ValueError, match="at least one SAE"):
        train_stack([], data, settings())
    with pytest.raises(ValueError, match="differ in their weights only"):
        train_stack([*saes(TOPK), *saes(STANDARD)], data, settings())
    with pytest.raises(ValueError, match="use train_together"):
        train_stack(saes(BatchTopKConfig(d_sae=13, k=3)), data, settings())
    with pytest.raises(ValueError, match="ended after 25 steps, expected 30"):
        train_stack(saes(TOPK), data, settings(30))
    with pytest.raises(ValueError, match=r"batches must be \(n_steps, batch, 6\)"):
        train_stack(saes(TOPK), [torch.zeros(3, 4, 5)], settings(3))


def test_an_sae_that_diverges_is_named_with_its_step():
    data = batches()
    data[7, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="SAE 0 of the stack diverged at step 7"):
        train_stack(saes(TOPK), [data], settings())
