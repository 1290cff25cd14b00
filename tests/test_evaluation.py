"""Evaluation: hand-computed numbers, and independent formulas on random ones."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sae_core.architectures import Standard, TopK, build
from sae_core.config import EvaluationConfig, TopKConfig
from sae_core.evaluation import evaluate, loss_recovered, trained_positions, write_evaluation
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


class FakeModel:
    """Activations are one-hot in the token, and the loss of a prediction is 3 minus the activation's own entry."""

    special_token_ids = frozenset({0})

    def token_losses(self, token_ids, hook=None, replace=None):
        x = torch.nn.functional.one_hot(token_ids, 2).float()
        if replace is not None:
            assert hook == "layer"
            x = replace(x)
        return 3 - x.gather(-1, token_ids[..., None])[:, :-1, 0]


TOKENS = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1]])


def test_only_the_positions_an_sae_is_trained_on_are_patched():
    assert trained_positions(TOKENS, frozenset({0})).int().tolist() == [[0, 1, 0, 1], [0, 1, 1, 1]]
    assert trained_positions(TOKENS, frozenset({0}), True, True).all()


@pytest.mark.parametrize("batch_contexts", [1, 2])
def test_the_loss_recovered_is_that_computed_by_hand(batch_contexts):
    half = axes_sae()
    half.W_dec *= 0.5  # reconstructs half of every activation
    found = loss_recovered(half, FakeModel(), TOKENS, "layer", batch_contexts=batch_contexts)
    # Six predictions at loss 2; three of them at patched positions lose half a nat, or a whole one to zeros.
    assert found.n_tokens == 6
    assert found.ce_clean == pytest.approx(2)
    assert found.ce_patched == pytest.approx(2 + 3 * 0.5 / 6)
    assert found.ce_zero == pytest.approx(2 + 3 / 6)
    assert found.recovered == pytest.approx(0.5)


def test_a_perfect_sae_recovers_everything_and_one_that_gives_zero_nothing():
    perfect, silent = axes_sae(), axes_sae()
    silent.W_dec.zero_()
    assert loss_recovered(perfect, FakeModel(), TOKENS, "layer").recovered == 1
    assert loss_recovered(silent, FakeModel(), TOKENS, "layer").recovered == 0


def test_where_zeros_do_no_harm_nothing_can_be_recovered():
    keep = torch.zeros_like(TOKENS, dtype=torch.bool)
    keep[:, -1] = True  # the last position predicts nothing
    assert loss_recovered(axes_sae(), FakeModel(), TOKENS, "layer", keep=keep).recovered is None


def test_no_position_to_patch_is_refused():
    with pytest.raises(ValueError, match="no position to patch"):
        loss_recovered(axes_sae(), FakeModel(), TOKENS[:0], "layer")


def test_what_is_written_reads_back(tmp_path):
    x = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    found = evaluate(axes_sae(), shards_of(tmp_path / "shards", x), EvaluationConfig())
    written = write_evaluation(tmp_path, found, loss_recovered(axes_sae(), FakeModel(), TOKENS, "layer"))
    assert json.loads((tmp_path / "evaluation.json").read_text()) == written
    assert (written["fve"], written["loss_recovered"], written["n_loss_tokens"]) == (1, 1, 6)
    assert pq.read_table(tmp_path / "features.parquet").equals(found.features)
    assert write_evaluation(tmp_path, found)["loss_recovered"] is None
