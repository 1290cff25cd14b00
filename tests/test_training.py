"""The training loop: what it learns, that equal runs give equal bits, and what it refuses."""

import pytest
import torch

from sae_core.architectures import build
from sae_core.config import TopKConfig
from sae_core.training import DivergedError, Job, train, train_together
from tests.tiny_training import (
    BATCH,
    BATCH_TOPK,
    D_IN,
    D_SAE,
    JUMPRELU,
    P_ANNEAL,
    STANDARD,
    TOPK,
    VARIANTS,
    activations,
    batches,
    config,
    equal,
    train_new,
    weights,
)

by_architecture = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.architecture)
FIELDS = {"loss", "mse", "l0", "fve", "dead_fraction", "lr", "sparsity_scale", "tokens_per_second"}


@pytest.mark.parametrize("variant", [TOPK, STANDARD], ids=lambda v: v.architecture)
def test_training_explains_what_the_untrained_sae_does_not(variant):
    result = train_new(variant, config(200))
    assert result.curve[0].fve < result.curve[-1].fve
    assert result.curve[-1].fve > 0.75
    assert [point.step for point in result.curve] == list(range(10, 201, 10))
    assert (result.n_steps, result.n_tokens) == (200, 200 * BATCH)


@by_architecture
def test_equal_runs_give_equal_bits_watched_or_not_and_on_any_number_of_threads(variant):
    before, seen = torch.get_rng_state(), {}
    first = train_new(variant, config(12, log_every=7))
    again = train_new(variant, config(12, log_every=7))
    assert first.curve == again.curve
    watched = train_new(variant, config(12, log_every=1), on_step=seen.__setitem__)
    torch.set_num_threads(2)
    threaded = train_new(variant, config(12))
    torch.set_num_threads(1)
    for other in (again, watched, threaded):
        assert equal(weights(first.sae), weights(other.sae))
    assert list(seen) == list(range(1, 13))
    assert all(type(value) is float for numbers in seen.values() for value in numbers.values())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("variant", "own"),
    [(TOPK, set()), (BATCH_TOPK, {"threshold"}), (JUMPRELU, {"threshold"}), (P_ANNEAL, {"p", "penalty"})],
    ids=lambda value: getattr(value, "architecture", None),
)
def test_observers_see_the_numbers_of_the_architecture_beside_those_of_all(variant, own):
    seen = {}
    result = train_new(variant, config(12, log_every=6), on_step=seen.__setitem__)
    assert set(seen[12]) == FIELDS | own
    assert [set(numbers) for numbers in result.watched] == [own, own]
    assert {name: seen[6][name] for name in own} == result.watched[0]


def test_a_batch_topk_sae_comes_out_as_the_jumprelu_sae_it_is_in_use():
    trained = build(BATCH_TOPK, D_IN, 0)
    result = train(trained, batches, config())
    assert (trained.architecture, result.sae.architecture) == ("batch_topk", "jumprelu")
    x = activations(8)
    assert torch.equal(result.sae(x), trained(x))
    assert not any(parameter.requires_grad for parameter in result.sae.parameters())


@pytest.mark.parametrize("variant", [TOPK, STANDARD], ids=lambda v: v.architecture)
def test_the_sparse_and_the_reference_step_train_the_same_sae(variant):
    sparse, reference = (train_new(variant, config(), reference=flag) for flag in (False, True))
    assert (sparse.gradients, reference.gradients) == ("sparse", "autograd")
    for name, tensor in weights(sparse.sae).items():
        assert torch.allclose(tensor, weights(reference.sae)[name], atol=2e-4), name
    assert sparse.curve[-1].loss == pytest.approx(reference.curve[-1].loss, rel=1e-3)


@by_architecture
def test_in_bfloat16_the_products_are_rounded_and_the_weights_stay_float32(variant):
    exact, rounded = (train_new(variant, config(12, precision=p)) for p in ("float32", "bfloat16"))
    assert rounded.gradients == "autograd"
    assert rounded.sae.W_dec.dtype == torch.float32
    assert rounded.curve[-1].loss == pytest.approx(exact.curve[-1].loss, rel=0.05)
    assert not torch.equal(rounded.sae.W_dec, exact.sae.W_dec)


@pytest.mark.parametrize("variant", [TOPK, STANDARD], ids=lambda v: v.architecture)
def test_decoder_rows_keep_unit_length(variant):
    assert torch.allclose(train_new(variant, config()).sae.W_dec.norm(dim=1), torch.ones(D_SAE), atol=1e-6)


def test_without_a_clip_large_gradients_are_used_as_they_are():
    unclipped = train_new(TOPK, config(grad_clip=None)).sae
    assert equal(weights(unclipped), weights(train_new(TOPK, config(grad_clip=1e9)).sae))
    assert not torch.equal(unclipped.W_dec, train_new(TOPK, config(grad_clip=1e-3)).sae.W_dec)


