"""A decoder alone: one 2-D array in a ``.npy``, ``.npz``, ``.safetensors`` or ``.pt`` file, rows are features.

Part of *formats*; what a file is when no other format knows it.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sae_core.formats.checkpoint import Checkpoint
from sae_core.formats.files import (
    npz_header,
    read_json,
    read_npy,
    read_npz,
    read_pickle,
    read_safetensors,
    safetensors_header,
)

NAME = "array"
LOOKS_FOR = "a file .npy, .npz, .safetensors or .pt with a 2-D array (rows are features)"
SUFFIXES = (".npy", ".npz", ".safetensors", ".pt", ".pth")

Orientation = Literal["features", "inputs"]
"""What the rows of an array are: features (d_sae, d_in), or the dimensions of the activations (d_in, d_sae)."""

_D_IN, _D_SAE = ("d_in", "activation_dim", "act_size", "d_model"), ("d_sae", "dict_size", "num_latents")
_LINEAR = "decoder.weight"
"""Name that ``nn.Linear`` gives a decoder, which it keeps with features as columns."""


def detects(path: Path) -> bool:
    """Whether a path is a file of arrays; a folder never is, since any array in it could be meant.

    Raises:
        ValueError: if the file is damaged.
    """
    return path.is_file() and path.suffix in SUFFIXES and bool(_matrices(path))


def read(path: Path, key: str | None = None, rows: Orientation = "features") -> Checkpoint:
    """The decoder in a file.

    Args:
        key: which array; None takes the only 2-D one.
        rows: what its rows are.

    Raises:
        ValueError: if there is no such array or several, or if its name or a configuration beside it says that its
            rows are something else.
    """
    if path.suffix not in SUFFIXES or not path.is_file():
        raise ValueError(f"{path} is no file of arrays: expected one of {', '.join(SUFFIXES)}")
    key = _chosen(path, _matrices(path), key)
    W = _array(path, key)
    if W.dim() != 2 or W.is_complex() or W.dtype == torch.bool:
        raise ValueError(
            f"{path}: {key or 'the array'} has shape {tuple(W.shape)} and type {W.dtype}, expected numbers in 2 "
            "dimensions, (d_sae, d_in)"
        )
    if rows == "inputs":
        W = W.T
    _check_orientation(path, key, W, rows)
    return Checkpoint(architecture=None, W_dec=W if W.is_floating_point() else W.float(), metadata={"key": key})


def _matrices(path: Path) -> dict[str | None, tuple[int, ...]]:
    """Shapes of the 2-D arrays in a file by name; the name is None where the file is one array."""
    if path.suffix == ".npy":
        shapes: dict[str | None, tuple[int, ...]] = {None: tuple(read_npy(path).shape)}
    elif path.suffix == ".npz":
        shapes = {name: info.shape for name, info in npz_header(path).items()}
    elif path.suffix == ".safetensors":
        shapes = {name: info.shape for name, info in safetensors_header(path).items()}
    else:
        shapes = {name: tuple(tensor.shape) for name, tensor in _pickled(path).items()}
    return {name: shape for name, shape in shapes.items() if len(shape) == 2}


def _pickled(path: Path) -> dict[str | None, Tensor]:
    content: Any = read_pickle(path)
    if isinstance(content, Tensor):
        return {None: content.detach()}
    named = content.items() if isinstance(content, dict) else ()
    return {str(name): value.detach() for name, value in named if isinstance(value, Tensor)}


def _chosen(path: Path, matrices: dict[str | None, tuple[int, ...]], key: str | None) -> str | None:
    shown = ", ".join(f"{name or 'one array'} {shape}" for name, shape in matrices.items()) or "none"
    if key is not None:
        if key not in matrices:
            raise ValueError(f"{path} has no 2-D array {key!r}; its 2-D arrays are: {shown}")
        return key
    if len(matrices) != 1:
        raise ValueError(
            f"{path} must hold one 2-D array, the decoder; its 2-D arrays are: {shown}; say which one by its key"
        )
    return next(iter(matrices))


def _array(path: Path, key: str | None) -> Tensor:
    if key is None:
        return torch.from_numpy(read_npy(path)) if path.suffix == ".npy" else _pickled(path)[None]
    if path.suffix == ".npz":
        return read_npz(path, [key])[key]
    return read_safetensors(path, [key])[key] if path.suffix == ".safetensors" else _pickled(path)[key]


def _check_orientation(path: Path, key: str | None, W: Tensor, rows: Orientation) -> None:
    """Refuse a decoder that its name or a configuration beside it calls transposed."""
    other = "inputs" if rows == "features" else "features"
    remedy = f"read it with rows={other!r} (--rows {other})"
    if key is not None and key.endswith(_LINEAR) and rows == "features":
        raise ValueError(
            f"{path}: {key} is the weight of an nn.Linear, whose columns are features, so it looks transposed; {remedy}"
        )
    for name in ("cfg.json", "config.json"):
        beside = path.parent / name
        if not beside.is_file():
            continue
        config = read_json(beside)
        d_in = next((config[name] for name in _D_IN if name in config), None)
        d_sae = next((config[name] for name in _D_SAE if name in config), None)
        told = [size for size in (d_sae, d_in) if size is not None]
        if told and d_sae in (None, W.shape[1]) and d_in in (None, W.shape[0]) and W.shape[0] != W.shape[1]:
            raise ValueError(
                f"{path}: the decoder looks transposed: {beside} says d_in = {d_in}, d_sae = {d_sae}, and with rows as "
                f"{rows} it would have d_sae = {W.shape[0]}, d_in = {W.shape[1]}; {remedy}"
            )
