"""The layouts of OpenMOSS: ``config.json`` beside ``sae_weights.safetensors`` (llamascopium, before that lm-saes), and
Llama Scope with ``hyperparams.json`` beside ``checkpoints/final.safetensors``.

Part of *formats*. They differ in more than names: in the first, activations are scaled to a norm of sqrt(d_model) and
thresholds are in those units; in the second they are in units of the activations and of unit decoder rows. Sources:
``models/sae.py`` of llamascopium, ``sae.py`` of lm-saes at the release of Llama Scope (He et al. 2024, 2410.20526).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_core.formats.checkpoint import Checkpoint
from sae_core.formats.files import read_json, read_safetensors, safetensors_header
from sae_core.formats.layouts import require_choice, require_integer, require_keys, require_shape

NAME = "openmoss"
LOOKS_FOR = (
    "config.json (d_model, act_fn) with sae_weights.safetensors (W_E, W_D), or hyperparams.json with "
    "checkpoints/final.safetensors (encoder.weight, decoder.weight)"
)
LAYOUTS = {
    "config.json": ("sae_weights.safetensors",),
    "hyperparams.json": ("checkpoints/final.safetensors", "checkpoints/pruned.safetensors"),
}
_SCALE = "dataset_average_activation_norm."
_THRESHOLDS = ("activation_function.log_jumprelu_threshold", "log_jumprelu_threshold")
_MATRICES = {"W_E": "W_enc", "b_E": "b_enc", "W_D": "W_dec", "b_D": "b_dec"}
_LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec", "decoder.bias": "b_dec"}
_FLAGS = ("apply_decoder_bias_to_pre_encoder", "sparsity_include_decoder_norm", "use_glu_encoder", "use_decoder_bias")
_GLU = {"W_E_glu", "b_E_glu", "encoder_glu.weight", "encoder_glu.bias"}


@dataclass(frozen=True)
class _Parts:
    """Weights in the canonical orientation, float32, as the file's own units have them."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor | None


def detects(path: Path) -> bool:
    """Whether a folder is in one of the layouts. Damaged weights count, so that reading says what is wrong."""
    found = _files(path)
    if found is None:
        return False
    try:
        config = read_json(found[0])
    except ValueError:
        return False
    if not {"d_model", "act_fn"} <= set(config) and "sae_type" not in config:
        return False
    try:
        held = set(safetensors_header(found[1]))
    except ValueError:
        return True
    return {"W_E", "W_D"} <= held or {"encoder.weight", "decoder.weight"} <= held or "sae_type" in config


def read(path: Path) -> Checkpoint:
    """The SAE in a folder.

    Fixed scales of the activations are folded into the weights, so that it reads raw ones. Feature activations are
    those that the package computes, except for TopK SAEs that choose by ``sparsity_include_decoder_norm``: theirs
    are multiplied by the norm of the decoder row, which is then one.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if keys, shapes or settings are not those of one SAE; naming them. Dictionaries over several
            layers (crosscoder, clt) or of other kinds (lorsa, molt) are refused.
    """
    found = _files(path)
    if found is None:
        layouts = ", or ".join(f"{config} with {files[0]}" for config, files in LAYOUTS.items())
        raise FileNotFoundError(f"{path} holds no OpenMOSS layout: {layouts}")
    config_path, weights = found
    config, old = read_json(config_path), config_path.name == "hyperparams.json"
    _check_type(str(config_path), config)
    d_in, d_sae = _sizes(str(config_path), config)
    stored = read_safetensors(weights)
    parts = _parts(str(weights), stored, config, d_in, d_sae)
    if old:
        for key in _FLAGS:  # its own defaults are others than those of later versions, so nothing is assumed
            require_choice(str(config_path), config, key, (True, False))
        parts = replace(parts, threshold=_one_threshold(str(config_path), config, d_sae))
    scales = _scales(str(config_path), config, stored)
    kind = _kind(str(config_path), config, old)
    reason = _not_runnable(config, kind, scales)
    canonical = parts if reason else (_release_of_llama_scope if old else _current)(parts, config, scales or (1.0, 1.0))
    gated = bool(config.get("use_glu_encoder"))
    return Checkpoint(
        architecture=None if reason else kind,
        W_dec=canonical.W_dec,
        W_enc=None if gated else canonical.W_enc,
        b_enc=None if gated else canonical.b_enc,
        b_dec=canonical.b_dec,
        settings={"k": require_integer(str(config_path), config, "top_k")} if kind == "topk" else {},
        tensors={"threshold": _given(str(weights), canonical.threshold)} if kind == "jumprelu" else {},
        subtract_b_dec=False,
        normalize="constant_norm_rescale" if _normalises_tokens(config) and not reason else "none",
        transcodes=_transcodes(config),
        declared={"d_in": d_in, "d_sae": d_sae},
        metadata=_metadata(config, reason),
    )


