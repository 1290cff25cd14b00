"""What architectures remember besides their weights while they are trained, and what is left of it afterwards."""

import copy

import pytest
import torch

from sae_core.architectures import BatchTopK, JumpReLU, MatryoshkaBatchTopK, Moment, PAnneal, Standard, build
from sae_core.config import MatryoshkaBatchTopKConfig
from tests.tiny_saes import D_IN, TRAINED, filled, random_sae

every_architecture = pytest.mark.parametrize("variant", TRAINED, ids=lambda v: v.architecture)
N_STEPS = 20


@pytest.fixture
def x():
    return torch.randn(32, D_IN, generator=torch.Generator().manual_seed(9))


def observed(sae, n_steps=N_STEPS):
    """The SAE after ``n_steps`` steps without updates."""
    for step in range(n_steps):
        x = torch.randn(16, D_IN, generator=torch.Generator().manual_seed(step))
        codes = sae.loss(x, Moment(step, N_STEPS)).codes.detach()
        if sae.observes:
            sae.observe(codes[codes > 0], len(x), Moment(step, N_STEPS))
    return sae


def state(sae):
    return {name: value.clone() for name, value in sae.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name].nan_to_num(-7), b[name].nan_to_num(-7)) for name in a)


@every_architecture
def test_the_loss_changes_no_state_and_observing_changes_no_weights(variant, x):
    sae = build(variant, D_IN, seed=0)
    before = state(sae)
    sae.loss(x, Moment(10, N_STEPS)).total.backward()
    assert same(state(sae), before)
    observed(sae)
    weights = dict(sae.named_parameters())
    changed = {name for name, value in state(sae).items() if not same({name: value}, {name: before[name]})}
    assert not changed & weights.keys()
    assert bool(changed) == sae.observes


@every_architecture
def test_a_state_dict_holds_all_that_the_next_step_depends_on(variant, x):
    sae = observed(build(variant, D_IN, seed=0), 12)
    other = build(variant, D_IN, seed=1)
    other.load_state_dict(copy.deepcopy(sae.state_dict()))
    for resumed in (sae, other):
        observed(resumed)
    assert same(state(sae), state(other))
    assert sae.watched() == other.watched()
    assert torch.equal(sae.loss(x).total, other.loss(x).total)


@every_architecture
def test_the_finished_sae_computes_the_same(variant, x):
    sae = random_sae(variant)
    before, finished = state(sae), sae.finished()
    assert torch.allclose(finished(x), sae(x), atol=1e-4)
    assert same(state(sae), before)
    assert not any(parameter.requires_grad for parameter in finished.parameters())
    if variant.architecture != "standard_april":
        assert torch.equal(finished.encode(x), sae.encode(x))


def test_a_finished_april_sae_has_unit_rows_and_codes_as_much_larger(x):
    sae = random_sae(next(variant for variant in TRAINED if variant.architecture == "standard_april"))
    finished, length = sae.finished(), sae.W_dec.norm(dim=1)
    assert type(finished) is Standard
    assert finished.l1_coefficient == 0.1
    assert torch.allclose(finished.W_dec.norm(dim=1), torch.ones(len(length)))
    assert torch.allclose(finished.encode(x), sae.encode(x) * length, atol=1e-5)


@pytest.mark.parametrize("name", ["batch_topk", "matryoshka_batch_topk"])
def test_a_finished_batchtopk_sae_is_a_jumprelu_sae_with_one_threshold(name):
    finished = random_sae(next(variant for variant in TRAINED if variant.architecture == name)).finished()
    assert type(finished) is JumpReLU
    assert finished.threshold.tolist() == pytest.approx([0.7] * finished.d_sae)


def test_a_finished_p_annealed_sae_is_a_standard_sae():
    finished = random_sae(next(variant for variant in TRAINED if variant.architecture == "p_anneal")).finished()
    assert type(finished) is Standard


def observe(sae, smallest, step, n_steps):
    sae.observe(torch.tensor([9.0, smallest, 5.0]), 2, Moment(step, n_steps))
    return sae.watched()["threshold"]


