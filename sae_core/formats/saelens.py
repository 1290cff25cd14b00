"""The SAELens layout: ``cfg.json`` beside ``sae_weights.safetensors``; the layout our own SAEs are stored in.

What the configuration says and we hold otherwise is folded into the weights when it is exact; what cannot be run is
read as a dictionary, with the reason.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sae_core.architectures import Sae
from sae_core.formats.checkpoint import Checkpoint
from sae_core.formats.files import read_json, read_safetensors, safetensors_header
from sae_core.formats.layouts import require_keys, require_shape
from sae_core.formats.saelens_config import KINDS, NORMALIZED_BEFORE, Settings, settings_of
from sae_core.formats.saelens_folds import (
    SCALER,
    Weights,
    input_scale,
    with_finetuning,
    with_input_scale,
    with_unit_rows,
    with_whitening,
)
from sae_core.whole_files import write_whole

NAME = "saelens"
CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
LOOKS_FOR = f"{CONFIG} beside {WEIGHTS} with W_dec (d_sae, d_in)"
LAYOUT_VERSION = "6.0.0"
"""First version of SAELens whose layout is written: without it SAELens drops the metadata."""


def detects(path: Path) -> bool:
    """Whether a folder, or a weights file in one, is in this layout.

    Raises:
        ValueError: if the weights are damaged.
    """
    folder = _folder(path)
    if not ((folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()):
        return False
    return "W_dec" in safetensors_header(folder / WEIGHTS)


def read(path: Path) -> Checkpoint:
    """What a folder in this layout says, of version 6 or before.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a key is missing, unknown, or says what cannot be.
    """
    folder = _folder(path)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}: the SAELens layout is {CONFIG} beside {WEIGHTS}")
    settings = settings_of(read_json(folder / CONFIG), folder / CONFIG)
    weights = {name: tensor.float() for name, tensor in read_safetensors(folder / WEIGHTS).items()}
    reason = settings.not_runnable
    if "topk_threshold" in settings.kind.tensors:
        weights, no_threshold = _with_threshold(weights, settings)
        reason = reason or no_threshold
    if "log_threshold" in weights:
        weights["threshold"] = weights.pop("log_threshold").exp()
    weights = with_finetuning(weights, settings.finetuned, folder / WEIGHTS)
    tensors = settings.kind.tensors - {"topk_threshold"}
    optional = {"threshold"} if settings.kind.architecture == "jumprelu" else set()
    require_keys(str(folder / WEIGHTS), weights, tensors, optional)
    for name, tensor in weights.items():
        require_shape(str(folder / WEIGHTS), name, tensor, *_shape(name, settings))
    weights, not_folded = _folded(weights, settings, folder)
    return _checkpoint(weights, settings, reason or not_folded)


def write(sae: Sae, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write an SAE so that SAELens 6 loads it (``SAE.load_from_disk``), file by file and each atomically.

    Raises:
        ValueError: if SAELens has no such SAE.
    """
    conventions = sae.conventions
    prefix = f"{'jumprelu_' if sae.architecture == 'jumprelu' else ''}{'skip_' if conventions.has_skip else ''}"
    architecture = f"{prefix}transcoder" if sae.is_transcoder else sae.architecture
    if sae.is_transcoder and sae.architecture not in ("standard", "jumprelu"):
        raise ValueError(f"SAELens has no transcoder of the architecture {sae.architecture}: it cannot be written so")
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": str(sae.W_dec.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": conventions.subtract_b_dec,
        "normalize_activations": conventions.normalize,
        "reshape_activations": "none",
        "sae_lens_version": LAYOUT_VERSION,
        "metadata": dict(metadata),
    }
    config |= {name: getattr(sae, name) for name in sae.encode_settings}
    if "rescale_acts_by_decoder_norm" in KINDS[architecture].settings:
        config["rescale_acts_by_decoder_norm"] = False
    if sae.is_transcoder:
        config["d_out"] = sae.d_out
    weights = {name: tensor.detach().cpu() for name, tensor in sae.state_dict().items()}
    if conventions.has_skip:
        weights["W_skip"] = weights["W_skip"].T  # theirs is (d_out, d_in)
    weights = {name: tensor.contiguous() for name, tensor in weights.items()}
    write_whole(folder / WEIGHTS, lambda part: save_file(weights, part))
    write_whole(folder / CONFIG, lambda part: part.write_text(json.dumps(config, indent=1, sort_keys=True)))


