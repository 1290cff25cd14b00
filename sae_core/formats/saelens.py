"""The SAELens v6 layout: ``cfg.json`` beside ``sae_weights.safetensors``; the layout our own SAEs are stored in.

What the config can say and we hold otherwise is folded into the weights when it is exact; the rest is refused.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_core.architectures import ARCHITECTURES, Sae, create

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

_COMMON_KEYS = {
    "architecture", "d_in", "d_sae", "dtype", "device", "apply_b_dec_to_input", "normalize_activations",
    "reshape_activations", "metadata",
}  # fmt: skip
_KEYS = {
    "topk": {"k", "rescale_acts_by_decoder_norm"},
    "standard": set[str](),
}
"""Keys that an architecture has besides the common ones."""


def detects(path: Path) -> bool:
    """Whether a folder is in this layout."""
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def save_sae(sae: Sae, folder: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write an SAE so that SAELens 6 loads it (``SAE.load_from_disk``).

    Args:
        sae: one that works on raw activations (any scale folded in, see ``Sae.fold_scale``).
        folder: made if needed; an SAE in it is replaced, file by file and each atomically.
        metadata: JSON values to keep beside it: ``model_name``, ``hook_name``, ``activation_scale``, ...
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in sae.state_dict().items()}
    config: dict[str, Any] = {
        "architecture": sae.architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": str(sae.W_dec.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": dict(metadata or {}),
    }
    config |= {name: getattr(sae, name) for name in sae.encode_settings}
    if "rescale_acts_by_decoder_norm" in _KEYS[sae.architecture]:
        config["rescale_acts_by_decoder_norm"] = False
    _replace(folder / WEIGHTS, lambda part: save_file(weights, part))
    _replace(folder / CONFIG, lambda part: part.write_text(json.dumps(config, indent=1, sort_keys=True)))


def load(path: Path) -> Sae:
    """The SAE in a folder of this layout, float32, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a key is unknown, missing, or says something that cannot be kept exactly.
    """
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise FileNotFoundError(f"{path} has no {name}: the SAELens layout is {CONFIG} beside {WEIGHTS}")
    config = _read_config(path)
    try:
        weights = {name: tensor.float() for name, tensor in load_file(path / WEIGHTS).items()}
    except SafetensorError as error:
        raise ValueError(
            f"{path / WEIGHTS} is not a readable safetensors file ({error}); fetch or train it again"
        ) from error
    kind = ARCHITECTURES[config["architecture"]]
    try:
        settings = {name: config[name] for name in kind.encode_settings}
        sae = create(config["architecture"], config["d_in"], config["d_sae"], **settings)
    except KeyError as error:
        raise ValueError(
            f"{path / CONFIG} has no key {error}, which the architecture {kind.architecture} needs"
        ) from None
    _check_weights(path, weights, {name: tuple(tensor.shape) for name, tensor in sae.state_dict().items()})
    sae.load_state_dict(_fold(weights, config))
    return sae.requires_grad_(False).eval()


def _read_config(path: Path) -> dict[str, Any]:
    where = path / CONFIG
    try:
        config = json.loads(where.read_text())
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error}); fetch or train the SAE again") from error
    for key in ("architecture", "d_in", "d_sae"):
        if key not in config:
            raise ValueError(f"{where} has no key {key!r}: SAELens 6 writes it (older versions use other keys)")
    architecture = config["architecture"]
    if architecture not in _KEYS:
        raise ValueError(
            f"{where}: architecture {architecture!r} cannot be read; readable are {', '.join(sorted(_KEYS))}"
        )
    unknown = sorted(set(config) - _COMMON_KEYS - _KEYS[architecture])
    if unknown:
        raise ValueError(
            f"{where}: unknown keys {', '.join(unknown)}; they may change what the SAE computes, so it is not loaded "
            "(a newer version of SAELens wrote it?)"
        )
    for key in ("normalize_activations", "reshape_activations"):
        if config.get(key, "none") != "none":
            raise ValueError(
                f"{where}: {key} = {config[key]!r} cannot be kept exactly; fold it into the weights before"
            )
    return dict(config)


def _check_weights(path: Path, weights: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    where = path / WEIGHTS
    if set(weights) != set(expected):
        raise ValueError(f"{where} holds {', '.join(sorted(weights))}; expected are {', '.join(sorted(expected))}")
    for name, shape in expected.items():
        found = tuple(weights[name].shape)
        if found != shape:
            raise ValueError(f"{where}: {name} has shape {found}, expected {shape} from d_in and d_sae in {CONFIG}")
        if not torch.isfinite(weights[name]).all():
            raise ValueError(f"{where}: {name} holds values that are not finite; the SAE cannot be used")


def _fold(weights: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The same SAE with ``b_dec`` taken from the input and decoder norms not looked at."""
    if not config.get("apply_b_dec_to_input", True):
        # x W + b = (x - b_dec) W + (b + b_dec W)
        weights["b_enc"] = weights["b_enc"] + weights["b_dec"] @ weights["W_enc"]
    if config.get("rescale_acts_by_decoder_norm", False):
        # Pre-activations times the row's norm before the choice, codes divided by it before decoding.
        norm = weights["W_dec"].norm(dim=1)
        weights["W_enc"], weights["b_enc"] = weights["W_enc"] * norm, weights["b_enc"] * norm
        weights["W_dec"] = weights["W_dec"] / norm[:, None]
    return weights


def _replace(path: Path, write: Any) -> None:
    part = path.with_name(path.name + ".part")
    write(part)
    os.replace(part, path)
