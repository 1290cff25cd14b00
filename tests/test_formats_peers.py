"""SAEs saved by the packages that publish them: the same features, reconstructions and directions come out here.

The files in ``data`` are made by ``data/make_peer_checkpoints.py``, with what the packages compute beside them.
"""

import json
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sae_core.architectures import Conventions, create
from sae_core.formats import FORMATS, load_dictionary, load_sae, resolve, save_sae
from sae_core.formats.dictionary_learning import read as read_dictionary_learning
from tests.peer_files import DATA, copy_of, edit_json, edit_tensors, with_

FORMAT_OF = {name: name for name in ("saelens", "dictionary_learning", "sparsify", "openmoss")} | {
    "gemma_scope_1": "gemma_scope",
    "gemma_scope_2": "gemma_scope",
    "gemma_scope_2_transcoder": "gemma_scope",
    "llama_scope": "openmoss",
}
"""By the first folder below ``data``, or below ``data/documented``."""
ARCHITECTURE = {
    "saelens": {
        "standard": "standard", "standard_uncentred": "standard", "standard_rescaled": "standard",
        "standard_layer_norm": "standard", "topk": "topk", "topk_by_norm": "topk", "jumprelu": "jumprelu",
        "gated": "gated", "transcoder": "standard", "skip_transcoder": "standard", "jumprelu_transcoder": "jumprelu",
        "jumprelu_skip_transcoder": "jumprelu",
        **{f"{state}_{name}": name for state in ("training", "exported") for name in ("standard", "topk", "gated")},
        **{f"{state}_{name}": "jumprelu" for state in ("training", "exported")
           for name in ("jumprelu", "batchtopk", "matryoshka")},
    },
    "dictionary_learning": {
        "AutoEncoder": "standard", "AutoEncoder_april_update": "standard", "AutoEncoder_p_anneal": "standard",
        "AutoEncoderNew": "standard", "GatedAutoEncoder": "gated", "AutoEncoderTopK": "topk",
        "BatchTopKSAE": "jumprelu", "BatchTopKSAE_unset": None, "MatryoshkaBatchTopKSAE": "jumprelu",
        "JumpReluAutoEncoder": "jumprelu", "backup": "gated",
    },
    "sparsify": {
        "layers.0": "topk", "layers.1": "topk", "layers.2/seed1": "topk", "layers.3.mlp": "topk",
        "layers.4.mlp": "topk", "layers.5_groups": None,
    },
    "openmoss": {
        "jumprelu": "jumprelu", "jumprelu_raw": "jumprelu", "topk": "topk", "topk_by_norm": "topk",
        "relu_token_wise": "standard", "transcoder": "topk", "no_decoder_bias": "standard", "batchtopk": None,
        "glu": None,
    },
    "documented": {
        "gemma_scope_1": "jumprelu", "gemma_scope_2": "jumprelu", "gemma_scope_2_transcoder": "jumprelu",
        "llama_scope": "jumprelu",
    },
}  # fmt: skip
CASES = [(peer, name) for peer, names in ARCHITECTURE.items() for name in names]
RUNNABLE = [(peer, name) for peer, name in CASES if ARCHITECTURE[peer][name] is not None]
TRANSCODERS = {
    "transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder", "layers.3.mlp", "layers.4.mlp",
    "gemma_scope_2_transcoder",
}  # fmt: skip


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def expected(peer, name):
    return np.load(DATA / peer / name / "expected.npz")


def test_every_checkpoint_in_the_folder_is_tested():
    held = {path.parent.relative_to(DATA).as_posix() for path in DATA.rglob("expected.npz")}
    assert held == {f"{peer}/{name}" for peer, name in CASES}
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 400_000
    for peer in ARCHITECTURE:
        assert json.loads((DATA / peer / "versions.json").read_text())


@pytest.mark.parametrize(("peer", "name"), CASES)
def test_a_checkpoint_is_recognised_as_what_it_is_and_as_nothing_else(peer, name):
    folder = DATA / peer / name
    format = FORMAT_OF.get(peer) or FORMAT_OF[name]
    assert [found for found, module in FORMATS.items() if module.detects(folder)] == [format]
    source = resolve(folder)
    assert source.format == format
    assert len(source.files) == 1 + (format != "gemma_scope" or name != "gemma_scope_1") + (peer == "sparsify")


@pytest.mark.parametrize(("peer", "name"), CASES)
def test_directions_are_those_of_the_package(peer, name):
    dictionary = load_dictionary(DATA / peer / name)
    assert dictionary.architecture == ARCHITECTURE[peer][name]
    directions = expected(peer, name)["directions"]
    assert dictionary.W_dec.shape == directions.shape
    np.testing.assert_allclose(unit(dictionary.W_dec), unit(directions), atol=1e-6)