def test_the_options_of_a_variant_reach_the_optimiser():
    plain, shorter, aligned = (
        train_new(STANDARD, config(), **options).sae for options in ({}, {"l2_coefficient": 0.1}, {"aligned": True})
    )
    assert shorter.W_enc.norm() < plain.W_enc.norm()
    assert torch.allclose((aligned.W_enc.T * aligned.W_dec).sum(1), torch.ones(D_SAE), atol=1e-5)


def test_the_decoder_bias_starts_from_the_centre_asked_for():
    first = activations(BATCH).index_fill(0, torch.tensor([0]), 50.0)

    def bias_after_a_step(start):
        sae = build(TOPK, D_IN, 0)
        train(sae, iter([first]), config(1, b_dec_init=start, lr=1e-9, warmup_steps=0, sparsity_warmup_steps=0))
        return sae.b_dec.detach()

    assert torch.allclose(bias_after_a_step("mean"), first.mean(0), atol=1e-5)
    assert torch.allclose(bias_after_a_step("zero"), torch.zeros(D_IN), atol=1e-5)
    median = bias_after_a_step("geometric_median")
    assert torch.allclose(median, activations(BATCH).mean(0), atol=0.1)
    assert not torch.allclose(median, first.mean(0), atol=0.2)


def test_auto_is_a_number_for_the_size_of_the_dictionary():
    assert train_new(TOPK, config(10, lr="auto")).lr == pytest.approx(2e-4 * (2**14 / D_SAE) ** 0.5)
    assert train_new(TOPK, config(10, lr="auto"), lr=0.5).lr == 0.5


def test_a_feature_that_does_not_fire_is_dead_after_so_many_tokens():
    sae = build(STANDARD, D_IN, 0)
    sae.b_enc.data[:10] = -100
    dead = {}
    train(sae, batches, config(n_steps=10, log_every=1), lambda step, n: dead.update({step: n["dead_fraction"]}))
    assert [dead[step] for step in (3, 4)] == [0, 0.25]


def test_resampled_features_come_back_to_life():
    def dead_at_the_end(**changes):
        sae = build(STANDARD, D_IN, 0)
        sae.b_enc.data[:10] = -100
        return train(sae, batches, config(n_steps=60, **changes)).curve[-1].dead_fraction

    assert dead_at_the_end() == 0.25
    assert dead_at_the_end(resample_dead=True, resample_at=[0.2]) == 0


def test_the_auxiliary_loss_brings_dead_features_back():
    def dead_at_the_end(coefficient):
        sae = build(TopKConfig(d_sae=D_SAE, k=4, aux_k_coefficient=coefficient), D_IN, 0)
        sae.b_enc.data[:10] = -0.5
        return train(sae, batches, config(n_steps=200, lr=1e-2)).curve[-1].dead_fraction

    assert dead_at_the_end(0.3) < 0.6 * dead_at_the_end(0.0)


@pytest.mark.parametrize(
    ("checkpoints", "expected"),
    [([0, 0.5, 1], [0, 15]), ([], []), ("paper", [0, 1, 3, 6, 9, 12, 15, 18, 21, 24, 27])],
)
def test_checkpoints_are_taken_once_at_each_step_asked_for_and_never_of_the_last(checkpoints, expected):
    steps = []
    kept = train_new(TOPK, config(checkpoints=checkpoints), on_checkpoint=lambda step, sae: steps.append(step))
    assert steps == expected
    assert equal(weights(kept.sae), weights(train_new(TOPK, config()).sae))


class Stopped(Exception):
    pass


def stop_after(last):
    def stop(step, numbers):
        if step == last:
            raise Stopped

    return stop


@by_architecture
def test_a_run_that_was_stopped_goes_on_with_the_same_bits(tmp_path, variant):
    settings, state = config(12, resume_minutes=0, log_every=1), tmp_path / "state"
    with pytest.raises(Stopped):
        train_new(variant, settings, on_step=stop_after(7), resume=state)
    resumed, undisturbed = train_new(variant, settings, resume=state), train_new(variant, settings)
    assert equal(weights(resumed.sae), weights(undisturbed.sae))
    assert (resumed.curve, resumed.watched) == (undisturbed.curve, undisturbed.watched)
    assert len(resumed.seconds) == len(resumed.curve)


def test_the_state_of_another_run_is_refused_and_that_of_one_that_is_only_watched_otherwise_is_not(tmp_path):
    train_new(TOPK, config(resume_minutes=0), resume=tmp_path / "state")
    train_new(TOPK, config(resume_minutes=5, watch=["tensorboard"]), resume=tmp_path / "state")
    with pytest.raises(ValueError, match=r"belongs to a run with other settings \(lr\); delete it"):
        train_new(TOPK, config(), lr=0.5, resume=tmp_path / "state")
    with pytest.raises(ValueError, match=r"belongs to a run with other settings \(aligned, l2_coefficient\)"):
        train_new(TOPK, config(), aligned=True, l2_coefficient=0.1, resume=tmp_path / "state")


