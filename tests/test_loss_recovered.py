"""The language model's loss with reconstructions in place of activations: hand-computed numbers, and a real model."""

import numpy as np
import pytest
import torch

from sae_core.architectures import Standard, build
from sae_core.config import ActivationsConfig, LanguageModelConfig, TopKConfig
from sae_core.language_models import load_language_model
from sae_core.loss_recovered import loss_recovered, read_reference, reference_losses, write_reference
from tests.tiny import make_model

TOKENS = np.array([[1, 1, 0, 1], [1, 1, 1, 1]], np.int32)


class FakeModel:
    """Activations are one-hot in the token, and the loss of a prediction is 3 minus the activation's own entry."""

    special_token_ids = frozenset({0})

    def token_losses(self, token_ids, hook=None, replace=None):
        x = torch.nn.functional.one_hot(token_ids.long(), 2).float()
        if replace is not None:
            assert hook == "layer"
            x = replace(x)
        return 3 - x.gather(-1, token_ids.long()[..., None])[:, :-1, 0]


def axes_sae(scale=1.0):
    """Reconstructs non-negative vectors of the plane, times ``scale``."""
    sae = Standard(2, 2).requires_grad_(False)
    sae.W_enc.copy_(torch.eye(2))
    sae.W_dec.copy_(scale * torch.eye(2))
    return sae


def reference(tokens=TOKENS, trained_on=None, max_norm=None, n_contexts=10, model=None):
    return reference_losses(
        model or FakeModel(), tokens, "layer", trained_on or ActivationsConfig(), max_norm, n_contexts
    )


def test_the_losses_are_those_computed_by_hand():
    found = loss_recovered(axes_sae(0.5), FakeModel(), reference())
    # Six predictions at loss 2; three of them at patched positions lose half a nat, or a whole one to zeros.
    assert found.n_tokens == 6
    assert found.ce_clean == pytest.approx(2)
    assert found.ce_patched == pytest.approx(2 + 3 * 0.5 / 6)
    assert found.ce_zero == pytest.approx(2 + 3 / 6)
    assert found.recovered == pytest.approx(0.5)


def test_a_perfect_sae_recovers_everything_and_one_that_gives_zero_nothing():
    assert loss_recovered(axes_sae(1.0), FakeModel(), reference()).recovered == 1
    assert loss_recovered(axes_sae(0.0), FakeModel(), reference()).recovered == 0


def test_first_positions_and_special_tokens_are_patched_only_where_the_sae_saw_them():
    all_kept = ActivationsConfig(keep_first_position=True, keep_special_tokens=True)
    assert reference().kept.astype(int).tolist() == [[0, 1, 0, 1], [0, 1, 1, 1]]
    assert reference(trained_on=all_kept).kept.all()


def test_activations_with_a_norm_no_sae_was_trained_on_are_left_alone():
    found = loss_recovered(axes_sae(0.5), FakeModel(), reference(max_norm=0.9))
    assert found.ce_patched == found.ce_clean == found.ce_zero
    assert found.recovered is None  # where zeros do no harm nothing can be recovered


def test_contexts_are_spread_over_those_given():
    tokens = np.random.default_rng(0).integers(0, 2, (9, 8)).astype(np.int32)
    tokens[:, 1] = 1
    assert np.array_equal(reference(tokens, n_contexts=3).token_ids, tokens[[0, 4, 8]])


def test_contexts_without_a_position_to_patch_are_refused():
    with pytest.raises(ValueError, match="none of the 2 held-out contexts has a position to patch"):
        reference(np.zeros((2, 4), np.int32))


@pytest.mark.parametrize("max_norm", [None, 12.5])
def test_what_is_written_reads_back(tmp_path, max_norm):
    made = reference(max_norm=max_norm)
    summary = write_reference(tmp_path, made)
    again = read_reference(tmp_path)
    assert (summary["ce_clean"], summary["n_tokens"]) == (made.ce_clean, 6)
    assert np.array_equal(again.token_ids, made.token_ids)
    assert np.array_equal(again.kept, made.kept)
    assert (again.hook, again.max_norm, again.ce_zero) == ("layer", max_norm, made.ce_zero)


def test_on_a_real_model_an_sae_that_changes_nothing_loses_nothing(tmp_path, store):
    source = {"kind": "local", "path": str(make_model(tmp_path / "model"))}
    config = LanguageModelConfig.model_validate({"name": "tiny", "source": source, "dtype": "float32"})
    model = load_language_model(config, store)
    tokens = np.random.default_rng(0).integers(2, 60, (3, 12)).astype(np.int32)
    without_sae = reference_losses(model, tokens, "model.layers.1", ActivationsConfig(), None, 3)

    sae = build(TopKConfig(d_sae=8, k=1), 32, seed=0).requires_grad_(False)
    sae.encode = sae.decode = lambda values, x=None: values
    assert loss_recovered(sae, model, without_sae).ce_patched == pytest.approx(without_sae.ce_clean, abs=1e-6)
    assert without_sae.ce_zero != pytest.approx(without_sae.ce_clean, abs=1e-4)
