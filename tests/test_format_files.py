"""Files of arrays: read safely, and bare decoders of any kind."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sae_core.formats import load_dictionary, load_sae, save_sae
from sae_core.formats.files import (
    npz_header,
    read_json,
    read_npy,
    read_npz,
    read_pickle,
    read_safetensors,
    recording,
    safetensors_header,
)
from tests.tiny_saes import VARIANTS, random_sae

W = np.arange(15, dtype=np.float32).reshape(5, 3)


def write(path, arrays):
    """The arrays in a file of the kind that its suffix says; None as the only name means that the file is the array."""
    if path.suffix == ".npy":
        np.save(path, arrays[None])
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        save_file({name: torch.from_numpy(array.copy()) for name, array in arrays.items()}, path)
    else:
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        torch.save(tensors.get(None, tensors), path)
    return path


FILES = [("W.npy", None), ("W.npz", "W"), ("W.safetensors", "W"), ("W.pt", "W"), ("W.pt", None)]


@pytest.mark.parametrize(("name", "key"), FILES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_file_with_one_matrix_is_a_dictionary_whose_rows_are_features(tmp_path, name, key, dtype):
    found = load_dictionary(write(tmp_path / name, {key: W.astype(dtype)}))
    assert found.W_dec.dtype == np.float32
    assert np.array_equal(found.W_dec, W)
    assert (found.name, found.W_enc, found.architecture) == (name, None, None)
    assert found.source.format == "array"
    assert list(found.source.files) == [name]


@pytest.mark.parametrize(("name", "key"), FILES)
def test_an_array_whose_rows_are_inputs_is_turned_round_when_the_caller_says_so(tmp_path, name, key):
    found = load_dictionary(write(tmp_path / name, {key: W.T.copy()}), rows="inputs")
    assert np.array_equal(found.W_dec, W)


def test_fewer_features_than_dimensions_are_taken_as_they_are(tmp_path):
    assert load_dictionary(write(tmp_path / "W.npy", {None: W.T.copy()})).W_dec.shape == (3, 5)


@pytest.mark.parametrize("name", ["W.npz", "W.safetensors", "W.pt"])
def test_of_several_matrices_the_caller_names_one(tmp_path, name):
    path = write(tmp_path / name, {"left": W, "right": 2 * W, "bias": np.ones(3, np.float32)})
    assert np.array_equal(load_dictionary(path, key="right").W_dec, 2 * W)
    with pytest.raises(
        ValueError, match=r"its 2-D arrays are: left \(5, 3\), right \(5, 3\); say which one by its key"
    ):
        load_dictionary(path)
    with pytest.raises(ValueError, match=r"has no 2-D array 'bias'; its 2-D arrays are: left"):
        load_dictionary(path, key="bias")


def test_a_matrix_beside_vectors_needs_no_name(tmp_path):
    assert np.array_equal(load_dictionary(write(tmp_path / "W.npz", {"W": W, "b": W[0]})).W_dec, W)


def test_whole_numbers_are_numbers(tmp_path):
    assert np.array_equal(load_dictionary(write(tmp_path / "W.npy", {None: W.astype(np.int64)})).W_dec, W)


@pytest.mark.parametrize("dtype", [np.complex64, np.bool_])
def test_what_is_not_a_number_is_refused(tmp_path, dtype):
    with pytest.raises(ValueError, match="expected numbers in 2 dimensions"):
        load_dictionary(write(tmp_path / "W.npy", {None: np.ones((5, 3), dtype)}))


def test_a_decoder_that_its_name_calls_transposed_is_refused(tmp_path):
    path = write(tmp_path / "W.safetensors", {"decoder.weight": W.T.copy()})
    with pytest.raises(ValueError, match=r"decoder.weight is the weight of an nn.Linear.*read it with rows='inputs'"):
        load_dictionary(path, format="array")
    assert np.array_equal(load_dictionary(path, format="array", rows="inputs").W_dec, W)


@pytest.mark.parametrize(
    "config", [{"d_in": 3, "d_sae": 5}, {"d_in": 3}, {"dict_size": 5}, {"activation_dim": 3, "dict_size": 5}]
)
def test_a_decoder_that_the_configuration_beside_it_calls_transposed_is_refused(tmp_path, config):
    path = write(tmp_path / "W.npy", {None: W.T.copy()})
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"the decoder looks transposed: .*config.json says"):
        load_dictionary(path)
    assert np.array_equal(load_dictionary(path, rows="inputs").W_dec, W)
    with pytest.raises(ValueError, match=r"looks transposed.*read it with rows='features'"):
        load_dictionary(write(path, {None: W}), rows="inputs")


def test_rows_that_are_not_finite_are_named_and_zero_rows_allowed(tmp_path):
    broken = W.copy()
    broken[[1, 3]] = [[0, np.nan, 0], [np.inf, 0, 0]]
    with pytest.raises(ValueError, match=r"W_dec holds values that are not finite in row 1 \(2 such rows in all\)"):
        load_dictionary(write(tmp_path / "W.npy", {None: broken}))
    assert not load_dictionary(write(tmp_path / "W.npy", {None: 0 * W})).W_dec.any()


def test_a_dictionary_alone_cannot_be_run(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be run as an SAE: it holds a decoder alone. Its dictionary can be"):
        load_sae(write(tmp_path / "W.npy", {None: W}))


def test_a_key_or_orientation_for_a_format_that_says_them_itself_is_refused(tmp_path):
    save_sae(random_sae(VARIANTS[0]), tmp_path)
    for asked in ({"key": "W_enc"}, {"rows": "inputs"}):
        with pytest.raises(ValueError, match="is in the format saelens, which says itself where the decoder is"):
            load_dictionary(tmp_path, **asked)
    assert load_dictionary(tmp_path / "sae_weights.safetensors", key="W_dec").source.format == "array"


def test_an_array_is_mapped_not_read(tmp_path):
    path = write(tmp_path / "W.npy", {None: W})
    assert isinstance(read_npy(path), np.memmap)
    found = load_dictionary(path)
    found.W_dec[0] = -1  # the map is private: the file stays
    assert np.array_equal(np.load(path), W)


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_that_would_run_code_is_not_opened(tmp_path, new_format):
    proof = tmp_path / "proof"
    torch.save({"W": Harmful(str(proof))}, tmp_path / "W.pt", _use_new_zipfile_serialization=new_format)
    for load in (read_pickle, load_dictionary):
        with pytest.raises(ValueError, match=r"a pickle that would run code when it is opened \((posix|nt).mkdir\)"):
            load(tmp_path / "W.pt")
    assert not proof.exists()


def test_a_pickle_that_torch_did_not_write_is_not_opened(tmp_path):
    proof = tmp_path / "proof"
    (tmp_path / "W.pt").write_bytes(pickle.dumps(Harmful(str(proof)), protocol=2))
    with pytest.raises(ValueError, match="a pickle that would run code when it is opened"):
        read_pickle(tmp_path / "W.pt")
    (tmp_path / "W.pt").write_text("weights")
    with pytest.raises(ValueError, match="is not a (readable|file that torch.save wrote)"):
        read_pickle(tmp_path / "W.pt")
    assert not proof.exists()


def test_arrays_of_python_objects_are_not_opened(tmp_path):
    np.save(tmp_path / "W.npy", np.array([[{}]], dtype=object))
    np.savez(tmp_path / "W.npz", W=np.array([[{}]], dtype=object))
    with pytest.raises(ValueError, match="holds pickled Python objects, which would run code"):
        read_npy(tmp_path / "W.npy")
    with pytest.raises(ValueError, match="holds pickled Python objects, which would run code"):
        read_npz(tmp_path / "W.npz", ["W"])


def test_old_files_of_pytorch_are_read(tmp_path):
    torch.save({"W": torch.from_numpy(W)}, tmp_path / "W.pt", _use_new_zipfile_serialization=False)
    assert np.array_equal(load_dictionary(tmp_path / "W.pt").W_dec, W)


@pytest.mark.parametrize(("name", "key"), [("W.npy", None), ("W.npz", "W"), ("W.safetensors", "W"), ("W.pt", "W")])
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.9])
def test_a_file_that_was_cut_short_is_refused_by_name(tmp_path, name, key, share):
    path = write(tmp_path / name, {key: np.ones((100, 40), np.float32)})
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf"{name} is not a (readable|file that torch.save wrote).*fetch or train it"):
        load_dictionary(path)


def test_headers_tell_shapes_without_the_arrays(tmp_path):
    tensors = {"a": torch.zeros(3, 2, dtype=torch.bfloat16), "b": torch.zeros(4)}
    save_file(tensors, tmp_path / "x.safetensors")
    header = safetensors_header(tmp_path / "x.safetensors")
    assert {name: (info.shape, info.dtype) for name, info in header.items()} == {
        "a": ((3, 2), "BF16"),
        "b": ((4,), "F32"),
    }
    np.savez(tmp_path / "x.npz", a=np.zeros((3, 2)), b=np.zeros(4, np.float32))
    header = npz_header(tmp_path / "x.npz")
    assert {name: (info.shape, info.dtype) for name, info in header.items()} == {
        "a": ((3, 2), "float64"),
        "b": ((4,), "float32"),
    }


def test_only_the_members_asked_for_are_read(tmp_path):
    np.savez(tmp_path / "x.npz", good=W, bad=np.array([{}], dtype=object))
    assert list(read_npz(tmp_path / "x.npz", ["good"])) == ["good"]
    save_file({"a": torch.zeros(2), "b": torch.ones(2)}, tmp_path / "x.safetensors")
    assert read_safetensors(tmp_path / "x.safetensors", ["b"])["b"].tolist() == [1, 1]
    for read, name in ((read_npz, "x.npz"), (read_safetensors, "x.safetensors")):
        with pytest.raises(ValueError, match=rf"{name} has no W; it holds"):
            read(tmp_path / name, ["W"])


def test_json_must_be_an_object(tmp_path):
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds a JSON list, expected an object"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not JSON"):
        read_json(tmp_path / "x.json")


def test_files_are_recorded_inside_the_block_only(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("{}")
    with recording() as used:
        read_json(tmp_path / "a")
    read_json(tmp_path / "b")
    assert used == {tmp_path / "a"}


def test_a_missing_file_is_missing(tmp_path):
    for read in (read_npy, read_npz, read_pickle, read_safetensors, read_json):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none")
