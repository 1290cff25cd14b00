"""Files of other packages that are damaged, dangerous, contradictory or of another kind: refused, and the message says
what was expected."""

import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch

from sae_core.formats import load_dictionary, load_sae, resolve
from tests.peer_files import copy_of, edit_json, edit_tensors, transpose, with_, without


@pytest.fixture
def copied(tmp_path):
    """A copy of a checkpoint to damage."""
    return lambda name: copy_of(name, tmp_path)


WEIGHTS = {
    "dictionary_learning/AutoEncoder": ("ae.pt", "config.json"),
    "dictionary_learning/MatryoshkaBatchTopKSAE": ("ae.pt", "config.json"),
    "dictionary_learning/AutoEncoderTopK": ("ae.pt", "config.json"),
    "dictionary_learning/BatchTopKSAE": ("ae.pt", "config.json"),
    "sparsify/layers.1": ("sae.safetensors", "cfg.json"),
    "sparsify/layers.4.mlp": ("sae.safetensors", "cfg.json"),
    "documented/gemma_scope_2": ("params.safetensors", "config.json"),
    "documented/gemma_scope_2_transcoder": ("params.safetensors", "config.json"),
    "documented/llama_scope": ("checkpoints/final.safetensors", "hyperparams.json"),
    "openmoss/jumprelu": ("sae_weights.safetensors", "config.json"),
}


@pytest.mark.parametrize(
    ("name", "key", "shapes"),
    [
        ("dictionary_learning/AutoEncoder", "decoder.weight", r"\(24, 8\), expected \(8, 24\)"),
        ("dictionary_learning/AutoEncoder", "encoder.weight", r"\(8, 24\), expected \(24, 8\)"),
        ("dictionary_learning/MatryoshkaBatchTopKSAE", "W_dec", r"\(8, 24\), expected \(24, 8\)"),
        ("sparsify/layers.1", "W_dec", r"\(8, 24\), expected \(24, 8\)"),
        ("documented/gemma_scope_2", "w_dec", r"\(8, 24\), expected \(24, 8\)"),
        ("documented/gemma_scope_2", "w_enc", r"\(24, 8\), expected \(8, 24\)"),
        ("documented/llama_scope", "decoder.weight", r"\(24, 8\), expected \(8, 24\)"),
        ("openmoss/jumprelu", "W_D", r"\(8, 24\), expected \(24, 8\)"),
    ],
)
def test_transposed_weights_are_refused_by_name(copied, name, key, shapes):
    folder = copied(name)
    edit_tensors(folder / WEIGHTS[name][0], transpose(key))
    with pytest.raises(ValueError, match=f"{key} is transposed: it has shape {shapes}"):
        load_dictionary(folder)


@pytest.mark.parametrize("key", ["encoder.weight", "decoder.weight"])
def test_without_a_configuration_the_biases_tell_what_is_transposed(copied, key):
    folder = copied("dictionary_learning/AutoEncoder")
    (folder / "config.json").unlink()
    assert load_dictionary(folder).architecture == "standard"
    edit_tensors(folder / "ae.pt", transpose(key))
    with pytest.raises(ValueError, match=f"{key} is transposed.*the lengths of the biases"):
        load_dictionary(folder)


def test_both_weights_transposed_contradict_the_configuration_too(copied):
    folder = copied("dictionary_learning/AutoEncoder")
    edit_tensors(folder / "ae.pt", lambda t: (transpose("encoder.weight")(t), transpose("decoder.weight")(t)))
    with pytest.raises(
        ValueError, match=r"encoder\.weight is transposed.*activation_dim and dict_size in config\.json"
    ):
        load_dictionary(folder)


