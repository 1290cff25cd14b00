"""SAEs in files: what goes out comes back, and what cannot be kept exactly is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core.architectures import build
from sae_core.config import StandardConfig, TopKConfig
from sae_core.formats import load_sae, save_sae

VARIANTS = [TopKConfig(d_sae=24, k=3), StandardConfig(d_sae=24, l1_coefficient=0.1)]


def random_sae(variant):
    sae = build(variant, d_in=8, seed=0).requires_grad_(False)
    for seed, parameter in enumerate(sae.parameters()):
        parameter.normal_(generator=torch.Generator().manual_seed(seed))
    return sae


@pytest.fixture
def x():
    return torch.randn(16, 8, generator=torch.Generator().manual_seed(9))


def edit(folder, **changes):
    config = json.loads((folder / "cfg.json").read_text())
    config.update(changes)
    (folder / "cfg.json").write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.architecture)
def test_an_sae_that_was_saved_loads_with_the_same_bits(tmp_path, x, variant):
    sae = random_sae(variant)
    save_sae(sae, tmp_path / "sae", {"model_name": "tiny"})
    loaded = load_sae(tmp_path / "sae")
    assert type(loaded) is type(sae)
    assert torch.equal(loaded.encode(x), sae.encode(x))
    assert torch.equal(loaded(x), sae(x))
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


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


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.architecture)
def test_an_sae_that_leaves_the_input_uncentred_is_folded_exactly(tmp_path, x, variant):
    sae = random_sae(variant)
    save_sae(sae, tmp_path)
    edit(tmp_path, apply_b_dec_to_input=False)
    expected = sae.activate(x @ sae.W_enc + sae.b_enc)
    assert torch.allclose(load_sae(tmp_path).encode(x), expected, atol=1e-5)


def test_a_choice_by_decoder_norms_is_folded_exactly(tmp_path, x):
    sae = random_sae(VARIANTS[0])
    save_sae(sae, tmp_path)
    edit(tmp_path, rescale_acts_by_decoder_norm=True)
    norms = sae.W_dec.norm(dim=1)
    codes = sae.activate(((x - sae.b_dec) @ sae.W_enc + sae.b_enc) * norms)
    loaded = load_sae(tmp_path)
    assert torch.allclose(loaded.encode(x), codes, atol=1e-5)
    assert torch.allclose(loaded(x), (codes / norms) @ sae.W_dec + sae.b_dec, atol=1e-5)


def test_half_precision_weights_load_as_float32(tmp_path):
    sae = random_sae(VARIANTS[1])
    save_sae(sae.half(), tmp_path)
    assert load_sae(tmp_path).W_dec.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalize_activations": "layer_norm"}, "normalize_activations = 'layer_norm' cannot be kept exactly"),
        ({"reshape_activations": "hook_z"}, "reshape_activations = 'hook_z' cannot be kept exactly"),
        ({"temperature": 2}, "unknown keys temperature"),
        ({"architecture": "gated"}, "architecture 'gated' cannot be read; readable are standard, topk"),
        ({"k": ...}, "has no key 'k', which the architecture topk needs"),
        ({"d_sae": ...}, "has no key 'd_sae'"),
        ({"d_in": 9}, r"W_enc has shape \(8, 24\), expected \(9, 24\)"),
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
        ("b_enc", torch.full((24,), torch.nan), "b_enc holds values that are not finite"),
        ("threshold", torch.zeros(24), "holds W_dec, W_enc, b_dec, b_enc, threshold; expected are W_dec"),
        ("W_dec", torch.zeros(8, 24), r"W_dec has shape \(8, 24\), expected \(24, 8\)"),
    ],
)
def test_weights_that_are_not_what_the_config_says_are_refused(tmp_path, name, tensor, message):
    save_sae(random_sae(VARIANTS[0]), tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    save_file({**load_file(path), name: tensor}, path)
    with pytest.raises(ValueError, match=message):
        load_sae(tmp_path)


def test_damaged_files_are_refused(tmp_path):
    save_sae(random_sae(VARIANTS[0]), tmp_path)
    (tmp_path / "sae_weights.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        load_sae(tmp_path)
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_sae(tmp_path)


def test_a_folder_that_holds_no_sae_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no SAE folder .*missing; train the SAE first"):
        load_sae(tmp_path / "missing")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"in no known format \(saelens\); it holds notes.txt"):
        load_sae(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no cfg\.json"):
        load_sae(tmp_path, format="saelens")
    with pytest.raises(ValueError, match="unknown format 'onnx'; known are saelens"):
        load_sae(tmp_path, format="onnx")


THEIRS = """
import sys, torch
from sae_lens import SAE
folder = sys.argv[1]
x = torch.load(folder + "/x.pt")
sae = SAE.load_from_disk(folder + "/ours", device="cpu")
torch.save({"codes": sae.encode(x).detach(), "x_hat": sae(x).detach()}, folder + "/theirs.pt")
sae.save_model(folder + "/theirs")
"""


@pytest.fixture(scope="module")
def saelens_python():
    """A Python with SAELens, in an environment of its own: it pins what we do not. Installed on the first run.

    ``SAE_LENS_PYTHON`` names one that is there already.
    """
    if python := os.environ.get("SAE_LENS_PYTHON"):
        return python
    folder = Path(__file__).resolve().parent.parent / ".concord" / "peers" / "sae_lens"
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        for package in ("torch==2.13.0", "sae-lens==6.54.12"):
            subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True)
        (folder / "installed").touch()
    return str(python)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.architecture)
def test_saelens_computes_the_same_features(tmp_path, x, variant, saelens_python):
    sae = random_sae(variant)
    save_sae(sae, tmp_path / "ours", {"model_name": "tiny"})
    torch.save(x, tmp_path / "x.pt")
    subprocess.run([saelens_python, "-W", "ignore", "-c", THEIRS, str(tmp_path)], check=True)
    theirs = torch.load(tmp_path / "theirs.pt")
    assert torch.allclose(theirs["codes"], sae.encode(x), atol=1e-5)
    assert torch.allclose(theirs["x_hat"], sae(x), atol=1e-5)
    assert torch.equal(load_sae(tmp_path / "theirs").encode(x), sae.encode(x))