def _folder(path: Path) -> Path:
    return path.parent if path.name == WEIGHTS and path.is_file() else path


def _shape(name: str, settings: Settings) -> tuple[tuple[int, ...], str]:
    d_in, d_sae, d_out = settings.d_in, settings.d_sae, settings.d_out
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "W_enc": ((d_in, d_sae), "(d_in, d_sae)"),
        "W_dec": ((d_sae, d_out), "(d_sae, d_out)" if settings.kind.transcodes else "(d_sae, d_in)"),
        "b_dec": ((d_out,), "(d_out)" if settings.kind.transcodes else "(d_in)"),
        "W_skip": ((d_out, d_in), "(d_out, d_in)"),
    }
    shape, meaning = shapes.get(name, ((d_sae,), "(d_sae)"))
    return shape, f"{meaning} from {CONFIG}"


def _with_threshold(weights: Weights, settings: Settings) -> tuple[Weights, str | None]:
    """The one threshold of a BatchTopK training checkpoint as one of each feature; else why it cannot be run."""
    weights = dict(weights)
    threshold = weights.pop("topk_threshold", None)
    if "threshold" in weights:  # exported already
        return weights, None
    if threshold is None or not float(threshold) >= 0:
        return weights, "its threshold was never estimated, and BatchTopK without one depends on the batch"
    if settings.rescale_by_decoder_norm is None:
        return weights, f"{CONFIG} does not say rescale_acts_by_decoder_norm, which decides what the threshold means"
    return {**weights, "threshold": torch.full((settings.d_sae,), float(threshold))}, None


def _folded(weights: Weights, settings: Settings, folder: Path) -> tuple[Weights, str | None]:
    """The weights for raw activations, in the order in which SAELens folds; else why they cannot be run."""
    rescaled, reason = bool(settings.rescale_by_decoder_norm), None
    if settings.kind.architecture not in ("topk", "jumprelu"):
        rescaled = False
    if settings.normalize == "expected_average_only_in":
        scale = input_scale(folder)
        if scale is not None and not settings.kind.transcodes:
            weights = with_input_scale(weights, scale, rescaled)
        else:
            reason = (
                "it was trained on activations scaled to a mean norm of sqrt(d_in), and the factor is not in its "
                f"files ({SCALER})"
            )
    if rescaled:
        weights = with_unit_rows(weights)
    if settings.normalize == "covariance_whitening":
        weights = with_whitening(weights, folder, settings.subtract_b_dec)
    return weights, reason


def _checkpoint(weights: Weights, settings: Settings, reason: str | None) -> Checkpoint:
    tensors = {name: weights[name] for name in weights if name not in ("W_dec", "W_enc", "b_enc", "b_dec")}
    if "W_skip" in tensors:
        tensors["W_skip"] = tensors["W_skip"].T
    return Checkpoint(
        architecture=None if reason else settings.kind.architecture,
        W_dec=weights["W_dec"],
        W_enc=weights.get("W_enc"),
        b_enc=weights.get("b_enc"),
        b_dec=weights["b_dec"],
        settings={"k": settings.k} if settings.k is not None else {},
        tensors=tensors,
        subtract_b_dec=settings.subtract_b_dec,
        normalize="none" if settings.normalize in NORMALIZED_BEFORE else settings.normalize,
        transcodes=settings.kind.transcodes,
        declared={"d_in": settings.d_in, "d_sae": settings.d_sae, "d_out": settings.d_out},
        metadata={**settings.metadata, **({"not_runnable": reason} if reason else {})},
    )