def test_square_weights_lie_as_the_class_in_the_configuration_keeps_them(copied):
    linear, plain = copied("dictionary_learning/AutoEncoder"), copied("dictionary_learning/JumpReluAutoEncoder")
    W = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    same = {"activation_dim": 8, "dict_size": 8}
    for folder in (linear, plain):
        edit_json(folder / "config.json", lambda config: config["trainer"].update(same))
    torch.save(
        {"encoder.weight": W.T, "decoder.weight": W, "encoder.bias": torch.zeros(8), "bias": torch.zeros(8)},
        linear / "ae.pt",
    )
    zeros = {name: torch.zeros(8) for name in ("b_enc", "b_dec", "threshold")}
    torch.save({"W_enc": W, "W_dec": W, **zeros}, plain / "ae.pt")
    np.testing.assert_array_equal(load_dictionary(linear).W_dec, W.T)
    np.testing.assert_array_equal(load_dictionary(plain).W_dec, W)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dictionary_learning/AutoEncoder", without("bias"), r"has no bias; expected are bias, decoder\.weight, enc"),
        ("dictionary_learning/AutoEncoder", with_(gate=torch.zeros(1)), "unknown keys gate; they may change what"),
        (
            "dictionary_learning/AutoEncoder",
            with_(bias=torch.zeros(9)),
            r"bias has shape \(9,\), expected \(8,\) = d_in",
        ),
        ("dictionary_learning/AutoEncoderTopK", with_(k=torch.tensor(5)), "holds k = 5, but its config.json says 4"),
        ("sparsify/layers.1", without("encoder.bias"), r"has no encoder\.bias; expected are W_dec, b_dec, encoder"),
        ("sparsify/layers.1", with_(W_skip=torch.zeros(8, 8)), "unknown keys W_skip"),
        ("sparsify/layers.4.mlp", without("W_skip"), "has no W_skip"),
        ("documented/gemma_scope_2", without("b_enc"), "has no b_enc"),
        ("documented/gemma_scope_2", with_(w_dec=torch.zeros(24, 3, 8)), "crosscoders and cross-layer transcoders"),
        ("documented/gemma_scope_2", with_(gain=torch.zeros(1)), "unknown keys gain"),
        ("openmoss/jumprelu", without("b_E"), "has no b_E; expected are W_D, W_E, b_D, b_E"),
        ("openmoss/jumprelu", without("activation_function.log_jumprelu_threshold"), "has none of activation_function"),
    ],
)
def test_weights_that_are_not_those_of_the_class_are_refused(copied, name, change, message):
    folder = copied(name)
    edit_tensors(folder / WEIGHTS[name][0], change)
    with pytest.raises(ValueError, match=message):
        load_sae(folder)


