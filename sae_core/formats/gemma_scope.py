"""The two layouts of Gemma Scope: ``params.npz`` (Gemma 2), and ``params.safetensors`` with ``config.json`` (Gemma 3).

Part of *formats*. JumpReLU SAEs and transcoders that do not take ``b_dec`` from their input. Sources: Lieberum et al.
2024 (Gemma Scope, arXiv 2408.05147) and the published files; Gemma Scope 2 writes the same arrays in lower case.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_core.formats.checkpoint import Checkpoint
from sae_core.formats.files import npz_header, read_json, read_npz, read_safetensors, safetensors_header
from sae_core.formats.layouts import require_choice, require_keys, require_shape

NAME = "gemma_scope"
LOOKS_FOR = "params.npz (W_enc, W_dec, b_enc, b_dec, threshold) or params.safetensors (w_enc, ...) with config.json"
FILES = ("params.npz", "params.safetensors")
CONFIG, SKIP, SCALE = "config.json", "affine_skip_connection", "scaling_factor"

_KEYS = {"w_enc", "w_dec", "b_enc", "b_dec", "threshold"}


def detects(path: Path) -> bool:
    """Whether a file, or a folder with ``params.npz`` or ``params.safetensors``, is in one of the layouts."""
    file = _file(path)
    if file is None:
        return False
    try:
        return {"w_enc", "w_dec", "threshold"} <= set(_names(file))
    except ValueError:
        return file.name in FILES  # the name says what it should be, and reading it says what is wrong


def read(path: Path) -> Checkpoint:
    """The SAE in a folder or file; single members of the file are read, never all of it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if keys, shapes or the configuration are not those of one SAE; naming them. Crosscoders and
            cross-layer transcoders are refused: they have several decoders.
    """
    file = _file(path)
    if file is None:
        raise FileNotFoundError(f"{path} has no {' and no '.join(FILES)}: the Gemma Scope layouts")
    where, names = str(file), _names(file)
    require_keys(where, names, _KEYS, {SKIP, SCALE})
    config = read_json(file.parent / CONFIG) if (file.parent / CONFIG).is_file() and file.suffix != ".npz" else {}
    _check_config(where, config, SKIP in names)
    read_members = read_npz if file.suffix == ".npz" else read_safetensors
    stored = read_members(file, sorted(names.values()))
    tensors = {name: stored[key] for name, key in names.items()}
    transcodes = _transcodes(config, SKIP in names)
    d_in, d_sae, d_out = _check_shapes(where, names, tensors, transcodes)
    if "width" in config and config["width"] != d_sae:
        raise ValueError(f"{where} holds {d_sae} features, but its {CONFIG} says width = {config['width']}")
    reason = _not_runnable(tensors)
    return Checkpoint(
        architecture=None if reason else "jumprelu",
        W_dec=tensors["w_dec"],
        W_enc=tensors["w_enc"],
        b_enc=tensors["b_enc"],
        b_dec=tensors["b_dec"],
        tensors={"threshold": tensors["threshold"]} | ({"W_skip": tensors[SKIP]} if SKIP in names else {}),
        subtract_b_dec=False,
        transcodes=transcodes,
        declared={"d_in": d_in, "d_sae": d_sae, "d_out": d_out},
        metadata=_metadata(config, reason),
    )


def _file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix in (".npz", ".safetensors") else None
    return next((path / name for name in FILES if (path / name).is_file()), None)


def _names(file: Path) -> dict[str, str]:
    """Keys of the file by their lower-case names; Gemma Scope 2 writes no other, the first one mixed case."""
    held = npz_header(file) if file.suffix == ".npz" else safetensors_header(file)
    return {key.lower() if file.suffix == ".npz" else key: key for key in held}


def _check_config(where: str, config: Mapping[str, Any], skips: bool) -> None:
    if not config:
        return
    require_choice(f"{where}: {CONFIG}", config, "architecture", ("jump_relu",))
    if config.get("type") in ("crosscoder", "clt"):
        raise ValueError(f"{where} is a {config['type']} over several layers; it cannot be read as one dictionary")
    if bool(config.get("affine_connection", skips)) != skips:
        raise ValueError(
            f"{where}: {CONFIG} says affine_connection = {config['affine_connection']}, but the file "
            f"{'holds' if skips else 'lacks'} {SKIP}"
        )


def _transcodes(config: Mapping[str, Any], skips: bool) -> bool:
    read_at = config.get("hf_hook_point_in")
    return skips or config.get("type") == "transcoder" or config.get("hf_hook_point_out", read_at) != read_at


def _check_shapes(
    where: str, names: Mapping[str, str], tensors: Mapping[str, Tensor], transcodes: bool
) -> tuple[int, int, int]:
    """d_in, d_sae, d_out; the biases tell the two sides apart."""
    if tensors["w_enc"].dim() != 2 or tensors["w_dec"].dim() != 2:
        raise ValueError(
            f"{where}: the weights have shapes {tuple(tensors['w_enc'].shape)} and {tuple(tensors['w_dec'].shape)}, "
            "expected matrices; crosscoders and cross-layer transcoders cannot be read as one dictionary"
        )
    d_sae, d_out = tensors["threshold"].numel(), tensors["b_dec"].numel()
    d_in = tensors["w_enc"].shape[0] if transcodes else d_out
    meaning = "sizes from the lengths of threshold and b_dec"
    shapes = {"w_enc": (d_in, d_sae), "w_dec": (d_sae, d_out), "b_enc": (d_sae,), "b_dec": (d_out,)}
    shapes |= {"threshold": (d_sae,), SKIP: (d_in, d_out)}
    for name, shape in shapes.items():
        if name in tensors:
            require_shape(where, names[name], tensors[name], shape, meaning)
    return d_in, d_sae, d_out


def _not_runnable(tensors: Mapping[str, Tensor]) -> str | None:
    if SCALE in tensors and not torch.all(tensors[SCALE] == 1):
        return f"its codes are rescaled by {SCALE}"
    return None


def _metadata(config: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
    names = {"model_name": "model_name", "hf_hook_point_in": "hook_name", "hf_hook_point_out": "hook_name_out"}
    found = {ours: config[theirs] for theirs, ours in names.items() if theirs in config}
    # Every SAE of Gemma Scope was trained on texts that start with the token <bos>.
    return found | {"prepend_bos": True} | ({"not_runnable": reason} if reason else {})
