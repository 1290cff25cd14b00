"""Whitening: unit covariance, the fold back into the SAE, and what is trained in between."""

import json

import numpy as np
import pytest
import torch

from sae_core.architectures import build
from sae_core.consistency.run_files import initial_decoder
from sae_core.formats import load_sae
from sae_core.shards import ShardData, write_shards
from sae_core.training import train_run, whitening
from sae_core.training.whitening import Whitening, measure_whitening, read_whitening
from tests.tiny_saes import filled
from tests.tiny_training import BATCH, D_IN, D_SAE, JUMPRELU, SEEDS, TOPK, VARIANTS, config, planted_shards

by_architecture = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.architecture)


def shards_of(folder, x):
    ids = np.arange(len(x))
    return write_shards(folder, [ShardData(x, ids.astype(np.int32), ids, ids.astype(np.int32))], "float32")


def stretched(n=2000, d=6):
    """Correlated activations far from the origin, with standard deviations from 1 to 300."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.linalg.qr(torch.randn(d, d, generator=generator))[0] * torch.logspace(0, 2.5, d)
    return torch.randn(n, d, generator=generator) @ mixing.T + 1000


def test_whitened_activations_have_zero_mean_and_unit_covariance(tmp_path):
    x = stretched()
    found = measure_whitening(shards_of(tmp_path, x))
    y = (x.double() - found.mean) @ found.matrix
    assert torch.allclose(y.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(y.T @ y / len(y), torch.eye(6, dtype=torch.float64), atol=1e-6)
    assert found.mean_squared_norm == pytest.approx(6)
    assert torch.allclose(found.apply(x), y.float(), atol=1e-3)
    assert torch.allclose(found.matrix @ found.inverse, torch.eye(6, dtype=torch.float64), atol=1e-9)


def test_a_direction_of_almost_no_variance_is_not_blown_up(tmp_path):
    x = stretched()
    x[:, 5] = x[:, 4]  # no variance at all between the two
    found = measure_whitening(shards_of(tmp_path, x))
    y = (x.double() - found.mean) @ found.matrix
    assert sorted((y * y).mean(0).tolist()) == pytest.approx([0, 1, 1, 1, 1, 1], abs=1e-3)
    assert found.mean_squared_norm == pytest.approx(5, abs=1e-3)
    spread = torch.linalg.svdvals(found.matrix)
    assert spread[0] <= 1.001 * (whitening.SMALLEST_SHARE * (x.double().var(0).mean())) ** -0.5


def test_only_so_many_tokens_are_measured(tmp_path, monkeypatch):
    x = stretched()
    monkeypatch.setattr(whitening, "MAX_TOKENS", 500)
    some = measure_whitening(shards_of(tmp_path / "all", x))
    assert torch.equal(some.matrix, measure_whitening(shards_of(tmp_path / "first", x[:500])).matrix)


@by_architecture
def test_the_folded_sae_does_to_activations_what_the_other_does_to_whitened_ones(tmp_path, variant):
    x = stretched(d=D_IN)
    found = measure_whitening(shards_of(tmp_path, x))
    trained = filled(build(variant, D_IN, 0))
    folded = found.fold(filled(build(variant, D_IN, 0)))
    y = found.apply(x)
    # The same features are chosen, since lengths of decoder rows stay where they are; but for what lies at a threshold.
    codes, expected = folded.encode(x), trained.encode(y)
    assert float((codes - expected).abs().gt(1e-2 * (1 + expected)).float().mean()) < 1e-3
    unwhitened = trained(y).double() @ found.inverse + found.mean
    error = (folded(x) - unwhitened).norm(dim=1) / unwhitened.norm(dim=1)
    assert float(error.median()) < 1e-4
    assert not torch.allclose(folded.W_dec.norm(dim=1), torch.ones(D_SAE), atol=0.1)


@pytest.mark.parametrize("variant", [TOPK, JUMPRELU], ids=lambda v: v.architecture)
def test_a_run_on_whitened_activations_leaves_an_sae_of_those_as_they_are(tmp_path, variant):
    shards = planted_shards(tmp_path / "shards", n_shards=4)
    (folder := tmp_path / "run").mkdir()
    settings = config(200, lr=1e-2, checkpoints=[0, 0.5])
    summary = train_run(folder, shards, variant.model_copy(update={"whiten": True}), settings, SEEDS, {})
    x, sae = shards.read(0).activations, load_sae(folder)
    assert 1 - float((x - sae(x)).pow(2).sum() / (x - x.mean(0)).pow(2).sum()) > 0.5
    found = read_whitening(folder)
    assert summary["activation_scale"] == pytest.approx(found.mean_squared_norm**-0.5)
    assert json.loads((folder / "cfg.json").read_text())["metadata"]["whitened"] is True
    # What the curve shows is the reconstruction of whitened activations.
    y, y_hat = found.apply(x), found.apply(sae(x))
    fve = 1 - float((y - y_hat).pow(2).sum() / (y - y.mean(0)).pow(2).sum())
    assert fve == pytest.approx(summary["fve"], abs=0.1)


def test_the_decoder_before_training_is_found_in_the_space_of_the_activations(tmp_path):
    shards, variant = planted_shards(tmp_path / "shards"), TOPK.model_copy(update={"whiten": True})
    kept, made_again = tmp_path / "kept", tmp_path / "made_again"
    for folder, checkpoints in ((kept, [0]), (made_again, [])):
        folder.mkdir()
        train_run(folder, shards, variant, config(checkpoints=checkpoints), SEEDS, {})
    np.testing.assert_allclose(initial_decoder(kept), initial_decoder(made_again), rtol=1e-4, atol=1e-6)


def test_what_was_written_is_read_back_to_the_bit(tmp_path):
    found = measure_whitening(shards_of(tmp_path / "shards", stretched()))
    found.write(tmp_path)
    read = read_whitening(tmp_path)
    assert all(torch.equal(getattr(read, name), getattr(found, name)) for name in ("mean", "matrix", "inverse"))
    assert isinstance(read, Whitening)
    assert read.mean_squared_norm == found.mean_squared_norm
    assert read_whitening(tmp_path / "shards") is None


def test_activations_that_cannot_be_whitened_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"whitening needs more tokens than d_in = 6: got 6; read more text, or set"):
        measure_whitening(shards_of(tmp_path / "few", stretched(6)))
    with pytest.raises(ValueError, match="activations do not vary, so they cannot be whitened"):
        measure_whitening(shards_of(tmp_path / "equal", torch.ones(BATCH, 6)))
