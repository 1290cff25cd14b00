"""The training loop: what it learns, that equal runs give equal bits, and what it refuses."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sae_core.architectures import build
from sae_core.config import RunSeeds, StandardConfig, TopKConfig, TrainingConfig
from sae_core.formats import load_sae
from sae_core.shards import ShardData, open_shards, write_shards
from sae_core.training import train, train_run
from sae_core.training.artifact import RESUME_FILE

D_IN, D_SAE, BATCH = 16, 40, 128
VARIANTS = [TopKConfig(d_sae=D_SAE, k=4), StandardConfig(d_sae=D_SAE, l1_coefficient=0.02)]
by_architecture = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.architecture)
SEEDS = RunSeeds(init_seed=0, order_seed=0)


def config(n_steps=30, **changes):
    settings = {"batch_size": BATCH, "lr": 3e-3, "warmup_steps": 5, "sparsity_warmup_steps": 10, "log_every": 10}
    settings |= {"dead_after_tokens": 4 * BATCH, "device": "cpu", "resume_minutes": 60}
    return TrainingConfig(n_steps=n_steps, **settings | changes)


def activations(n, seed=0):
    """Sparse sums of 24 directions, about unit mean squared norm."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(24, D_IN, generator=torch.Generator().manual_seed(1)), dim=1)
    codes = torch.rand(n, 24, generator=generator) * (torch.rand(n, 24, generator=generator) < 0.1)
    x = codes @ directions + 0.3
    return x / x.pow(2).sum(1).mean().sqrt()


def batches(start=0):
    step = start
    while True:
        yield activations(BATCH, seed=step)
        step += 1


def weights(sae):
    return {name: tensor.clone() for name, tensor in sae.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train_new(variant, settings, **arguments):
    return train(build(variant, D_IN, 0), batches, settings, **arguments)


@pytest.fixture
def shards(tmp_path):
    x = 5 * activations(4 * BATCH)
    zeros = np.zeros(len(x), np.int32)
    return write_shards(tmp_path / "shards", [ShardData(x, zeros, zeros.astype(np.int64), zeros)], "float16")


@by_architecture
def test_training_explains_what_the_untrained_sae_does_not(variant):
    result = train_new(variant, config(200))
    assert result.curve[0].fve < result.curve[-1].fve
    assert result.curve[-1].fve > 0.75
    assert [point.step for point in result.curve] == list(range(10, 201, 10))
    assert result.n_tokens == 200 * BATCH


@by_architecture
def test_equal_runs_give_equal_bits_and_leave_the_global_generator_alone(variant):
    before = torch.get_rng_state()
    first, again = (train_new(variant, config()) for _ in range(2))
    assert equal(weights(first.sae), weights(again.sae))
    assert first.curve == again.curve
    assert torch.equal(torch.get_rng_state(), before)


@by_architecture
def test_the_number_of_kernel_threads_changes_no_bit(variant):
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(weights(train_new(variant, config()).sae))
    torch.set_num_threads(1)
    assert equal(*results)


@by_architecture
def test_watching_changes_no_bit_and_shows_plain_floats(variant):
    seen = {}
    unwatched = train_new(variant, config(log_every=7))
    watched = train_new(variant, config(log_every=1), on_step=seen.__setitem__)
    assert equal(weights(unwatched.sae), weights(watched.sae))
    assert list(seen) == list(range(1, 31))
    assert all(type(value) is float for numbers in seen.values() for value in numbers.values())
    assert {"loss", "mse", "l0", "fve", "dead_fraction", "lr", "sparsity_scale"} == set(seen[1])


@by_architecture
def test_the_sparse_and_the_reference_step_train_the_same_sae(variant):
    sparse, reference = (train_new(variant, config(), reference=flag) for flag in (False, True))
    assert (sparse.gradients, reference.gradients) == ("sparse", "autograd")
    for name, tensor in weights(sparse.sae).items():
        assert torch.allclose(tensor, weights(reference.sae)[name], atol=2e-4), name
    assert sparse.curve[-1].loss == pytest.approx(reference.curve[-1].loss, rel=1e-3)


@by_architecture
def test_decoder_rows_keep_unit_length(variant):
    assert torch.allclose(train_new(variant, config()).sae.W_dec.norm(dim=1), torch.ones(D_SAE), atol=1e-6)


def test_a_feature_that_does_not_fire_is_dead_after_so_many_tokens():
    sae = build(VARIANTS[1], D_IN, 0)
    sae.b_enc.data[:10] = -100
    dead = {}
    train(sae, batches, config(n_steps=10, log_every=1), lambda step, n: dead.update({step: n["dead_fraction"]}))
    assert [dead[step] for step in (3, 4)] == [0, 0.25]


def test_resampled_features_come_back_to_life():
    def dead_at_the_end(**changes):
        sae = build(VARIANTS[1], D_IN, 0)
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


def test_checkpoints_are_taken_at_the_shares_asked_for_and_change_no_bit():
    steps = []
    with_checkpoints = train_new(
        VARIANTS[0], config(checkpoints=[0, 0.5, 1]), on_checkpoint=lambda step, sae: steps.append(step)
    )
    assert steps == [0, 15, 30]
    assert equal(weights(with_checkpoints.sae), weights(train_new(VARIANTS[0], config()).sae))


def test_a_run_that_was_stopped_goes_on_with_the_same_bits(tmp_path):
    class Stopped(Exception):
        pass

    def stop(step, numbers):
        if step == 17:
            raise Stopped

    settings = config(resume_minutes=0, log_every=1)
    for variant in VARIANTS:
        state = tmp_path / f"{variant.architecture}.pt"
        with pytest.raises(Stopped):
            train_new(variant, settings, on_step=stop, resume=state)
        resumed, undisturbed = train_new(variant, settings, resume=state), train_new(variant, settings)
        assert equal(weights(resumed.sae), weights(undisturbed.sae))
        assert resumed.curve == undisturbed.curve
        assert len(resumed.seconds) == len(resumed.curve)


def test_the_state_of_another_run_is_refused(tmp_path):
    train_new(VARIANTS[0], config(resume_minutes=0), resume=tmp_path / "state")
    with pytest.raises(ValueError, match=r"belongs to a run with other settings \(lr\); delete it"):
        train_new(VARIANTS[0], config(), lr=0.5, resume=tmp_path / "state")


def test_an_iterator_cannot_be_resumed(tmp_path):
    train(build(VARIANTS[0], D_IN, 0), batches(), config(resume_minutes=0), resume=tmp_path / "state")
    with pytest.raises(ValueError, match="cannot go on from step 30 with an iterator"):
        train(build(VARIANTS[0], D_IN, 0), batches(), config(), resume=tmp_path / "state")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_is_refused(bad):
    def poisoned(start):
        yield activations(BATCH)
        yield activations(BATCH).index_fill(0, torch.tensor([3]), bad)

    with pytest.raises(ValueError, match="batch of step 1 holds NaN or inf"):
        train(build(VARIANTS[0], D_IN, 0), poisoned, config())


@by_architecture
@pytest.mark.parametrize("reference", [False, True], ids=["sparse", "autograd"])
def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_do(variant, reference):
    sae = build(variant, D_IN, 0)
    sae.W_enc.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"the loss became nan at step 0; lower lr"):
        train(sae, batches, config(), reference=reference)


