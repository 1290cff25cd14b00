"""The loss of every architecture, with numbers that can be checked in the head."""

import pytest
import torch

from sae_core.architectures import (
    BatchTopK,
    Conventions,
    Gated,
    JumpReLU,
    MatryoshkaBatchTopK,
    Moment,
    PAnneal,
    Standard,
    StandardApril,
    TopK,
    build,
)
from sae_core.architectures.trainable import auxiliary_loss
from sae_core.config import TopKConfig
from tests.tiny_saes import hand_made


def test_the_standard_loss_is_squared_error_plus_the_weighted_sum_of_codes():
    sae = hand_made(Standard(2, 3, l1_coefficient=0.5))
    sae.b_enc.data.copy_(torch.tensor([-1.0, -1.0, 0.0]))
    loss = sae.loss(torch.tensor([[3.0, 4.0]]), Moment(sparsity_scale=0.5))
    assert loss.error.item() == 2  # one too little on both axes
    assert loss.total.item() == 2 + 0.5 * 0.5 * (2 + 3)
    assert (loss.codes > 0).sum() == 2


def test_the_topk_loss_is_the_squared_error_and_knows_no_sparsity_scale():
    sae = hand_made(TopK(2, 3, k=1, aux_k_coefficient=1.0))
    x = torch.tensor([[3.0, 4.0]])
    assert sae.loss(x, Moment(sparsity_scale=0.0)).total.item() == sae.loss(x).total.item() == 9