@pytest.mark.parametrize(("peer", "name"), RUNNABLE)
def test_features_and_reconstructions_are_those_of_the_package(peer, name):
    sae, held = load_sae(DATA / peer / name), expected(peer, name)
    x, codes = torch.from_numpy(held["x"]), held["codes"]
    assert sae.architecture == ARCHITECTURE[peer][name]
    assert sae.is_transcoder == (name in TRANSCODERS)
    if (peer, name) == ("openmoss", "topk_by_norm"):
        # It chooses by code times decoder norm; here the norm is folded into the codes, as SAELens does.
        codes = codes * np.linalg.norm(held["directions"], axis=1)
    np.testing.assert_allclose(sae.encode(x), codes, atol=1e-5)
    np.testing.assert_allclose(sae(x), held["x_hat"], atol=1e-5)


@pytest.mark.parametrize(
    ("peer", "name", "reason"),
    [
        ("dictionary_learning", "BatchTopKSAE_unset", "its threshold is -1, which means unset"),
        ("sparsify", "layers.5_groups", "its features are chosen by 'groupmax', not by topk"),
        ("openmoss", "batchtopk", "it chooses features over whole batches"),
        ("openmoss", "glu", "its encoder is a gated linear unit"),
    ],
)
def test_what_cannot_be_run_says_why_and_still_has_a_dictionary(peer, name, reason):
    with pytest.raises(ValueError, match=f"cannot be run as an SAE: {reason}.*Its dictionary can be compared"):
        load_sae(DATA / peer / name)
    assert load_dictionary(DATA / peer / name).W_dec.shape == (24, 8)


@pytest.mark.parametrize("format", ["dictionary_learning", "saelens"])
@pytest.mark.parametrize(("peer", "name"), RUNNABLE)
def test_an_sae_of_a_package_written_again_is_the_same_sae(tmp_path, peer, name, format):
    sae, x = load_sae(DATA / peer / name), torch.from_numpy(expected(peer, name)["x"])
    if format == "dictionary_learning" and (sae.is_transcoder or sae.conventions.normalize != "none"):
        with pytest.raises(ValueError, match=r"dictionary_learning has no class for an SAE with .*save it as saelens"):
            save_sae(sae, tmp_path, format=format)
        return
    if format == "saelens" and sae.is_transcoder and sae.architecture == "topk":
        with pytest.raises(ValueError, match="SAELens has no transcoder of the architecture topk"):
            save_sae(sae, tmp_path, format=format)
        return
    save_sae(sae, tmp_path, {"model_name": "pythia"}, format=format)
    again = load_sae(tmp_path)
    assert resolve(tmp_path).format == format
    assert again.architecture == sae.architecture
    assert torch.equal(again.W_dec, sae.W_dec)
    assert torch.allclose(again.encode(x), sae.encode(x), atol=1e-5)
    assert torch.allclose(again(x), sae(x), atol=1e-5)


def written(folder, architecture, subtract_b_dec):
    """A random SAE, saved in the layout of dictionary_learning."""
    settings = {"k": 4} if architecture == "topk" else {}
    sae = create(architecture, 8, 24, conventions=Conventions(subtract_b_dec=subtract_b_dec), **settings)
    for seed, (name, parameter) in enumerate(sae.requires_grad_(False).named_parameters()):
        parameter.normal_(generator=torch.Generator().manual_seed(seed))
        if name == "threshold":
            parameter.abs_()
    save_sae(sae, folder, {"model_name": "pythia", "hook_name": "gpt_neox.layers.3"}, format="dictionary_learning")
    return sae


WAYS = [(name, centred) for name in ("standard", "topk", "jumprelu", "gated") for centred in (True, False)]


