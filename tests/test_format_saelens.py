"""The SAELens layout: what its configurations say, old and new, and what SAELens itself computes."""

import json
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core.architectures import Conventions
from sae_core.formats import load_dictionary, load_sae, resolve, save_sae
from tests.tiny_saes import (
    D_IN,
    D_OUT,
    D_SAE,
    KINDS,
    SKIP,
    TRAINED,
    TRANSCODER,
    VARIANTS,
    edit,
    edit_weights,
    random_sae,
    sae_of,
)


@pytest.fixture
def x():
    return torch.randn(16, D_IN, generator=torch.Generator().manual_seed(9))


def test_the_files_are_the_saelens_layout(tmp_path):
    save_sae(random_sae(VARIANTS[0]), tmp_path, {"hook_name": "model.layers.3", "activation_scale": 0.5})
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["architecture"] == "topk"
    assert config["k"] == 3
    assert (config["d_in"], config["d_sae"]) == (8, 24)
    assert config["apply_b_dec_to_input"]
    assert config["normalize_activations"] == "none"
    assert config["metadata"] == {"hook_name": "model.layers.3", "activation_scale": 0.5}
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(tmp_path / "sae_weights.safetensors").items()}
    assert shapes == {"W_enc": (8, 24), "W_dec": (24, 8), "b_enc": (24,), "b_dec": (8,)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cfg.json", "sae_weights.safetensors"]


@pytest.mark.parametrize(
    ("architecture", "conventions", "name"),
    [
        ("standard", TRANSCODER, "transcoder"),
        ("standard", SKIP, "skip_transcoder"),
        ("jumprelu", TRANSCODER, "jumprelu_transcoder"),
        ("jumprelu", SKIP, "jumprelu_skip_transcoder"),
    ],
)
def test_a_transcoder_is_saved_under_the_name_that_saelens_gives_it(tmp_path, architecture, conventions, name):
    save_sae(sae_of(architecture, conventions), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert (config["architecture"], config["d_out"], config["apply_b_dec_to_input"]) == (name, D_OUT, False)
    with pytest.raises(ValueError, match="SAELens has no transcoder of the architecture topk"):
        save_sae(sae_of("topk", conventions), tmp_path)


def test_a_choice_by_decoder_norms_is_folded_exactly(tmp_path, x):
    sae = random_sae(VARIANTS[0])
    sae.W_dec[5] = 0  # a feature that died
    save_sae(sae, tmp_path)
    edit(tmp_path, rescale_acts_by_decoder_norm=True)
    norms = sae.W_dec.norm(dim=1)
    codes = sae.activate(((x - sae.b_dec) @ sae.W_enc + sae.b_enc) * norms)
    loaded = load_sae(tmp_path)
    assert torch.allclose(loaded.encode(x), codes, atol=1e-5)
    assert torch.allclose(loaded(x), (codes / norms.clamp_min(1e-8)) @ sae.W_dec + sae.b_dec, atol=1e-5)


def test_a_batchtopk_checkpoint_is_run_with_its_one_threshold(tmp_path, x):
    sae = random_sae(VARIANTS[1])
    save_sae(sae, tmp_path)
    edit(tmp_path, architecture="batchtopk", k=2.5, rescale_acts_by_decoder_norm=False)
    edit_weights(tmp_path, topk_threshold=torch.tensor(1.5, dtype=torch.float64))
    pre = sae.pre_activations(x)
    assert torch.equal(load_sae(tmp_path).encode(x), pre.relu() * (pre > 1.5))


@pytest.mark.parametrize("threshold", [..., torch.tensor(-1.0)])
def test_batchtopk_without_a_threshold_is_a_dictionary_and_no_sae(tmp_path, threshold):
    sae = random_sae(VARIANTS[1])
    save_sae(sae, tmp_path)
    edit(tmp_path, architecture="matryoshka_batchtopk", k=2, rescale_acts_by_decoder_norm=False)
    edit_weights(tmp_path, topk_threshold=threshold)
    with pytest.raises(
        ValueError, match=r"cannot be run as an SAE: its threshold was never estimated.*can be compared"
    ):
        load_sae(tmp_path)
    found = load_dictionary(tmp_path)
    assert found.architecture is None
    assert np.array_equal(found.W_dec, sae.W_dec.numpy())


def test_the_threshold_of_an_old_training_checkpoint_is_the_exponential_of_what_it_holds(tmp_path):
    sae = sae_of("jumprelu", Conventions())
    save_sae(sae, tmp_path)
    edit_weights(tmp_path, threshold=..., log_threshold=sae.threshold.log())
    assert torch.allclose(load_sae(tmp_path).threshold, sae.threshold)


def test_activations_scaled_in_training_are_folded_when_the_factor_is_there_and_else_only_compared(tmp_path, x):
    sae = random_sae(VARIANTS[1])
    save_sae(sae, tmp_path)
    edit(tmp_path, normalize_activations="expected_average_only_in")
    with pytest.raises(
        ValueError, match=r"cannot be run as an SAE: it was trained on activations scaled to a mean norm"
    ):
        load_sae(tmp_path)
    assert np.array_equal(load_dictionary(tmp_path).W_dec, sae.W_dec.numpy())
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
    loaded = load_sae(tmp_path)
    assert torch.allclose(loaded.encode(x), sae.encode(0.25 * x), atol=1e-5)
    assert torch.allclose(loaded(x), 4 * sae(0.25 * x), atol=1e-4)
    assert "activation_scaler.json" in resolve(tmp_path).files
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 0}')
    with pytest.raises(ValueError, match="scaling_factor = 0, expected a positive number"):
        load_sae(tmp_path)


def test_whitened_activations_are_folded_and_a_decoder_in_unknown_coordinates_is_refused(tmp_path, x):
    sae = random_sae(VARIANTS[1])
    save_sae(sae, tmp_path)
    edit(tmp_path, normalize_activations="covariance_whitening")
    with pytest.raises(ValueError, match="decoder lies in coordinates that are not known"):
        load_dictionary(tmp_path)
    matrix, mean = torch.randn(2, D_IN, D_IN, generator=torch.Generator().manual_seed(1)).double()
    parts = {"mean": mean[0], "matrix": matrix, "inverse_matrix": torch.linalg.inv(matrix)}
    save_file({name: part.contiguous() for name, part in parts.items()}, tmp_path / "activation_whitening.safetensors")
    loaded = load_sae(tmp_path)
    whitened = ((x.double() - mean[0]) @ matrix).float()
    assert torch.allclose(loaded.encode(x), sae.encode(whitened), atol=1e-3)
    back = sae(whitened).double() @ parts["inverse_matrix"] + mean[0]
    assert torch.allclose(loaded(x).double(), back, atol=1e-2)


FLAT = {
    "hook_point": "blocks.3.hook_resid_pre",
    "d_in": D_IN,
    "dtype": "float32",
    "lr": 0.0004,
    "use_ghost_grads": True,
}


def old(folder, config, sae):
    """A folder as SAELens wrote it before 6.0."""
    save_sae(sae, folder)
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def test_a_configuration_from_before_6_is_understood(tmp_path, x):
    standard, topk = random_sae(VARIANTS[1]), random_sae(VARIANTS[0])
    loaded = load_sae(old(tmp_path / "1", {**FLAT, "expansion_factor": 3, "normalize_activations": False}, standard))
    assert torch.equal(loaded(x), standard(x))
    chosen = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}, "architecture": "standard"}
    loaded = load_sae(old(tmp_path / "2", {**FLAT, "d_sae": D_SAE, **chosen}, topk))
    assert torch.equal(loaded(x), topk(x))
    loaded = load_sae(old(tmp_path / "3", {**FLAT, "d_sae": D_SAE, "apply_b_dec_to_input": False}, standard))
    assert not loaded.conventions.subtract_b_dec
    head = {**FLAT, "d_sae": D_SAE, "hook_point": "blocks.3.attn.hook_z"}
    assert torch.equal(load_sae(old(tmp_path / "4", head, standard))(x), standard(x))


