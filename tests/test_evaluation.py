"""Evaluation: hand-computed numbers, and independent formulas on random ones."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sae_core.architectures import Standard, TopK, build
from sae_core.config import EvaluationConfig, TopKConfig
from sae_core.evaluation import evaluate, write_evaluation
from sae_core.loss_recovered import LossRecovered
from sae_core.shards import ShardData, write_shards


def shards_of(folder, x, n_shards=1):
    def part(rows):
        zeros = np.zeros(len(rows), np.int32)
        return ShardData(rows, zeros, zeros.astype(np.int64), zeros)

    return write_shards(folder, [part(rows) for rows in x.chunk(n_shards)])


def axes_sae():
    """Reads and writes +x, +y and -x; a fourth feature, whose bias keeps it silent, is dead."""
    sae = Standard(2, 4).requires_grad_(False)
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    sae.W_dec.copy_(directions)
    sae.W_enc.copy_(directions.T)
    sae.b_enc[3] = -100.0
    return sae


def test_the_numbers_of_four_tokens_are_those_computed_by_hand(tmp_path):
    x = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    found = evaluate(axes_sae(), shards_of(tmp_path, x), EvaluationConfig())
    summary = found.summary
    assert (summary.n_tokens, summary.n_alive, summary.dead_fraction, summary.n_dense) == (4, 3, 0.25, 3)
    assert summary.l0 == 3 / 4  # the last token has no feature
    assert summary.fve == 1 - 4 / 16  # its error is 4, all deviations from the mean (0, 0) are 16
    assert summary.mean_squared_norm == 4
    assert summary.reconstruction_norm_ratio == 6 / 8
    assert found.features["n_fired"].to_pylist() == [1, 1, 1, 0]
    assert found.features["frequency"].to_pylist() == [0.25, 0.25, 0.25, 0]
    assert found.features["mean_activation"].to_pylist() == [2, 2, 2, None]
    assert found.features["max_activation"].to_pylist() == [2, 2, 2, 0]


def test_numbers_agree_with_direct_formulas_however_the_tokens_are_cut_into_shards(tmp_path):
    x = (torch.randn(600, 6, generator=torch.Generator().manual_seed(0)) + 5).half().float()
    sae = build(TopKConfig(d_sae=20, k=3), 6, seed=1).requires_grad_(False)
    one, three = (
        evaluate(sae, shards_of(tmp_path / str(n), x, n), EvaluationConfig(n_tokens=500)).summary for n in (1, 3)
    )
    x = x[:500].double()
    x_hat = sae(x.float()).double()
    fve = 1 - (x - x_hat).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert one.fve == pytest.approx(float(fve), rel=1e-7)
    assert three.fve == pytest.approx(one.fve, abs=1e-9)
    assert three.l0 == one.l0
    assert one.n_tokens == 500


def test_reconstructing_by_the_mean_explains_nothing(tmp_path):
    x = (torch.randn(400, 3, generator=torch.Generator().manual_seed(0)) + 7).half().float()
    sae = TopK(3, 8, k=2).requires_grad_(False)
    sae.b_dec.copy_(x.mean(0))
    summary = evaluate(sae, shards_of(tmp_path, x), EvaluationConfig()).summary
    assert summary.fve == pytest.approx(0, abs=1e-6)
    assert summary.l0 == 0
    assert summary.dead_fraction == 1


def test_activations_of_another_width_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the SAE reads activations of width 2, the shards hold 3"):
        evaluate(axes_sae(), shards_of(tmp_path, torch.randn(4, 3)), EvaluationConfig())


def test_activations_that_do_not_vary_are_refused(tmp_path):
    with pytest.raises(ValueError, match="do not vary"):
        evaluate(axes_sae(), shards_of(tmp_path, torch.ones(4, 2)), EvaluationConfig())


def test_what_is_written_reads_back(tmp_path):
    x = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    found = evaluate(axes_sae(), shards_of(tmp_path / "shards", x), EvaluationConfig())
    loss = LossRecovered(ce_clean=2, ce_patched=2, ce_zero=3, n_tokens=6)
    written = write_evaluation(tmp_path, found, loss)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == written
    assert (written["fve"], written["loss_recovered"], written["n_loss_tokens"]) == (1, 1, 6)
    assert pq.read_table(tmp_path / "features.parquet").equals(found.features)
    assert write_evaluation(tmp_path, found)["loss_recovered"] is None
