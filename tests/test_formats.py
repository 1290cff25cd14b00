"""SAEs in files: what goes out comes back, and what cannot be kept exactly is refused."""

import numpy as np
import pytest
import torch

from sae_core.config import TopKConfig
from sae_core.formats import FORMATS, WRITABLE, Format, WritableFormat, load_dictionary, load_sae, save_sae
from sae_core.formats.checkpoint import Checkpoint, check, to_sae
from tests.tiny_saes import D_IN, D_SAE, KINDS, TRAINED, VARIANTS, random_sae, sae_of


@pytest.fixture
def x():
    return torch.randn(16, D_IN, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize(("architecture", "conventions"), KINDS)
def test_an_sae_that_was_saved_loads_with_the_same_bits(tmp_path, x, architecture, conventions):
    sae = sae_of(architecture, conventions)
    save_sae(sae, tmp_path / "sae", {"model_name": "tiny"})
    loaded = load_sae(tmp_path / "sae")
    assert type(loaded) is type(sae)
    assert loaded.conventions == conventions
    assert torch.equal(loaded.encode(x), sae.encode(x))
    assert torch.equal(loaded(x), sae(x))
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    found = load_dictionary(tmp_path / "sae")
    assert np.array_equal(found.W_dec, sae.W_dec.numpy())
    assert np.array_equal(found.W_enc, sae.W_enc.numpy())
    assert (found.name, found.architecture, found.source.format) == ("sae", architecture, "saelens")


@pytest.mark.parametrize("variant", TRAINED, ids=lambda v: v.architecture)
def test_every_trained_sae_comes_back_from_its_file_for_raw_activations(tmp_path, x, variant):
    sae = random_sae(variant)
    finished = sae.finished()
    codes, x_hat = sae.finished().encode(0.25 * x), sae(0.25 * x)
    save_sae(finished.fold_scale(0.25), tmp_path)
    loaded = load_sae(tmp_path)
    assert loaded.architecture in ("standard", "topk", "jumprelu", "gated")
    assert torch.equal(loaded.encode(x), finished.encode(x))
    assert torch.equal(loaded(x), finished(x))
    assert torch.allclose(loaded.encode(x), 4 * codes, atol=1e-4)
    assert torch.allclose(loaded(x), 4 * x_hat, atol=1e-4)


def test_half_precision_weights_load_as_float32(tmp_path):
    sae = random_sae(VARIANTS[1])
    save_sae(sae.half(), tmp_path)
    assert load_sae(tmp_path).W_dec.dtype == torch.float32
    assert load_dictionary(tmp_path).W_dec.dtype == np.float32


@pytest.mark.parametrize(("name", "axis"), [("W_dec", "row"), ("W_enc", "column")])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_feature_that_is_not_finite_is_named(tmp_path, name, axis, value):
    sae = random_sae(VARIANTS[0])
    (sae.W_dec[7] if name == "W_dec" else sae.W_enc[:, 7])[3] = value
    save_sae(sae, tmp_path)
    for load in (load_sae, load_dictionary):
        with pytest.raises(ValueError, match=rf"{name} holds values that are not finite in {axis} 7 \(1 such"):
            load(tmp_path)


def test_features_that_are_zero_are_no_error(tmp_path):
    sae = random_sae(VARIANTS[0])
    sae.W_dec[3] = 0
    save_sae(sae, tmp_path)
    assert not load_dictionary(tmp_path).W_dec[3].any()


def test_damaged_files_are_refused(tmp_path):
    save_sae(random_sae(VARIANTS[0]), tmp_path)
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_sae(tmp_path)
    weights = tmp_path / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"is not a readable safetensors file .*was cut short"):
        load_sae(tmp_path)