def test_finetuned_factors_of_old_files_are_folded_into_the_decoder(tmp_path, x):
    sae = random_sae(VARIANTS[1])
    folder = old(tmp_path, {**FLAT, "d_sae": D_SAE, "finetuning_scaling_factor": True}, sae)
    factor = torch.linspace(0.5, 2, D_SAE)
    edit_weights(folder, scaling_factor=factor)
    loaded = load_sae(folder)
    assert torch.equal(loaded.encode(x), sae.encode(x))
    assert torch.allclose(loaded(x), (sae.encode(x) * factor) @ sae.W_dec + sae.b_dec, atol=1e-5)
    edit(folder, finetuning_scaling_factor=False)
    with pytest.raises(ValueError, match="holds a scaling_factor that is not one"):
        load_sae(folder)
    edit_weights(folder, scaling_factor=torch.ones(D_SAE))
    assert torch.equal(load_sae(folder)(x), sae(x))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"d_sae": D_SAE, "activation_fn_str": "tanh-relu"}, "activation function 'tanh-relu' is not known here"),
        ({"d_sae": D_SAE, "normalize_activations": True}, "scaled to a mean norm"),
        ({"d_sae": D_SAE, "activation_fn_str": "topk"}, "activation function topk, but no activation_fn_kwargs.k"),
        ({}, "has no key 'd_sae'"),
    ],
)
def test_an_old_configuration_that_cannot_be_run_is_refused(tmp_path, config, message):
    with pytest.raises(ValueError, match=message):
        load_sae(old(tmp_path, {**FLAT, **config}, random_sae(VARIANTS[1])))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalize_activations": "batch_norm"}, "normalize_activations = 'batch_norm' is unknown; known are none"),
        ({"temperature": 2}, "unknown keys temperature, which may change what the SAE computes"),
        ({"architecture": "temporal"}, "architecture 'temporal' cannot be read; readable are abstopk, batchtopk"),
        ({"architecture": ...}, "has no key 'architecture'"),
        ({"architecture": "abstopk"}, "cannot be run as an SAE: its features may be negative"),
        ({"architecture": "gated"}, "has no b_gate, b_mag, r_mag; expected are"),
        ({"k": ...}, "has no key 'k'"),
        ({"k": 24}, "k must be at least 1 and smaller than d_sae=24"),
        ({"d_sae": ...}, "has no key 'd_sae'"),
        ({"d_sae": "many"}, "d_sae = 'many', expected a whole number"),
        ({"d_in": 9}, r"has shape \(8, 24\), expected \(9, 24\)|has shape \(24, 8\), expected \(24, 9\)"),
    ],
)
def test_a_config_that_cannot_be_honoured_is_refused(tmp_path, change, message):
    save_sae(random_sae(VARIANTS[0]), tmp_path)
    edit(tmp_path, **change)
    with pytest.raises(ValueError, match=message):
        load_sae(tmp_path)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("b_enc", torch.full((24,), torch.nan), r"b_enc holds values that are not finite in row 0 \(24 such rows"),
        ("threshold", torch.zeros(24), "unknown keys threshold"),
        ("W_dec", torch.zeros(8, 24), r"W_dec is transposed: it has shape \(8, 24\), expected \(24, 8\)"),
        ("W_enc", torch.zeros(24, 8), r"W_enc is transposed: it has shape \(24, 8\), expected \(8, 24\)"),
        ("b_dec", torch.zeros(24), r"b_dec has shape \(24,\), expected \(8,\)"),
    ],
)
def test_weights_that_are_not_what_the_config_says_are_refused(tmp_path, name, tensor, message):
    save_sae(random_sae(VARIANTS[0]), tmp_path)
    edit_weights(tmp_path, **{name: tensor})
    with pytest.raises(ValueError, match=message):
        load_sae(tmp_path)