def in_trainer(**entries):
    return lambda config: config["trainer"].update(entries)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "dictionary_learning/AutoEncoder",
            in_trainer(dict_class="Absolute"),
            "unknown dict_class 'Absolute' in config",
        ),
        ("dictionary_learning/AutoEncoder", in_trainer(dict_class="CrossCoder"), "reads and writes several layers"),
        ("dictionary_learning/AutoEncoder", in_trainer(dict_class="IdentityDict"), "it has no features"),
        ("dictionary_learning/AutoEncoder", in_trainer(dict_size=2.5), "dict_size = 2.5, expected a whole number"),
        ("sparsify/layers.1", with_(num_latents=16), r"has shape .*expected .*features = 16"),
        ("sparsify/layers.1", without("k"), "has no key 'k'"),
        ("sparsify/layers.1", without("expansion_factor"), "has no key 'expansion_factor'"),
        ("sparsify/layers.1", with_(signed=True), r"codes may be negative \(signed\)"),
        ("sparsify/layers.4.mlp", with_(transcode=False), "a skip connection although it writes where it reads"),
        ("documented/gemma_scope_2", with_(architecture="topk"), "architecture = 'topk'; known are 'jump_relu'"),
        ("documented/gemma_scope_2", with_(type="crosscoder"), "is a crosscoder over several layers"),
        ("documented/gemma_scope_2", with_(affine_connection=True), "affine_connection = True, but the file lacks"),
        ("documented/gemma_scope_2", with_(width=16), "holds 24 features, but its config.json says width = 16"),
        ("openmoss/jumprelu", with_(sae_type="clt"), "sae_type = 'clt'; only an 'sae' is one dictionary"),
        ("openmoss/jumprelu", with_(norm_activation="batch-wise"), "average norm over a batch"),
        ("openmoss/jumprelu", with_(hook_point_in="blocks.9.x"), "that norm was not saved with it"),
        ("openmoss/jumprelu", with_(act_fn="softmax"), "act_fn = 'softmax'; known are 'relu', 'topk'"),
        ("documented/llama_scope", with_(jump_relu_threshold=-1.0), "jump_relu_threshold = -1.0, expected a number"),
        (
            "documented/llama_scope",
            without("sparsity_include_decoder_norm"),
            "has no key 'sparsity_include_decoder_norm'",
        ),
        ("documented/llama_scope", without("norm_activation"), "has no key 'norm_activation'"),
    ],
)
def test_configurations_that_cannot_be_honoured_are_refused(copied, name, change, message):
    folder = copied(name)
    edit_json(folder / WEIGHTS[name][1], change)
    with pytest.raises(ValueError, match=message):
        load_sae(folder)


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_truncated_files_are_refused(copied, name):
    folder = copied(name)
    path = folder / WEIGHTS[name][0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{path.name} is not a readable .* file .*fetch or train it again"):
        load_sae(folder)


def test_a_truncated_npz_is_refused(copied):
    folder = copied("documented/gemma_scope_1")
    (folder / "params.npz").write_bytes((folder / "params.npz").read_bytes()[:1500])
    with pytest.raises(ValueError, match=r"params\.npz is not a readable \.npz file"):
        load_sae(folder)


class Bomb:
    """A pickle that leaves a file where it was opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("with_config", [True, False])
def test_a_pickle_that_would_run_code_is_not_opened(copied, tmp_path, with_config):
    folder, trace = copied("dictionary_learning/AutoEncoder"), tmp_path / "ran"
    torch.save({"encoder.weight": torch.zeros(24, 8), "bomb": Bomb(trace)}, folder / "ae.pt")
    if not with_config:
        (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"ae\.pt is a pickle that would run code .* save the state dict alone"):
        load_sae(folder)
    (folder / "ae.pt").write_bytes(pickle.dumps(Bomb(trace), protocol=2))
    with pytest.raises(ValueError, match=r"ae\.pt is"):
        load_sae(folder)
    assert not trace.exists()


def test_python_objects_in_an_npz_are_not_opened(copied, tmp_path):
    folder, trace = copied("documented/gemma_scope_1"), tmp_path / "ran"
    held = dict(np.load(folder / "params.npz"))
    np.savez(folder / "params.npz", **held | {"threshold": np.array([Bomb(trace)] * 24, dtype=object)})
    with pytest.raises(ValueError, match=r"params\.npz"):
        load_sae(folder)
    assert not trace.exists()


def test_a_folder_of_checkpoints_asks_for_one_of_them(copied):
    folder = copied("dictionary_learning/AutoEncoderTopK")
    assert load_sae(folder / "checkpoints" / "ae_1.pt").k == 4
    shutil.copy(folder / "checkpoints" / "ae_1.pt", folder / "checkpoints" / "ae_2.pt")
    with pytest.raises(ValueError, match=r"holds 2 checkpoints .*name one of them: ae_1\.pt, ae_2\.pt"):
        load_sae(folder / "checkpoints")
    assert resolve(folder).files.keys() == {"ae.pt", "config.json"}  # the final one is the SAE of the folder


def test_topk_and_batchtopk_are_told_apart_by_the_configuration_alone(copied):
    folder = copied("dictionary_learning/BatchTopKSAE")
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"fit AutoEncoderTopK and BatchTopKSAE, and only the missing config\.json"):
        load_sae(folder)
    assert load_dictionary(folder).W_dec.shape == (24, 8)


def test_a_hookpoint_with_several_seeds_asks_for_one(copied):
    seed = copied("sparsify/layers.2")
    shutil.copytree(seed / "seed1", seed / "seed2")
    with pytest.raises(ValueError, match=r"holds several seeds \(seed1, seed2\), each an SAE of its own; name one"):
        load_sae(seed)


def test_a_rescaled_gemma_scope_sae_has_a_dictionary_and_does_not_run(copied):
    folder = copied("documented/gemma_scope_1")
    held = dict(np.load(folder / "params.npz"))
    np.savez(folder / "params.npz", **held, scaling_factor=np.full(24, 2.0, np.float32))
    with pytest.raises(ValueError, match="its codes are rescaled by scaling_factor"):
        load_sae(folder)
    np.savez(folder / "params.npz", **held, scaling_factor=np.ones(24, np.float32))
    assert load_sae(folder).architecture == "jumprelu"


def test_single_members_of_an_npz_are_read_and_a_stranger_is_refused_by_its_name(copied):
    folder = copied("documented/gemma_scope_1")
    with zipfile.ZipFile(folder / "params.npz", "a") as archive:
        archive.writestr("W_other.npy", np.lib.format.magic(1, 0) + b"not an array")
    with pytest.raises(ValueError, match="params.npz"):
        load_sae(folder)
