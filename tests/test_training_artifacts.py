"""The files of trained SAEs: what they hold, what a killed or diverged run leaves, and that seeds can share a pass."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import TypeAdapter

from sae_core import chain
from sae_core.config import RunSeeds, TrainedConfig, TrainingConfig
from sae_core.formats import load_sae
from sae_core.shards import ShardData, open_shards, write_shards
from sae_core.store import ArtifactStore
from sae_core.training import DivergedError, artifact, train_run, train_runs
from sae_core.training.artifact import LAST_GOOD, RESUME_FILE
from sae_core.training.curves import few_points
from sae_core.training.schedules import fitted_to
from tests.tiny_training import (
    BATCH,
    BATCH_TOPK,
    D_IN,
    D_SAE,
    SEEDS,
    STANDARD,
    TOPK,
    VARIANTS,
    config,
    contents,
    planted_shards,
)

by_architecture = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.architecture)
OTHER = RunSeeds(init_seed=1, order_seed=0)


@pytest.fixture
def shards(tmp_path):
    return planted_shards(tmp_path / "shards")


def new(folder):
    folder.mkdir(parents=True)
    return folder


def run(folder, shards, variant=TOPK, seeds=SEEDS, **changes):
    """A run in a new folder; its summary and its folder."""
    settings = config(**({"n_steps": 30} | changes))
    return train_run(new(folder), shards, variant, settings, seeds, {"model_name": "tiny"}), folder


@by_architecture
def test_a_run_leaves_an_sae_that_works_on_raw_activations(tmp_path, shards, variant):
    summary, folder = run(tmp_path / "run", shards, variant, n_steps=100, checkpoints=[0, 0.5, 1])
    checkpoints = [f"checkpoints/step_{n}/{name}" for n in (0, 50) for name in ("cfg.json", "sae_weights.safetensors")]
    own = ["cfg.json", "config.json", "sae_weights.safetensors", "training.parquet"]
    assert sorted(contents(folder)) == sorted([*checkpoints, *own])
    x, sae = shards.read(0).activations, load_sae(folder)
    fve = 1 - float((x - sae(x)).pow(2).sum() / (x - x.mean(0)).pow(2).sum())
    assert fve == pytest.approx(summary["fve"], abs=0.15)
    assert summary["activation_scale"] == pytest.approx(shards.mean_squared_norm**-0.5)
    for place in (folder, folder / "checkpoints" / "step_0", folder / "checkpoints" / "step_50"):
        assert json.loads((place / "cfg.json").read_text())["metadata"]["trained_as"] == variant.architecture
        assert load_sae(place).W_dec.shape == (D_SAE, D_IN)
    settings = json.loads((folder / "config.json").read_text())
    assert TypeAdapter(TrainedConfig).validate_python(settings["variant"]) == variant
    assert RunSeeds.model_validate(settings["seeds"]) == SEEDS
    assert settings["seeds"] == {"init_seed": 0, "order_seed": 0, "data_seed": 0}
    assert settings["learning_rate"] == summary["learning_rate"] == 3e-3
    assert not {"device", "watch", "resume_minutes"} & set(settings["training"])


def test_the_curves_have_a_column_for_each_number_and_times_lie_beside_them(tmp_path, shards):
    summary, folder = run(tmp_path / "run", shards, BATCH_TOPK, log_every=1)
    curves, timing = (pq.read_table(folder / name) for name in ("training.parquet", "_timing.parquet"))
    assert curves.column_names[:3] == ["step", "loss", "mse"]
    assert curves.column_names[-1] == "threshold"
    assert summary["threshold"] == curves["threshold"].to_pylist()[-1]
    assert curves.num_rows == timing.num_rows == 30
    shown = few_points(folder)
    assert [point["step"] for point in shown] == list(range(3, 31, 3))
    assert {"tokens_per_second", "threshold", "lr"} <= set(shown[-1])
    assert few_points(tmp_path) == []


def test_auto_is_recorded_as_the_number_used(tmp_path, shards):
    summary, folder = run(tmp_path / "run", shards, lr="auto")
    assert summary["learning_rate"] == json.loads((folder / "config.json").read_text())["learning_rate"]
    assert summary["learning_rate"] == pytest.approx(2e-4 * (2**14 / D_SAE) ** 0.5)


def test_activations_that_are_all_zero_are_refused(tmp_path):
    zeros = np.zeros(BATCH, np.int32)
    data = ShardData(torch.zeros(BATCH, D_IN), zeros, zeros.astype(np.int64), zeros)
    empty = write_shards(tmp_path / "shards", [data], "float32")
    with pytest.raises(ValueError, match=r"activations have mean squared norm 0\.0: nothing to learn from"):
        run(tmp_path / "run", empty)


def test_a_disk_that_cannot_hold_the_checkpoints_is_refused_before_the_start(tmp_path, shards, monkeypatch):
    asked = []
    monkeypatch.setattr(artifact, "require_free_space", lambda folder, n_bytes, what: asked.append(n_bytes))
    run(tmp_path / "few", shards)
    run(tmp_path / "many", shards, checkpoints=[0, 0.5])
    n_bytes = 4 * (2 * D_IN * D_SAE + D_IN + D_SAE)
    assert [one / n_bytes for one in asked] == [7, 9]


# --- data ---------------------------------------------------------------------------------------------------------


def test_a_run_that_is_to_see_no_token_twice_has_as_many_steps_as_the_text_allows(tmp_path, shards):
    summary, folder = run(tmp_path / "run", shards, n_steps=500, on_data_end="stop", warmup_steps=1, checkpoints=[0.5],
                          sparsity_warmup_steps=2)  # fmt: skip
    assert (summary["step"], summary["n_epochs"]) == (4, 1)
    assert json.loads((folder / "config.json").read_text())["training"]["n_steps"] == 4
    assert (folder / "checkpoints" / "step_2").is_dir()
    repeated, _ = run(tmp_path / "again", shards, n_steps=10)
    assert (repeated["step"], repeated["n_epochs"]) == (10, 2.5)


def test_a_text_that_is_too_small_is_refused_before_the_start_with_numbers(tmp_path, shards):
    with pytest.raises(
        ValueError, match=r"512 tokens are 4 steps of 128 when none is seen twice, and n_steps=30 was"
    ) as told:
        run(tmp_path / "a", shards, on_data_end="stop")
    assert "warmup_steps must end before the decay starts: got warmup_steps=5" in str(told.value)
    assert "read more text (corpus.n_tokens), or set training.on_data_end to repeat" in str(told.value)
    with pytest.raises(ValueError, match=r"too small: 512 tokens, fewer than a batch of 1,024; lower training.batch_s"):
        run(tmp_path / "b", shards, batch_size=1024)
    assert fitted_to(config(), 10**9) == config()


def test_a_fraction_of_the_data_is_drawn_by_its_seed_and_its_size_known(tmp_path, shards):
    half = {
        "data_fraction": 0.5,
        "on_data_end": "stop",
        "warmup_steps": 0,
        "sparsity_warmup_steps": 0,
        "batch_size": 16,
    }
    summaries = [run(tmp_path / str(seed), shards, seeds=SEEDS.model_copy(update={"data_seed": seed}), **half)[0]
                 for seed in (0, 1)]  # fmt: skip
    again, _ = run(tmp_path / "again", shards, **half)
    assert all(8 <= summary["step"] <= 24 for summary in summaries)
    assert again["loss"] == summaries[0]["loss"] != summaries[1]["loss"]
    # One scale for all seeds, so that losses can be compared.
    assert len({summary["activation_scale"] for summary in summaries}) == 1


# --- killed and diverged runs ------------------------------------------------------------------------------------

KILLED_RUN = """
import sys
import time
from pathlib import Path
import torch
torch.set_num_threads(1)
from pydantic import TypeAdapter
from sae_core.config import RunSeeds, TrainedConfig, TrainingConfig
from sae_core.shards import open_shards
from sae_core.training import train_run
variant = TypeAdapter(TrainedConfig).validate_json(sys.argv[3])
training = TrainingConfig.model_validate_json(sys.argv[4])
seeds = RunSeeds(init_seed=0, order_seed=0)
# Slowed down, so that it is still running when it is killed, however busy the machine is.
train_run(Path(sys.argv[1]), open_shards(sys.argv[2]), variant, training, seeds, {}, lambda *_: time.sleep(1))
"""


@pytest.mark.parametrize("variant", [TOPK, BATCH_TOPK], ids=lambda v: v.architecture)
def test_a_run_killed_at_any_moment_goes_on_to_the_same_files(tmp_path, shards, variant):
    settings = config(200, resume_minutes=0, checkpoints=[0, 0.001, 1], log_every=8)
    runs = {name: new(tmp_path / name) for name in ("killed", "undisturbed")}
    state = runs["killed"] / RESUME_FILE
    arguments = [str(runs["killed"]), str(shards.folder), variant.model_dump_json(), settings.model_dump_json()]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_RUN, *arguments], env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    while not state.exists() or torch.load(state, weights_only=True)["step"] < 5:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 5 <= torch.load(state, weights_only=True)["step"] < 200
    for folder in runs.values():
        kept = config(200, checkpoints=[0, 0.001, 1], log_every=8)
        train_run(folder, open_shards(shards.folder), variant, kept, SEEDS, {})
    assert contents(runs["killed"]) == contents(runs["undisturbed"])
    assert not state.exists()


def test_a_run_killed_before_its_files_were_written_trains_nothing_again(tmp_path, shards, monkeypatch):
    arguments = (shards, TOPK, config(), {})
    folder = new(tmp_path / "run")
    train_runs({SEEDS: folder}, *arguments)  # and killed before what it returns is called
    assert torch.load(folder / RESUME_FILE, weights_only=True)["step"] == 30
    monkeypatch.setattr(type(shards), "batches", None)
    train_run(folder, *arguments[:3], SEEDS, {})
    monkeypatch.undo()
    _, whole = run(tmp_path / "whole", shards)
    assert contents(folder)["sae_weights.safetensors"] == contents(whole)["sae_weights.safetensors"]


def poisoned(shards, step, value):
    """The same shards with an outlier at a step, which is finite."""

    class Poisoned(type(shards)):
        def batches(self, batch_size, seed, start=0):
            for i, x in enumerate(super().batches(batch_size, seed, start), start):
                yield x.index_fill(0, torch.tensor([0]), value) if i == step else x

    return Poisoned(shards.folder, shards.index)


@pytest.mark.parametrize("variant", [TOPK, BATCH_TOPK, STANDARD], ids=lambda v: v.architecture)
def test_a_run_that_meets_an_outlier_keeps_the_sae_of_the_step_before(tmp_path, shards, variant):
    folder = new(tmp_path / "run")
    with pytest.raises(DivergedError) as told:
        train_run(folder, poisoned(shards, 20, 1e30), variant, config(), SEEDS, {})
    path, message = folder / LAST_GOOD, str(told.value)
    assert "at step 20; lower lr (now 0.003), raise warmup_steps, or look at the batch of that step" in message
    assert f"The SAE after 20 steps, the last one saved that was good, is in {path}, and its state in" in message
    x, kept = shards.read(0).activations, load_sae(path)
    assert (x - kept(x)).pow(2).sum() < 0.6 * (x - x.mean(0)).pow(2).sum()
    assert json.loads((path / "cfg.json").read_text())["metadata"]["step"] == 20
    assert torch.load(folder / RESUME_FILE, weights_only=True)["step"] == 20
    # With data that are whole the same run goes on, and what was kept is removed.
    train_run(folder, shards, variant, config(), SEEDS, {})
    _, undisturbed = run(tmp_path / "whole", shards, variant)
    assert set(contents(folder)) == set(contents(undisturbed))


def test_a_run_that_blows_up_keeps_the_sae_that_was_good_before(tmp_path, shards):
    folder = new(tmp_path / "run")
    with pytest.raises(DivergedError, match=r"step 1; .* The SAE after 0 steps"):
        train_run(folder, shards, STANDARD, config(lr=1e30, warmup_steps=0), SEEDS, {})
    assert torch.isfinite(load_sae(folder / LAST_GOOD)(shards.read(0).activations)).all()


def test_a_run_that_fails_at_its_first_step_has_nothing_to_keep(tmp_path, shards):
    folder = new(tmp_path / "run")
    with pytest.raises(DivergedError, match="There is no good SAE to keep: it was the first step"):
        train_run(folder, poisoned(shards, 0, 1e30), TOPK, config(b_dec_init="zero"), SEEDS, {})
    assert not (folder / LAST_GOOD).exists()


# --- several seeds -----------------------------------------------------------------------------------------------


@pytest.fixture
def stored(store):
    """Activations in the store."""

    def build(folder):
        planted_shards(folder / "train")
        return {}

    return store.get_or_build("activations", build, code_version="1", inputs={"model": "m", "hook": "h"})


def test_saes_that_are_made_together_are_those_made_alone(stored, store, tmp_path):
    seeds = [RunSeeds(init_seed=seed, order_seed=seed % 2) for seed in range(3)]
    first = chain.make_sae(store, stored, TOPK, config(), seeds[1])
    together = chain.make_saes(store, stored, TOPK, config(), [*seeds, seeds[0]])
    other = ArtifactStore(tmp_path / "other")
    alone = [chain.make_sae(other, stored, TOPK, config(), one) for one in seeds]
    assert [made.content for made in together] == [made.content for made in (*alone, alone[0])]
    assert [made.manifest.fingerprint for made in together[:3]] == [made.manifest.fingerprint for made in alone]
    assert together[1].path == first.path
    assert together[1].cache_hit
    assert alone[0].manifest.inputs["seeds"] == {"init_seed": 0, "order_seed": 0, "data_seed": 0}
    assert not [path for path in store.scratch.glob("*/*") if path.is_dir()]


def test_where_and_how_watched_a_run_is_gives_the_same_artifact(stored, store):
    first = chain.make_sae(store, stored, TOPK, config(), SEEDS)
    assert chain.make_sae(store, stored, TOPK, config(resume_minutes=9, device="auto"), SEEDS).path == first.path


def test_what_is_watched_lies_beside_the_artifacts(stored, store):
    pytest.importorskip("tensorboard")
    made = chain.make_sae(store, stored, TOPK, config(watch=["tensorboard"]), SEEDS)
    assert (store.logs / "tensorboard" / TOPK.key / f"seeds-0-0-0-{made.path.name[:8]}").is_dir()
    assert store.logs == made.path.parent.parent
    assert {found.manifest.kind for found in store.artifacts()} == {"activations", "sae"}


def test_a_run_that_diverges_is_kept_in_the_staging_folder_and_the_others_are_made(stored, store, monkeypatch):
    made = artifact.build

    def build(variant, d_in, seed):
        sae = made(variant, d_in, seed)
        if seed == 1:
            sae.W_dec.data[0, 0] = float("nan")
        return sae

    monkeypatch.setattr(artifact, "build", build)
    seeds = [SEEDS, OTHER]
    with pytest.raises(DivergedError, match="at step 0"):
        chain.make_saes(store, stored, TOPK, config(), seeds)
    monkeypatch.undo()
    assert [
        found.manifest.inputs["seeds"]["init_seed"] for found in store.artifacts() if found.manifest.kind == "sae"
    ] == [0]
    assert len(chain.make_saes(store, stored, TOPK, config(), seeds)) == 2


def test_the_folder_that_a_diverged_run_names_is_there(stored, store):
    shards = open_shards(stored.path / "train")
    with pytest.raises(DivergedError, match=r"is in (\S+), and its state in (\S+):") as told:
        chain.make_sae(store, stored, STANDARD, config(lr=1e30, warmup_steps=0), SEEDS)
    folder = str(told.value).split("is in ")[1].split(", and")[0]
    assert load_sae(folder).W_dec.shape == (D_SAE, shards.d_in)
    assert str(store.scratch) in folder


def test_runs_that_see_other_data_are_trained_apart_and_each_is_its_own(tmp_path, shards):
    settings = config(data_fraction=0.5, batch_size=16)
    seeds = [
        RunSeeds(init_seed=i, order_seed=o, data_seed=d) for i, o, d in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    folders = {one: new(tmp_path / str(place)) for place, one in enumerate(seeds)}
    for end in train_runs(folders, shards, TOPK, settings, {}).values():
        end()
    for place, one in enumerate(seeds):
        train_run(new(tmp_path / f"alone{place}"), shards, TOPK, settings, one, {})
        assert contents(tmp_path / f"alone{place}") == contents(folders[one])


def test_the_settings_of_the_paper_keep_fifteen_checkpoints():
    paper = TrainingConfig(n_steps=244_140)
    assert len(artifact.checkpoint_steps(paper)) == 15
    assert paper.checkpoints == "paper"
