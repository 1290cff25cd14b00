"""What an SAE computes, with numbers that can be checked in the head."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_core.architectures import ARCHITECTURES, Conventions, Gated, JumpReLU, Standard, TopK, build, create, trainable
from sae_core.architectures.trainable import keep_largest
from sae_core.config import (
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    MatryoshkaBatchTopKConfig,
    PAnnealConfig,
    StandardAprilConfig,
    TopKConfig,
    TrainingConfig,
)
from sae_core.training import train
from tests.tiny_saes import TRAINED, hand_made, random_sae

every_architecture = pytest.mark.parametrize("variant", TRAINED, ids=lambda v: v.architecture)


def test_a_standard_sae_keeps_every_positive_pre_activation():
    sae = hand_made(Standard(2, 3))
    assert sae.encode(torch.tensor([[3.0, 4.0], [-1.0, -1.0]])).tolist() == [[3, 4, 0], [0, 0, 1]]


def test_a_topk_sae_keeps_the_largest_positive_pre_activations():
    sae = hand_made(TopK(2, 3, k=1))
    assert sae.encode(torch.tensor([[3.0, 4.0], [-2.0, -1.0], [0.0, -1.0]])).tolist() == [
        [0, 4, 0],
        [0, 0, 2],
        [0, 0, 0],
    ]


def test_a_jumprelu_sae_keeps_pre_activations_above_the_threshold_of_their_feature():
    sae = hand_made(JumpReLU(2, 3))
    sae.threshold.data.copy_(torch.tensor([3.0, 3.0, -1.0]))
    # 3 is not above 3; a threshold below zero keeps nothing negative.
    assert sae.encode(torch.tensor([[3.0, 4.0], [0.5, 3.5]])).tolist() == [[0, 4, 0], [0, 3.5, 0]]


def test_a_gated_sae_asks_one_path_whether_and_the_other_how_much():
    sae = hand_made(Gated(2, 3))
    sae.b_gate.data.copy_(torch.tensor([-2.0, -5.0, 0.0]))
    sae.b_mag.data.copy_(torch.tensor([1.0, 1.0, 9.0]))
    sae.r_mag.data.copy_(torch.tensor([2.0, 1.0, 1.0]).log())
    # Gates: 3 - 2 > 0, 4 - 5 < 0, -3 < 0. Magnitude of the first: 2 * 3 + 1.
    assert sae.encode(torch.tensor([[3.0, 4.0]])).tolist() == [[7, 0, 0]]
    assert sorted(sae.state_dict()) == ["W_dec", "W_enc", "b_dec", "b_gate", "b_mag", "r_mag"]


def test_an_sae_may_leave_its_input_as_it_is():
    sae = hand_made(Standard(2, 3, conventions=Conventions(subtract_b_dec=False)))
    sae.b_dec.data.copy_(torch.tensor([1.0, 1.0]))
    x = torch.tensor([[3.0, 4.0]])
    assert sae.encode(x).tolist() == [[3, 4, 0]]
    assert sae(x).tolist() == [[4, 5]]


def test_a_constant_norm_gives_every_input_the_length_sqrt_d_in_and_takes_it_back():
    sae = hand_made(Standard(2, 3, conventions=Conventions(normalize="constant_norm_rescale")))
    x = torch.tensor([[3.0, 4.0], [30.0, 40.0], [0.0, 0.0]])
    codes = sae.encode(x)
    assert torch.allclose(codes[:2], torch.tensor([[0.6, 0.8, 0.0]]) * 2**0.5)
    assert codes[2].tolist() == [0, 0, 0]
    assert torch.allclose(sae(x), x)


def test_a_layer_norm_takes_mean_and_deviation_and_gives_them_back():
    sae = hand_made(Standard(2, 3, conventions=Conventions(normalize="layer_norm")))
    x = torch.tensor([[3.0, 7.0]])  # mean 5, deviation of two values 8 ** 0.5
    assert torch.allclose(sae.encode(x), torch.tensor([[0, 2 / 8**0.5, 2 / 8**0.5]]), atol=1e-4)
    assert torch.allclose(sae(x), torch.tensor([[3.0, 7.0]]), atol=1e-4)


def test_a_transcoder_writes_another_width_and_adds_what_skips_the_features():
    conventions = Conventions(d_out=1, is_transcoder=True, has_skip=True, subtract_b_dec=False)
    sae = Standard(2, 3, conventions=conventions)
    sae.W_enc.data.copy_(torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]))
    sae.W_dec.data.copy_(torch.tensor([[10.0], [100.0], [1000.0]]))
    sae.W_skip.data.copy_(torch.tensor([[0.1], [0.01]]))
    sae.b_dec.data.fill_(0.5)
    x = torch.tensor([[3.0, 4.0]])
    assert sae.encode(x).tolist() == [[3, 4, 0]]
    assert sae(x).item() == pytest.approx(430 + 0.34 + 0.5)
    assert (sae.d_in, sae.d_out, sae.is_transcoder) == (2, 1, True)
    with pytest.raises(ValueError, match=r"needs its input to decode .*call decode\(codes, x\)"):
        sae.decode(sae.encode(x))


def test_a_normalised_transcoder_gives_no_norm_back_to_the_place_it_writes_to():
    conventions = Conventions(is_transcoder=True, subtract_b_dec=False, normalize="constant_norm_rescale")
    sae = hand_made(Standard(2, 3, conventions=conventions))
    x = torch.tensor([[3.0, 4.0]])
    assert torch.allclose(sae(x), x / 5 * 2**0.5)


def test_the_decoder_bias_is_taken_from_the_input_and_given_back():
    sae = hand_made(Standard(2, 3))
    sae.b_dec.data.copy_(torch.tensor([1.0, 1.0]))
    x = torch.tensor([[3.0, 4.0]])
    assert sae.encode(x).tolist() == [[2, 3, 0]]
    assert sae(x).tolist() == [[3, 4]]


@every_architecture
def test_building_gives_unit_decoder_rows_a_transposed_encoder_and_zero_biases(variant):
    sae = build(variant, d_in=8, seed=3)
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(24))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert not sae.b_enc.any()
    assert not sae.b_dec.any()
    assert (sae.W_enc.shape, sae.W_dec.shape, sae.b_enc.shape, sae.b_dec.shape) == ((8, 24), (24, 8), (24,), (8,))


def test_the_seed_alone_decides_the_weights_and_the_global_generator_is_untouched():
    before = torch.get_rng_state()
    first, again, other = (build(TRAINED[0], 8, seed) for seed in (1, 1, 2))
    assert torch.equal(first.W_dec, again.W_dec)
    assert not torch.equal(first.W_dec, other.W_dec)
    assert torch.equal(torch.get_rng_state(), before)


@every_architecture
def test_folding_a_scale_in_gives_the_same_sae_on_raw_activations(variant):
    sae = random_sae(variant)
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(3))
    codes, x_hat, rows = sae.encode(0.25 * x), sae(0.25 * x), sae.W_dec.clone()
    sae.fold_scale(0.25)
    assert torch.allclose(sae.encode(x), 4 * codes, atol=1e-4)
    assert torch.allclose(sae(x), 4 * x_hat, atol=1e-4)
    assert torch.equal(sae.W_dec, rows)


@every_architecture
def test_any_number_of_leading_dimensions_gives_the_same_numbers(variant):
    sae = build(variant, d_in=8, seed=0)
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(sae.encode(x.reshape(2, 3, 8)).reshape(6, 24), sae.encode(x), atol=1e-6)
    assert sae(x[0]).shape == (8,)


@given(st.integers(1, 12), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_at_most_k_features_are_active_and_none_is_negative(k, seed):
    pre = torch.randn(5, 13, generator=torch.Generator().manual_seed(seed))
    codes = keep_largest(pre.relu(), k)
    assert ((codes > 0).sum(1) <= k).all()
    assert (codes >= 0).all()
    for row, kept in zip(pre, codes, strict=True):
        assert kept[kept > 0].sort().values.tolist() == sorted(row.relu().tolist())[-k:][-int((kept > 0).sum()) :]


def test_every_architecture_is_registered_under_its_own_name():
    assert {name: kind.architecture for name, kind in ARCHITECTURES.items()} == {
        n: n
        for n in (
            "standard",
            "standard_april",
            "topk",
            "batch_topk",
            "jumprelu",
            "gated",
            "p_anneal",
            "matryoshka_batch_topk",
        )
    }


@pytest.mark.parametrize("k", [0, 4, 5])
def test_an_impossible_k_is_refused(k):
    with pytest.raises(ValueError, match=f"k must be at least 1 and smaller than d_sae=4: got {k}"):
        TopK(2, 4, k=k)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="got d_in=0, d_sae=4"):
        Standard(0, 4)
    with pytest.raises(ValueError, match="got d_in=2, d_sae=1"):
        Standard(2, 1)


def test_an_unknown_architecture_is_refused_with_those_known():
    with pytest.raises(
        ValueError, match="unknown architecture 'vae'; known are batch_topk, gated, jumprelu, matryoshka_batch_topk, p_"
    ):
        create("vae", 2, 4)


def test_a_scale_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="an activation scale must be a positive number, got 0"):
        Standard(2, 4).fold_scale(0.0)

    normalised = Standard(2, 4, conventions=Conventions(normalize="layer_norm"))
    with pytest.raises(ValueError, match=r"normalises its input \(layer_norm\): it knows no scale to fold"):
        normalised.fold_scale(2.0)


@pytest.mark.parametrize(
    ("conventions", "message"),
    [
        ({"normalize": "batch"}, "normalize must be one of none, constant_norm_rescale, layer_norm: got 'batch'"),
        ({"is_transcoder": True}, "b_dec of a transcoder lies where it writes"),
        ({"d_out": 3}, "d_out and W_skip are for transcoders"),
        ({"has_skip": True}, "d_out and W_skip are for transcoders"),
    ],
)
def test_conventions_that_contradict_each_other_are_refused(conventions, message):
    with pytest.raises(ValueError, match=message):
        Conventions(**conventions)


NOT_CENTRED = Conventions(subtract_b_dec=False)


@pytest.mark.parametrize(
    ("sae", "message"),
    [
        (
            Standard(2, 4),
            "the loss of this standard SAE needs l1_coefficient, which its file does not tell: set sae.l1",
        ),
        (Gated(2, 4), "the loss of this gated SAE needs l1_coefficient"),
        (JumpReLU(2, 4, conventions=NOT_CENTRED), "the loss of this jumprelu SAE needs target_l0"),
        (JumpReLU(2, 4, target_l0=1.0), "subtract_b_dec=True.* cannot be trained here"),
        (TopK(2, 4, k=1, conventions=NOT_CENTRED), "subtract_b_dec=False.* cannot be trained here"),
    ],
)
def test_training_refuses_what_can_only_be_run_before_the_first_step(sae, message):
    with pytest.raises(ValueError, match=message):
        trainable(sae)
    with pytest.raises(ValueError, match=message):
        train(sae, iter([]), TrainingConfig(n_steps=10_000))


@pytest.mark.parametrize("sae", [Standard(2, 4), Gated(2, 4), JumpReLU(2, 4)], ids=lambda sae: sae.architecture)
def test_an_sae_whose_file_tells_no_penalty_has_no_loss(sae):
    with pytest.raises(ValueError, match=f"the loss of this {sae.architecture} SAE needs {sae.loss_needs}"):
        sae.loss(torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (TopKConfig, {"k": 24}, "k must be smaller than d_sae: got k=24, d_sae=24; lower k or raise d_sae"),
        (BatchTopKConfig, {"k": 30}, "k must be smaller than d_sae: got k=30, d_sae=24"),
        (BatchTopKConfig, {"k": 3, "l1_coefficient": 0.1}, "l1_coefficient\n *Extra inputs are not permitted"),
        (JumpReLUConfig, {"target_l0": 3, "l1_coefficient": 0.1}, "l1_coefficient\n *Extra inputs are not permitted"),
        (JumpReLUConfig, {"target_l0": 24}, "target_l0 must be smaller than d_sae: got target_l0=24, d_sae=24"),
        (GatedConfig, {"l1_coefficient": 0}, "l1_coefficient\n *Input should be greater than 0"),
        (GatedConfig, {"l1_coefficient": 0.1, "k": 3}, "k\n *Extra inputs are not permitted"),
        (PAnnealConfig, {"l1_coefficient": 0.1, "p_end": 0}, "p_end\n *Input should be greater than 0"),
        (
            PAnnealConfig,
            {"l1_coefficient": 0.1, "n_updates": 1},
            "n_updates\n *Input should be greater than or equal to 2",
        ),
        (
            StandardAprilConfig,
            {"l1_coefficient": 0.1, "aligned": True},
            "aligned needs decoder rows of unit length, which standard_april does not keep; use standard",
        ),
        (
            MatryoshkaBatchTopKConfig,
            {"k": 3, "group_fractions": [0.5, 0.25]},
            r"group_fractions must add up to 1: got \[0.5, 0.25\], which add up to 0.75",
        ),
        (
            MatryoshkaBatchTopKConfig,
            {"k": 3, "group_fractions": [0.5, 0.5], "group_weights": [1.0]},
            r"group_weights needs a number for each of the 2 groups: got \[1.0\]",
        ),
        (
            MatryoshkaBatchTopKConfig,
            {"k": 3, "group_fractions": [1 / 32, 31 / 32]},
            r"every group needs a feature: got group_fractions=\[0.03125, 0.96875\] of d_sae=24; raise d_sae",
        ),
    ],
)
def test_a_variant_that_contradicts_itself_is_refused(config, settings, message):
    with pytest.raises(ValueError, match=message):
        config(d_sae=24, **settings)
