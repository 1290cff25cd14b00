"""The parts of a training run that need no training: schedules, initial values, features begun anew."""

import torch

from sae_core.architectures import Standard
from sae_core.config import TrainingConfig
from sae_core.training.initial_values import geometric_median, resample
from sae_core.training.schedules import learning_rate_factor, sparsity_factor


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