def test_an_iterator_cannot_be_resumed(tmp_path):
    train(build(TOPK, D_IN, 0), batches(), config(resume_minutes=0), resume=tmp_path / "state")
    with pytest.raises(ValueError, match="cannot go on from step 30 with an iterator"):
        train(build(TOPK, D_IN, 0), batches(), config(), resume=tmp_path / "state")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_is_refused(bad):
    def poisoned(start):
        yield activations(BATCH)
        yield activations(BATCH).index_fill(0, torch.tensor([3]), bad)

    with pytest.raises(ValueError, match="batch of step 1 holds NaN or inf"):
        train(build(TOPK, D_IN, 0), poisoned, config())


@by_architecture
@pytest.mark.parametrize("reference", [False, True], ids=["closed form", "autograd"])
def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_do(variant, reference):
    sae = build(variant, D_IN, 0)
    sae.W_enc.data[0, 0] = float("nan")
    with pytest.raises(
        DivergedError, match=r"became nan at step 0; lower lr \(now 0.003\), raise warmup_steps"
    ) as told:
        train(sae, batches, config(), reference=reference)
    assert told.value.step == 0


def test_batches_that_end_early_or_have_another_width_are_refused():
    with pytest.raises(ValueError, match="the batches ended after 2 steps, expected 30; .* or set on_data_end to stop"):
        train(build(TOPK, D_IN, 0), iter([activations(BATCH)] * 2), config())
    with pytest.raises(ValueError, match=f"batch of step 0 has width 5, expected d_in = {D_IN}"):
        train(build(TOPK, D_IN, 0), iter([torch.zeros(BATCH, 5)]), config())


def test_a_run_that_is_to_stop_with_its_data_ends_with_them():
    given = [activations(BATCH, seed) for seed in range(7)]
    result = train(build(TOPK, D_IN, 0), iter(given), config(on_data_end="stop", log_every=5))
    assert (result.n_steps, [point.step for point in result.curve]) == (7, [5, 7])
    with pytest.raises(ValueError, match="the batches ended after 0 steps"):
        train(build(TOPK, D_IN, 0), iter([]), config(on_data_end="stop"))


def test_batches_that_were_opened_for_a_run_are_closed_when_it_ends_or_fails():
    closed = []

    def opened(start):
        try:
            yield from batches(start)
        finally:
            closed.append(start)

    train(build(TOPK, D_IN, 0), opened, config())
    with pytest.raises(Stopped):
        train(build(TOPK, D_IN, 0), opened, config(log_every=1), stop_after(2))
    assert closed == [0, 0]


@pytest.mark.parametrize("variant", [TOPK, BATCH_TOPK], ids=lambda v: v.architecture)
def test_runs_that_are_trained_together_are_those_trained_alone_and_read_each_batch_once(variant):
    alone = [train(build(variant, D_IN, seed), batches, config()) for seed in range(3)]
    read = []

    def counted(start):
        for step, x in enumerate(batches(start), start):
            read.append(step)
            yield x

    jobs = [Job(build(variant, D_IN, seed)) for seed in range(3)]
    together = train_together(jobs, counted, config())
    assert read == list(range(30))
    for one, other in zip(alone, together, strict=True):
        assert equal(weights(one.sae), weights(other.sae))
        assert one.curve == other.curve


def test_runs_that_were_killed_at_different_steps_go_on_together(tmp_path):
    settings = config(resume_minutes=0, log_every=1)
    for seed, step in enumerate((20, 5)):
        with pytest.raises(Stopped):
            train(build(TOPK, D_IN, seed), batches, settings, stop_after(step), resume=tmp_path / f"{seed}")
    starts = []

    def noted(start):
        starts.append(start)
        return batches(start)

    jobs = [Job(build(TOPK, D_IN, seed), resume=tmp_path / f"{seed}") for seed in range(2)]
    together = train_together(jobs, noted, settings)
    assert starts == [4]
    for seed, result in enumerate(together):
        assert equal(weights(result.sae), weights(train(build(TOPK, D_IN, seed), batches, settings).sae))


def test_a_run_that_diverges_does_not_stop_those_beside_it():
    bad = build(TOPK, D_IN, 1)
    bad.W_enc.data[0, 0] = float("nan")
    good, diverged = train_together([Job(build(TOPK, D_IN, 0)), Job(bad)], batches, config())
    assert isinstance(diverged, DivergedError)
    assert equal(weights(good.sae), weights(train_new(TOPK, config()).sae))