@pytest.mark.parametrize(("start", "n_steps", "first"), [(3, 100, 4), (0, 100, 1), (1000, 8, 5)])
def test_the_threshold_starts_at_its_step_or_after_half_of_a_short_training(start, n_steps, first):
    sae = BatchTopK(D_IN, 24, k=3, threshold_start_steps=start)
    assert [observe(sae, 2.0, step, n_steps) for step in range(8)] == [-1.0] * first + [2.0] * (8 - first)


def test_the_threshold_is_a_running_mean_of_the_smallest_code_kept():
    sae = BatchTopK(D_IN, 24, k=3, threshold_start_steps=0, threshold_beta=0.75)
    assert [observe(sae, smallest, 50, 100) for smallest in (2.0, 4.0, 1.5)] == [2.0, 2.5, 2.25]
    sae.observe(torch.empty(0), 2, Moment(51, 100))  # nothing fired: the smallest code is zero
    assert sae.watched() == {"threshold": 2.25 * 0.75}


def p_annealed(**settings):
    return PAnneal(D_IN, 24, l1_coefficient=0.5, p_end=0.2, anneal_start=0.2, n_updates=5, **settings)


def test_p_falls_at_the_right_steps_and_its_last_value_belongs_to_the_end():
    sae, powers = p_annealed(), []
    for step in range(100):
        powers.append(round(sae.p, 6))  # what the loss of this step is computed with
        sae.observe(torch.tensor([4.0, 9.0]), 1, Moment(step, 100))
    assert powers == [1.0] * 41 + [0.8] * 20 + [0.6] * 20 + [0.4] * 19


def test_the_penalty_keeps_its_size_when_p_falls():
    sae, values = p_annealed(), torch.tensor([4.0, 9.0, 0.5], dtype=torch.float64)
    for step in range(100):
        sae.observe(values.float(), 1, Moment(step, 100))
        assert sae.penalty * float(values.pow(sae.p).sum()) == pytest.approx(0.5 * 13.5)


def test_the_size_of_the_penalty_is_taken_over_the_last_batches():
    sae, generator = p_annealed(n_recent=3), torch.Generator().manual_seed(0)
    seen = [torch.rand(10, generator=generator).double() + 0.1 for _ in range(41)]
    for step, values in enumerate(seen):
        sae.observe(values.float(), 4, Moment(step, 100))
    now, after = (sum(float(values.pow(p).sum()) for values in seen[-3:]) for p in (1.0, 0.8))
    assert sae.p == pytest.approx(0.8)
    assert sae.penalty == pytest.approx(0.5 * now / after, rel=1e-5)


def test_batches_without_a_positive_code_leave_the_penalty_as_it_is():
    sae = p_annealed()
    for step in range(100):
        sae.observe(torch.empty(0), 4, Moment(step, 100))
    assert sae.watched() == {"p": pytest.approx(0.4), "penalty": 0.5}


def test_groups_take_their_share_of_the_features_and_the_last_one_what_is_left():
    sae = build(MatryoshkaBatchTopKConfig(d_sae=100, k=3), D_IN, seed=0)
    assert sae.group_sizes == [3, 6, 12, 25, 54]


def test_a_matryoshka_sae_with_one_group_has_the_loss_of_batchtopk(x):
    nested, plain = (
        filled(kind) for kind in (MatryoshkaBatchTopK(D_IN, 24, k=3, group_fractions=[1.0]), BatchTopK(D_IN, 24, k=3))
    )
    assert torch.allclose(nested.loss(x).total, plain.loss(x).total)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group_fractions": [0.01, 0.99]}, r"every group needs a feature: .* of d_sae=24 give groups of \[0, 24\]"),
        ({"group_fractions": [0.5, 0.5], "group_weights": [1.0]}, "group_weights needs 2 numbers, one a group: got 1"),
        ({"group_fractions": [1.0], "k": 24}, "k must be at least 1 and smaller than d_sae=24: got 24"),
    ],
)
def test_impossible_groups_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MatryoshkaBatchTopK(D_IN, 24, **{"k": 3, **settings})