@pytest.mark.parametrize(("architecture", "subtract_b_dec"), WAYS)
def test_a_bias_that_a_class_treats_otherwise_is_folded_exactly(tmp_path, architecture, subtract_b_dec):
    sae = written(tmp_path, architecture, subtract_b_dec)
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(99))
    again = load_sae(tmp_path)
    assert torch.allclose(again.encode(x), sae.encode(x), atol=1e-5)
    assert torch.allclose(again(x), sae(x), atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ae.pt", "config.json"]
    metadata = read_dictionary_learning(tmp_path).metadata
    assert (metadata["model_name"], metadata["hook_name"]) == ("pythia", "gpt_neox.layers.3")


def test_writing_twice_gives_the_same_bits(tmp_path):
    for name in ("a", "b"):
        written(tmp_path / name, "gated", True)
    assert (tmp_path / "a" / "ae.pt").read_bytes() == (tmp_path / "b" / "ae.pt").read_bytes()


def test_k_of_a_checkpoint_counts_where_it_was_annealed(tmp_path):
    folder = copy_of("dictionary_learning/AutoEncoderTopK", tmp_path)
    edit_tensors(folder / "checkpoints" / "ae_1.pt", with_(k=torch.tensor(7)))
    assert load_sae(folder / "checkpoints" / "ae_1.pt").k == 7


@pytest.mark.parametrize("name", ["AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder", "backup",
                                  "MatryoshkaBatchTopKSAE"])  # fmt: skip
def test_other_classes_are_known_by_their_keys(tmp_path, name):
    folder = copy_of(f"dictionary_learning/{name}", tmp_path)
    whole = load_sae(folder)
    (folder / "config.json").unlink()
    alone = load_sae(folder / "ae.pt")
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    assert type(alone) is type(whole)
    assert torch.equal(alone(x), whole(x))


@pytest.mark.parametrize(
    ("name", "file", "feature"),
    [
        ("openmoss/jumprelu", "sae_weights.safetensors", lambda held: held["W_D"][3]),
        ("openmoss/topk_by_norm", "sae_weights.safetensors", lambda held: held["W_D"][3]),
        ("documented/llama_scope", "checkpoints/final.safetensors", lambda held: held["decoder.weight"][:, 3]),
    ],
)
def test_a_feature_without_a_decoder_stays_silent_where_norms_are_compared(tmp_path, name, file, feature):
    folder = copy_of(name, tmp_path)
    edit_tensors(folder / file, lambda held: feature(held).zero_())
    sae, x = load_sae(folder), torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    assert (sae.W_dec[3] == 0).all()
    assert (sae.encode(x)[:, 3] == 0).all()
    assert torch.isfinite(sae(x)).all()


def test_a_bias_taken_from_scaled_inputs_is_folded_exactly(tmp_path):
    folder = copy_of("documented/llama_scope", tmp_path)
    plain, held = load_sae(folder), load_file(folder / "checkpoints" / "final.safetensors")
    edit_json(folder / "hyperparams.json", with_(apply_decoder_bias_to_pre_encoder=True))
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    # The bias of the decoder in units of the activations is what is taken away.
    bias = held["decoder.bias"] / (8**0.5 / 4.5)
    assert torch.allclose(load_sae(folder).encode(x), plain.encode(x - bias), atol=1e-5)


def test_a_topk_sae_of_llama_scope_runs_by_its_threshold_where_one_was_measured(tmp_path):
    folder = copy_of("documented/llama_scope", tmp_path)
    by_threshold = load_sae(folder)
    edit_json(folder / "hyperparams.json", with_(act_fn="topk"))
    assert torch.equal(load_sae(folder).threshold, by_threshold.threshold)
    edit_json(folder / "hyperparams.json", with_(jump_relu_threshold=0.0))
    assert (load_sae(folder).architecture, load_sae(folder).k) == ("topk", 4)


THEIRS = """
import sys, torch
from pathlib import Path
from dictionary_learning.utils import load_dictionary
x = torch.load(sys.argv[1] + "/x.pt")
for folder in Path(sys.argv[1]).glob("*/"):
    sae, config = load_dictionary(str(folder), device="cpu")
    if hasattr(sae, "normalize_decoder"):  # it rescales on loading; codes are compared as they are in the file
        sae.load_state_dict(torch.load(folder / "ae.pt"))
    codes = sae.encode(x)
    torch.save({"codes": codes.detach(), "x_hat": sae.decode(codes).detach()}, folder / "theirs.pt")
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_dictionary_learning_computes_the_same_features_from_what_is_written(tmp_path, dictionary_learning_python):
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(99))
    torch.save(x, tmp_path / "x.pt")
    saes = {f"{name}_{centred}": written(tmp_path / f"{name}_{centred}", name, centred) for name, centred in WAYS}
    subprocess.run([dictionary_learning_python, "-W", "ignore", "-c", THEIRS, str(tmp_path)], check=True)
    for name, sae in saes.items():
        theirs = torch.load(tmp_path / name / "theirs.pt")
        assert torch.allclose(theirs["codes"], sae.encode(x), atol=1e-5), name
        assert torch.allclose(theirs["x_hat"], sae(x), atol=1e-5), name
