"""Scales that SAELens applies outside the matrices, folded into them, as its own export does.

Part of *formats*. None of them changes a decoder direction but the whitening, which brings the decoder back from
whitened coordinates. Each takes and returns the weights by name, in float32.
"""

from pathlib import Path

import torch
from torch import Tensor

from sae_core.formats.files import read_json, read_safetensors

SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"
"""Beside the weights of a training checkpoint: how its activations were normalised."""

Weights = dict[str, Tensor]


def input_scale(folder: Path) -> float | None:
    """Factor on the activations that a training checkpoint was trained on; None when it is not told.

    Raises:
        ValueError: if it is not a positive number.
    """
    if not (folder / SCALER).is_file():
        return None
    scale = read_json(folder / SCALER).get("scaling_factor")
    if scale is not None and not (isinstance(scale, int | float) and 0 < scale < float("inf")):
        raise ValueError(f"{folder / SCALER}: scaling_factor = {scale!r}, expected a positive number")
    return None if scale is None else float(scale)


def with_input_scale(weights: Weights, scale: float, rescaled: bool) -> Weights:
    """The SAE of raw activations from one of ``scale`` times these; codes stay, the decoder shrinks.

    Args:
        rescaled: whether features are chosen by activation times decoder norm: a threshold is in those units.
    """
    folded = {**weights, "W_dec": weights["W_dec"] / scale, "b_dec": weights["b_dec"] / scale}
    if "W_enc" in weights:
        folded["W_enc"] = weights["W_enc"] * scale
    if "threshold" in weights and rescaled:
        folded["threshold"] = weights["threshold"] / scale
    return folded


def with_whitening(weights: Weights, folder: Path, subtract_b_dec: bool) -> Weights:
    """The SAE of raw activations from one of whitened ones, ``(x - mean) M``.

    Raises:
        ValueError: if the whitening is not beside the weights: the decoder then lies in unknown coordinates.
    """
    if not (folder / WHITENING).is_file():
        raise ValueError(
            f"{folder}: the SAE was trained on whitened activations, and {WHITENING} is not there: its decoder lies in "
            "coordinates that are not known; use the final SAE, into which SAELens folds the whitening"
        )
    parts = read_safetensors(folder / WHITENING, ["mean", "matrix", "inverse_matrix"])
    return unwhitened(weights, parts["mean"], parts["matrix"], parts["inverse_matrix"], subtract_b_dec)


def unwhitened(weights: Weights, mean: Tensor, matrix: Tensor, inverse: Tensor, subtract_b_dec: bool) -> Weights:
    """The weights of the SAE of x that does what another one does to ``(x - mean) matrix``; codes stay the same.

    Args:
        inverse: of ``matrix``.
        subtract_b_dec: whether the encoder sees ``x - b_dec``.
    """
    mean, matrix, inverse = mean.double(), matrix.double(), inverse.double()
    W_enc = matrix @ weights["W_enc"].double()
    folded = {**weights, "W_enc": W_enc}
    folded["W_dec"] = weights["W_dec"].double() @ inverse
    folded["b_dec"] = weights["b_dec"].double() @ inverse + mean
    if not subtract_b_dec:  # otherwise the folded b_dec takes the mean from the input
        shift = mean @ W_enc
        for name in ("b_enc", "b_gate"):
            if name in weights:
                folded[name] = weights[name] - shift
        if "b_mag" in weights:
            folded["b_mag"] = weights["b_mag"] - shift * weights["r_mag"].double().exp()
    return {name: tensor.float() for name, tensor in folded.items()}


def with_unit_rows(weights: Weights) -> Weights:
    """The same SAE with decoder rows of unit length, for one that chooses features by activation times row length."""
    norm = weights["W_dec"].norm(dim=1).clamp_min(1e-8)
    return {
        **weights,
        "W_enc": weights["W_enc"] * norm,
        "b_enc": weights["b_enc"] * norm,
        "W_dec": weights["W_dec"] / norm[:, None],
    }


def with_finetuning(weights: Weights, finetuned: bool, where: Path) -> Weights:
    """The factors on features that old versions applied before decoding, put into the decoder.

    Raises:
        ValueError: if there are factors that the configuration does not speak of.
    """
    weights = dict(weights)
    factor = weights.pop("scaling_factor", None)
    factor = weights.pop("finetuning_scaling_factor", factor)
    if factor is None or torch.allclose(factor, torch.ones_like(factor)):
        return weights
    if not finetuned:
        raise ValueError(
            f"{where} holds a scaling_factor that is not one, and cfg.json does not say finetuning_scaling_factor: "
            "it is not known whether the factor applies"
        )
    return {**weights, "W_dec": weights["W_dec"] * factor[:, None]}