def _check_type(where: str, config: Mapping[str, Any]) -> None:
    if config.get("sae_type", "sae") != "sae":
        raise ValueError(
            f"{where}: sae_type = {config['sae_type']!r}; only an 'sae' is one dictionary of one place "
            "(crosscoders and cross-layer transcoders have a decoder a layer)"
        )


def _files(path: Path) -> tuple[Path, Path] | None:
    for config, files in LAYOUTS.items():
        for weights in files:
            if (path / config).is_file() and (path / weights).is_file():
                return path / config, path / weights
    return None


def _sizes(where: str, config: Mapping[str, Any]) -> tuple[int, int]:
    d_in = require_integer(where, config, "d_model")
    if config.get("d_sae") is not None:
        return d_in, require_integer(where, config, "d_sae")
    if not isinstance(config.get("expansion_factor"), int | float):
        raise ValueError(f"{where} has neither d_sae nor a number for expansion_factor: how many features are there?")
    return d_in, int(d_in * config["expansion_factor"])


def _parts(where: str, stored: Mapping[str, Tensor], config: Mapping[str, Any], d_in: int, d_sae: int) -> _Parts:
    """Weights by our names, checked against the configuration, which decides the orientation."""
    linear = "encoder.weight" in stored
    names = _LINEAR if linear else _MATRICES
    bias = "decoder.bias" if linear else "b_D"
    required = set(names) - (set() if config.get("use_decoder_bias", True) else {bias})
    learnt = next((key for key in _THRESHOLDS if key in stored), None)
    own = {key for key in stored if not key.startswith(_SCALE)} - (_GLU if config.get("use_glu_encoder") else set())
    require_keys(where, own, required, {learnt} if learnt else set())
    shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    parts = {"b_dec": torch.zeros(d_in)}
    meaning = f"sizes from the configuration: d_model = {d_in}, features = {d_sae}"
    for key in sorted(required):
        flip = linear and len(shapes[names[key]]) == 2
        shape = shapes[names[key]]
        require_shape(where, key, stored[key], shape[::-1] if flip else shape, meaning)
        parts[names[key]] = (stored[key].T if flip else stored[key]).float()
    threshold = None
    if learnt is not None:
        require_shape(where, learnt, stored[learnt], (d_sae,), meaning)
        threshold = stored[learnt].float().exp()
    return _Parts(**parts, threshold=threshold)


def _one_threshold(where: str, config: Mapping[str, Any], d_sae: int) -> Tensor | None:
    """The threshold of all features that Llama Scope keeps in its configuration; zero is none."""
    value = float(config.get("jump_relu_threshold") or 0.0)
    if not 0 <= value < float("inf"):
        raise ValueError(f"{where}: jump_relu_threshold = {value}, expected a number of at least 0")
    return torch.full((d_sae,), value) if value > 0 or config.get("act_fn") == "jumprelu" else None


def _scales(where: str, config: Mapping[str, Any], stored: Mapping[str, Tensor]) -> tuple[float, float] | None:
    """Factors on what is read and on what is written that give activations a norm of sqrt(d_model) on average.

    (1, 1) where there are none, None where they are needed and not known.
    """
    kinds = ("dataset-wise", "token-wise", "batch-wise", "inference", "none")
    if require_choice(where, config, "norm_activation", kinds) != "dataset-wise":
        return 1.0, 1.0
    told = config.get("dataset_average_activation_norm") or {}
    hooks = config.get("hook_point_in"), config.get("hook_point_out") or config.get("hook_point_in")
    norms = []
    for side, hook in zip(("in", "out"), hooks, strict=True):
        norm = told.get(side, stored.get(f"{_SCALE}{hook}"))
        if norm is None or not 0 < float(norm) < float("inf"):
            return None
        norms.append(float(norm))
    return math.sqrt(config["d_model"]) / norms[0], math.sqrt(config["d_model"]) / norms[1]