THEIRS = """
import sys, torch
from pathlib import Path
from sae_lens import SAE
x = torch.load(sys.argv[1] + "/x.pt")
for folder in sorted(Path(sys.argv[1]).glob("ours*")):
    sae = SAE.load_from_disk(folder)
    assert sae.cfg.metadata.model_name == "tiny"
    torch.save({"codes": sae.encode(x).detach(), "x_hat": sae(x).detach()}, folder / "theirs.pt")
    sae.save_model(folder / "theirs")
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_saelens_computes_the_same_features_from_every_sae_that_was_saved(tmp_path, x, saelens_python):
    saes = [sae_of(architecture, conventions) for architecture, conventions in KINDS]
    saes += [random_sae(variant).finished() for variant in TRAINED]
    torch.save(x, tmp_path / "x.pt")
    for number, sae in enumerate(saes):
        save_sae(sae, tmp_path / f"ours{number:02d}", {"model_name": "tiny"})
    subprocess.run([saelens_python, "-W", "ignore", "-c", THEIRS, str(tmp_path)], check=True)
    for number, sae in enumerate(saes):
        folder = tmp_path / f"ours{number:02d}"
        theirs = torch.load(folder / "theirs.pt")
        assert torch.allclose(theirs["codes"], sae.encode(x), atol=1e-5)
        assert torch.allclose(theirs["x_hat"], sae(x), atol=1e-5)
        assert torch.equal(load_sae(folder / "theirs").encode(x), sae.encode(x))