def test_batches_that_end_early_or_have_another_width_are_refused():
    with pytest.raises(ValueError, match="the batches ended after 2 steps, expected 30"):
        train(build(VARIANTS[0], D_IN, 0), iter([activations(BATCH)] * 2), config())
    with pytest.raises(ValueError, match=f"batch of step 0 has width 5, expected d_in = {D_IN}"):
        train(build(VARIANTS[0], D_IN, 0), iter([torch.zeros(BATCH, 5)]), config())


@by_architecture
def test_a_run_leaves_an_sae_that_works_on_raw_activations(tmp_path, shards, variant):
    folder = tmp_path / "run"
    folder.mkdir()
    settings = config(200, checkpoints=[0.5], resume_minutes=0)
    summary = train_run(folder, shards, variant, settings, SEEDS, {"model_name": "tiny"})
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    checkpoint = [f"checkpoints/step_100/{name}" for name in ("cfg.json", "sae_weights.safetensors")]
    assert names == [
        "_timing.parquet",
        "cfg.json",
        *checkpoint,
        *["config.json", "sae_weights.safetensors", "training.parquet"],
    ]
    x = shards.read(0).activations
    error = (x - load_sae(folder)(x)).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert 1 - error > 0.75
    assert summary["fve"] == pytest.approx(float(1 - error), abs=0.1)
    assert summary["activation_scale"] == pytest.approx(shards.mean_squared_norm**-0.5)
    curve = pq.read_table(folder / "training.parquet")
    assert curve["step"].to_pylist()[-1] == 200
    assert "seconds" not in curve.column_names
    assert load_sae(folder / "checkpoints" / "step_100").W_dec.shape == (D_SAE, D_IN)


def test_activations_that_are_all_zero_are_refused(tmp_path):
    zeros = np.zeros(BATCH, np.int32)
    data = ShardData(torch.zeros(BATCH, D_IN), zeros, zeros.astype(np.int64), zeros)
    empty = write_shards(tmp_path / "shards", [data], "float32")
    with pytest.raises(ValueError, match=r"activations have mean squared norm 0\.0: nothing to learn from"):
        train_run(tmp_path, empty, VARIANTS[0], config(), SEEDS, {})


KILLED_RUN = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from sae_core.config import RunSeeds, TopKConfig, TrainingConfig
from sae_core.shards import open_shards
from sae_core.training import train_run
training = TrainingConfig.model_validate_json(sys.argv[3])
train_run(Path(sys.argv[1]), open_shards(sys.argv[2]), TopKConfig(d_sae=40, k=4), training,
          RunSeeds(init_seed=0, order_seed=0), {})
"""


def test_a_run_killed_at_any_moment_goes_on_to_the_same_files(tmp_path, shards):
    settings = config(400, resume_minutes=0, checkpoints=[0.001, 1])
    runs = {name: tmp_path / name for name in ("killed", "undisturbed")}
    for folder in runs.values():
        folder.mkdir()
    arguments = [str(runs["killed"]), str(shards.folder), settings.model_dump_json()]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_RUN, *arguments], env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    while not (runs["killed"] / RESUME_FILE).exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed_at = torch.load(runs["killed"] / RESUME_FILE, weights_only=True)["step"]
    assert 0 < killed_at < 400
    for folder in runs.values():
        train_run(
            folder,
            open_shards(shards.folder),
            VARIANTS[0],
            settings.model_copy(update={"resume_minutes": 1}),
            SEEDS,
            {},
        )
    files = [
        {
            path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and path.name[0] != "_"
        }
        for folder in runs.values()
    ]
    # config.json keeps the settings as given: it is compared without the one that was changed here.
    assert files[0] == files[1]