def _current(parts: _Parts, config: Mapping[str, Any], scales: tuple[float, float]) -> _Parts:
    """Everything is in units of scaled activations; the threshold is compared with code times decoder norm."""
    parts = _without_subtraction(parts, config)
    if config.get("sparsity_include_decoder_norm", True):
        norm = parts.W_dec.norm(dim=1)
        if config["act_fn"] == "topk":
            parts = _unit_decoder(parts)
        elif parts.threshold is not None:
            # A feature without a decoder never passes its threshold: no code is above the largest float.
            never = torch.full_like(norm, torch.finfo(torch.float32).max)
            parts = replace(parts, threshold=torch.where(norm > 0, parts.threshold / norm, never))
    read_scale, write_scale = scales
    return replace(
        parts, W_enc=parts.W_enc * read_scale, W_dec=parts.W_dec / write_scale, b_dec=parts.b_dec / write_scale
    )


def _release_of_llama_scope(parts: _Parts, config: Mapping[str, Any], scales: tuple[float, float]) -> _Parts:
    """What lm-saes does when it opens a file: to units of the activations, then to unit decoder rows; the threshold
    was measured after that."""
    read_scale, write_scale = scales
    parts = replace(
        parts,
        b_enc=parts.b_enc / read_scale,
        b_dec=parts.b_dec / write_scale,
        W_dec=parts.W_dec * (read_scale / write_scale),
    )
    if config.get("sparsity_include_decoder_norm", True):
        parts = _unit_decoder(parts)
    return _without_subtraction(parts, config)


def _unit_decoder(parts: _Parts) -> _Parts:
    norm = parts.W_dec.norm(dim=1)
    divisor = torch.where(norm > 0, norm, torch.ones_like(norm))
    return replace(parts, W_enc=parts.W_enc * norm, b_enc=parts.b_enc * norm, W_dec=parts.W_dec / divisor[:, None])


def _without_subtraction(parts: _Parts, config: Mapping[str, Any]) -> _Parts:
    """(x - b) W + c = x W + (c - b W)."""
    if not config.get("apply_decoder_bias_to_pre_encoder", False):
        return parts
    return replace(parts, b_enc=parts.b_enc - parts.b_dec @ parts.W_enc)


def _kind(where: str, config: Mapping[str, Any], old: bool) -> str:
    """Our name of the architecture, or ``batchtopk``."""
    kind = require_choice(where, config, "act_fn", ("relu", "topk", "jumprelu", "batchtopk"))
    if old and kind == "topk" and (config.get("jump_relu_threshold") or 0.0) > 0:
        return "jumprelu"  # lm-saes runs a TopK SAE so once its threshold was measured
    return "standard" if kind == "relu" else str(kind)


def _not_runnable(config: Mapping[str, Any], kind: str, scales: tuple[float, float] | None) -> str | None:
    if config.get("use_glu_encoder"):
        return "its encoder is a gated linear unit (use_glu_encoder)"
    if kind == "batchtopk":
        return "it chooses features over whole batches (batchtopk); convert it to jumprelu with its own package"
    if scales is None:
        return "it scales activations by their average norm over a dataset, and that norm was not saved with it"
    if config["norm_activation"] == "batch-wise":
        return "it scales activations by their average norm over a batch"
    if _normalises_tokens(config) and _transcodes(config):
        return "it is a transcoder whose output is in units of the norm of what it should predict"
    return None


def _normalises_tokens(config: Mapping[str, Any]) -> bool:
    return bool(config["norm_activation"] == "token-wise")


def _transcodes(config: Mapping[str, Any]) -> bool:
    return config.get("hook_point_out") not in (None, config.get("hook_point_in"))


def _given(where: str, threshold: Tensor | None) -> Tensor:
    if threshold is None:
        raise ValueError(f"{where} has none of {', '.join(_THRESHOLDS)}, which its act_fn jumprelu needs")
    return threshold


def _metadata(config: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
    names = {"hook_point_in": "hook_name", "hook_point_out": "hook_name_out"}
    found = {ours: config[theirs] for theirs, ours in names.items() if config.get(theirs)}
    return found | ({"not_runnable": reason} if reason else {})