def test_a_folder_that_holds_no_sae_is_refused_with_what_it_holds_and_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "plots").mkdir()
    with pytest.raises(ValueError, match=r"in no known format. It holds notes.txt, plots/. Looked for:") as error:
        load_sae(tmp_path)
    assert all(f"\n  {name}: {module.LOOKS_FOR}" in str(error.value) for name, module in FORMATS.items())
    with pytest.raises(ValueError, match=r"in no known format. It is a file of 0 bytes, notes.txt"):
        load_sae(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match=r"has no cfg\.json"):
        load_sae(tmp_path, format="saelens")
    with pytest.raises(ValueError, match="unknown format 'onnx'; known are saelens, dictionary_learning"):
        load_sae(tmp_path, format="onnx")
    with pytest.raises(
        ValueError, match="cannot write the format 'sparsify'; writable are saelens, dictionary_learning"
    ):
        save_sae(random_sae(VARIANTS[0]), tmp_path, format="sparsify")


def test_a_folder_in_two_formats_is_refused_until_one_is_named(tmp_path, x):
    sae = random_sae(VARIANTS[0])
    save_sae(sae, tmp_path)
    save_sae(random_sae(TopKConfig(d_sae=D_SAE, k=5)), tmp_path, format="dictionary_learning")
    with pytest.raises(ValueError, match=r"could be in the format saelens or dictionary_learning; say which"):
        load_sae(tmp_path)
    assert torch.equal(load_sae(tmp_path, format="saelens")(x), sae(x))
    assert load_sae(tmp_path, format="dictionary_learning").k == 5


def test_every_format_is_registered_under_its_own_name():
    assert {name: module.NAME for name, module in FORMATS.items()} == {name: name for name in FORMATS}
    assert all(isinstance(module, Format) for module in FORMATS.values())
    assert all(isinstance(module, WritableFormat) and module is FORMATS[name] for name, module in WRITABLE.items())


def parts(**changes):
    whole = {"W_dec": torch.ones(24, 8), "W_enc": torch.ones(8, 24), "b_enc": torch.ones(24), "b_dec": torch.ones(8)}
    return {"architecture": "standard", **whole, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"W_dec": torch.ones(8, 24)}, r"here: W_dec is transposed: it has shape \(8, 24\), expected .* = \(24, 8\)"),
        (
            {"W_dec": torch.ones(8, 24), "b_enc": None, "b_dec": None, "declared": {"d_in": 8, "d_sae": 24}},
            "transposed",
        ),
        ({"W_dec": torch.ones(20, 8)}, r"W_dec has shape \(20, 8\), expected \(d_sae, d_in\) = \(24, 8\)"),
        ({"W_dec": torch.ones(24)}, r"W_dec has shape \(24,\) .*it is no decoder"),
        ({"W_dec": torch.ones(24, 8, dtype=torch.int64)}, "type torch.int64, expected .* floating type"),
        ({"W_enc": torch.ones(24, 8)}, r"W_enc has shape \(24, 8\), expected \(8, 24\); the parts are not of one SAE"),
        ({"W_enc": torch.ones(6, 24)}, r"W_enc has shape \(6, 24\), expected \(8, 24\)"),
        ({"architecture": "jumprelu"}, "a jumprelu SAE lacks threshold"),
        ({"architecture": "gated"}, "a gated SAE lacks b_gate, b_mag, r_mag"),
        ({"tensors": {"threshold": torch.ones(24)}}, "a standard SAE has no use for threshold"),
        ({"tensors": {"W_skip": torch.ones(8, 8)}}, "W_skip are for transcoders"),
        ({"architecture": "vae"}, "unknown architecture 'vae'"),
        ({"normalize": "batch"}, "normalize must be one of none, constant_norm_rescale, layer_norm: got 'batch'"),
        ({"transcodes": True}, "b_dec of a transcoder lies where it writes"),
        ({"architecture": None}, "here cannot be run as an SAE: it holds a decoder alone"),
        (
            {"W_dec": torch.full((24, 8), 1e300, dtype=torch.float64)},
            r"W_dec holds values that are not finite in row 0",
        ),
    ],
)
def test_parts_that_do_not_make_an_sae_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        to_sae(Checkpoint(**parts(**changes)), "here")


def test_biases_that_are_left_out_are_zero():
    sae = to_sae(Checkpoint(**parts(b_enc=None, b_dec=None)), "here")
    assert not sae.b_enc.any()
    assert not sae.b_dec.any()
    check(Checkpoint(architecture=None, W_dec=torch.zeros(3, 5)), "here")  # wider than long, and zero: no error