def test_the_auxiliary_loss_is_the_share_of_the_residual_that_dead_features_miss():
    residual = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])  # variance 4
    pre, w_dec = torch.tensor([[1.0, 0.5], [-1.0, -0.5]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # With one feature a token: (2 - 1)^2 on the first, 2^2 on the second, mean 2.5, over 4.
    assert auxiliary_loss(pre, w_dec, residual, aux_k=1).item() == 2.5 / 4
    assert auxiliary_loss(pre[:, :0], w_dec[:0], residual, aux_k=1).item() == 0
    assert auxiliary_loss(pre, w_dec, torch.ones(2, 2), aux_k=1).item() == 0


def test_the_auxiliary_loss_moves_dead_features_only():
    sae = build(TopKConfig(d_sae=24, k=3, aux_k_coefficient=1.0), d_in=8, seed=0)
    dead = torch.zeros(24, dtype=torch.bool)
    dead[:6] = True
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    gradients = []
    for given_dead in (None, dead):
        sae.zero_grad()
        sae.loss(x, Moment(dead=given_dead)).total.backward()
        gradients.append(sae.W_dec.grad.clone())
    moved = (gradients[0] - gradients[1]).abs().sum(1) > 0
    assert torch.equal(moved, dead)


def test_the_april_loss_weighs_each_code_by_the_length_of_its_decoder_row():
    sae = hand_made(StandardApril(2, 3, l1_coefficient=0.5))
    sae.W_dec.data.mul_(torch.tensor([[2.0], [3.0], [1.0]]))
    sae.b_enc.data.copy_(torch.tensor([-1.0, -1.0, 0.0]))
    loss = sae.loss(torch.tensor([[3.0, 4.0]]), Moment(sparsity_scale=0.5))
    # Codes 2 and 3 write (4, 9).
    assert loss.error.item() == 1 + 25
    assert loss.total.item() == 26 + 0.5 * 0.5 * (2 * 2 + 3 * 3)


TWO_TOKENS = torch.tensor([[3.0, 4.0], [1.0, 0.0]])


def test_the_tokens_of_a_batch_compete_in_batchtopk():
    sae = hand_made(BatchTopK(2, 3, k=1))
    loss = sae.loss(TWO_TOKENS)
    assert loss.codes.tolist() == [[3, 4, 0], [0, 0, 0]]
    assert loss.total.item() == loss.error.item() == 0.5  # the second token, of squared norm 1, is lost
    # In use no token knows of the others: every positive code until the threshold starts, then those above it.
    assert sae.encode(TWO_TOKENS).tolist() == [[3, 4, 0], [1, 0, 0]]
    sae.threshold.fill_(3.0)
    assert sae.encode(TWO_TOKENS).tolist() == [[0, 4, 0], [0, 0, 0]]


@pytest.mark.parametrize(("weights", "total"), [(None, (8.5 / 2 + 0.5 / 2) / 2), ([2.0, 4.0], (17 + 2) / 2)])
def test_the_matryoshka_loss_is_the_mean_of_the_weighted_errors_of_nested_dictionaries(weights, total):
    sae = hand_made(MatryoshkaBatchTopK(2, 3, k=1, group_fractions=[1 / 3, 2 / 3], group_weights=weights))
    loss = sae.loss(TWO_TOKENS)
    # The first feature alone misses (0, 4) and (1, 0); all together miss (1, 0).
    assert loss.error.item() == 0.5
    assert loss.total.item() == pytest.approx(total)
    assert loss.codes.tolist() == [[3, 4, 0], [0, 0, 0]]


@pytest.mark.parametrize("kind", [BatchTopK, MatryoshkaBatchTopK])
def test_the_auxiliary_loss_joins_the_loss_of_batchtopk_with_its_weight(kind):
    groups = {"group_fractions": [1 / 3, 2 / 3]} if kind is MatryoshkaBatchTopK else {}
    sae = hand_made(kind(2, 3, k=1, aux_k=1, aux_k_coefficient=0.25, **groups))
    without = sae.loss(TWO_TOKENS).total.item()
    dead = torch.tensor([True, False, False])
    # The residual is (0, 0) and (1, 0), of variance 1/4; the dead feature adds (3, 0) and (1, 0) to nothing: error 9/2.
    expected = 0.25 * (9 / 2) / 0.25
    assert sae.loss(TWO_TOKENS, Moment(dead=dead)).total.item() == pytest.approx(without + expected)


def thresholds(*values, **settings):
    sae = hand_made(JumpReLU(2, 3, bandwidth=1.0, conventions=Conventions(subtract_b_dec=False), **settings))
    sae.threshold.data.copy_(torch.tensor(values))
    return sae


def test_the_jumprelu_loss_holds_l0_at_its_target():
    sae = thresholds(3.5, 3.5, 1.0, target_l0=2.0, sparsity_coefficient=2.0)
    loss = sae.loss(torch.tensor([[3.0, 4.0]]), Moment(sparsity_scale=0.5))
    assert loss.codes.tolist() == [[0, 4, 0]]
    assert loss.error.item() == 9
    assert loss.total.item() == 9 + 2 * 0.5 * (1 / 2 - 1) ** 2


def test_a_threshold_feels_only_what_is_closer_than_half_a_bandwidth():
    x = torch.tensor([[3.0, 4.0]])
    sae = thresholds(2.75, 3.0, 1.0, target_l0=1.0)
    sae.loss(x).total.backward()
    # No error; (L0 - 1)^2 at L0 = 2 has the derivative 2, of which only the first feature feels -1 / bandwidth.
    assert sae.threshold.grad.tolist() == [-2, 0, 0]

    sae = thresholds(3.25, 3.0, 1.0, target_l0=1.0)
    sae.loss(x).total.backward()
    # L0 is at its target. The error is 9, its derivative by the first code -6, and by its threshold -6 * -3.25.
    assert sae.threshold.grad.tolist() == [6 * 3.25, 0, 0]


def test_l0_looks_at_codes_so_a_value_just_below_its_threshold_does_not_pull_it_down():
    sae = thresholds(3.25, 3.0, 1.0, target_l0=2.0)
    x = torch.tensor([[3.0, 4.0]])
    with_l0 = torch.autograd.grad(sae.loss(x).total, sae.threshold)[0]
    error = torch.autograd.grad(sae.loss(x).error, sae.threshold)[0]
    assert torch.equal(with_l0, error)


def gated():
    sae = hand_made(Gated(2, 3, l1_coefficient=0.5))
    sae.b_gate.data.copy_(torch.tensor([-2.0, -5.0, 0.0]))
    sae.b_mag.data.copy_(torch.tensor([1.0, 1.0, 9.0]))
    sae.r_mag.data.copy_(torch.tensor([2.0, 1.0, 1.0]).log())
    return sae


def test_the_gated_loss_penalises_gates_and_reconstructs_from_them_too():
    loss = gated().loss(torch.tensor([[3.0, 4.0]]), Moment(sparsity_scale=0.5))
    # Codes (7, 0, 0) miss (4, -4); gates (1, 0, 0) miss (2, 4).
    assert loss.error.item() == 32
    assert loss.total.item() == 32 + 20 + 0.5 * 0.5 * 1


def test_the_decoder_learns_nothing_from_the_task_of_the_gates():
    sae = gated()
    sae.loss(torch.tensor([[3.0, 4.0]])).total.backward()
    assert sae.W_dec.grad.tolist() == [[7 * 2 * 4, 7 * 2 * -4], [0, 0], [0, 0]]
    # The gate of the first feature: the penalty 0.5, and 2 (1 - 3) from the error of the gates.
    assert sae.b_gate.grad.tolist() == [0.5 - 4, 0, 0]


def test_the_p_annealed_loss_is_a_sum_of_powers():
    sae = hand_made(PAnneal(2, 3, l1_coefficient=0.1, p_end=0.5, anneal_start=0.0, n_updates=2))
    x = torch.tensor([[4.0, 9.0]])
    assert sae.loss(x, Moment(sparsity_scale=0.5)).total.item() == pytest.approx(0.5 * 0.1 * 13)
    sae.n_updated.fill_(2)
    assert sae.p == 0.5
    assert sae.loss(x).total.item() == pytest.approx(0.1 * (2 + 3))


def test_the_gradient_of_a_power_is_finite_where_codes_are_zero():
    sae = hand_made(PAnneal(2, 3, l1_coefficient=0.1, p_end=0.5, anneal_start=0.0, n_updates=2))
    sae.n_updated.fill_(2)
    sae.loss(torch.tensor([[4.0, 0.0], [0.0, 9.0]])).total.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in sae.parameters())


def test_k_falls_linearly_from_d_in_while_it_is_annealed():
    sae = TopK(8, 24, k=3, k_anneal=0.5)
    assert [sae.k_at(Moment(step, n_steps=100)) for step in (0, 10, 30, 40, 50, 99)] == [8, 7, 5, 4, 3, 3]
    assert TopK(8, 24, k=3).k_at(Moment(0, n_steps=100)) == 3
    assert TopK(8, 24, k=10, k_anneal=0.5).k_at(Moment(0, n_steps=100)) == 10  # d_in below k: nothing to anneal
    assert TopK(80, 24, k=3, k_anneal=0.5).k_at(Moment(0, n_steps=100)) == 23  # no more than there are
    sae.initialise(0)
    sae.b_enc.data.fill_(5.0)
    x = torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    assert (sae.loss(x, Moment(0, n_steps=100)).codes > 0).sum(1).tolist() == [8] * 5
    assert (sae.encode(x) > 0).sum(1).tolist() == [3] * 5


def test_l1_of_what_was_not_selected_counts_features_that_some_token_selected():
    sae = TopK(8, 24, k=3, l1_coefficient=0.5)
    sae.initialise(0)
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    pre = (x @ sae.W_enc).tolist()
    chosen = [sorted(range(24), key=lambda i, row=row: -row[i])[:3] for row in pre]
    alive = {i for token in chosen for i in token}
    penalty = sum(
        max(0.0, row[i]) for row, token in zip(pre, chosen, strict=True) for i in alive if i not in token
    ) / len(pre)
    loss = sae.loss(x, Moment(sparsity_scale=0.4))
    assert loss.total.item() == pytest.approx(loss.error.item() + 0.5 * 0.4 * penalty, rel=1e-5)
