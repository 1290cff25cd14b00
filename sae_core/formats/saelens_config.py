"""``cfg.json`` of SAELens, version 6 and the flat one before it, brought to one form.

Part of *formats*. What cannot be run is kept as a reason, for the dictionary can be compared all the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sae_core.formats.layouts import require_integer

NORMALIZED_BEFORE = ("expected_average_only_in", "covariance_whitening")
"""Normalisations that SAELens does outside the SAE while it trains, and folds into the weights afterwards."""
_NORMALIZATIONS = ("none", "constant_norm_rescale", "layer_norm", *NORMALIZED_BEFORE)


@dataclass(frozen=True)
class Kind:
    """What SAELens means by the name of an architecture."""

    architecture: str | None
    """Ours; None when it cannot be run here."""
    tensors: frozenset[str]
    """What the weights hold."""
    settings: frozenset[str] = frozenset()
    """Keys besides the common ones that decide what it computes."""
    transcodes: bool = False
    not_runnable: str | None = None


_FOUR = frozenset({"W_enc", "W_dec", "b_enc", "b_dec"})
_GATED = frozenset({"W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"})
_TOPK = frozenset({"k", "rescale_acts_by_decoder_norm"})
_OUT = frozenset({"d_out"})
_BATCH = Kind("jumprelu", _FOUR | {"topk_threshold"}, _TOPK)

KINDS: dict[str, Kind] = {
    "standard": Kind("standard", _FOUR),
    "topk": Kind("topk", _FOUR, _TOPK),
    "jumprelu": Kind("jumprelu", _FOUR | {"threshold"}),
    "gated": Kind("gated", _GATED),
    "batchtopk": _BATCH,
    "matryoshka_batchtopk": _BATCH,
    "transcoder": Kind("standard", _FOUR, _OUT, transcodes=True),
    "skip_transcoder": Kind("standard", _FOUR | {"W_skip"}, _OUT, transcodes=True),
    "jumprelu_transcoder": Kind("jumprelu", _FOUR | {"threshold"}, _OUT, transcodes=True),
    "jumprelu_skip_transcoder": Kind("jumprelu", _FOUR | {"threshold", "W_skip"}, _OUT, transcodes=True),
    "abstopk": Kind(None, _FOUR, _TOPK, not_runnable="its features may be negative (abstopk)"),
    "matching_pursuit": Kind(
        None,
        frozenset({"W_dec", "b_dec"}),
        frozenset({"residual_threshold", "max_iterations", "stop_on_duplicate_support"}),
        not_runnable="matching pursuit has no encoder",
    ),
}
"""Every architecture that can be read, by the name that SAELens gives it."""

_COMMON = frozenset(
    {
        "architecture", "d_in", "d_sae", "dtype", "device", "apply_b_dec_to_input", "normalize_activations",
        "reshape_activations", "metadata", "sae_lens_version",
    }
)  # fmt: skip
_TRAINING = frozenset(
    {
        "decoder_init_norm", "l1_coefficient", "l1_warm_up_steps", "lp_norm", "aux_loss_coefficient",
        "use_sparse_activations", "topk_threshold_lr", "matryoshka_widths", "use_matryoshka_aux_loss",
        "jumprelu_bandwidth", "jumprelu_init_threshold", "jumprelu_sparsity_loss_mode", "jumprelu_ste_to_input",
        "jumprelu_tanh_scale", "l0_coefficient", "l0_warm_up_steps", "pre_act_loss_coefficient", "target_l0",
    }
)  # fmt: skip
"""Keys of training checkpoints that change nothing that a trained SAE computes."""


@dataclass(frozen=True)
class Settings:
    """What a ``cfg.json`` says."""

    kind: Kind
    d_in: int
    d_sae: int
    d_out: int
    k: int | None
    rescale_by_decoder_norm: bool | None
    """Whether features are chosen by activation times the length of their decoder row; None when it is not said."""
    subtract_b_dec: bool
    normalize: str
    finetuned: bool
    """Whether the weights hold a factor for each feature, applied before decoding (before 6.0)."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    not_runnable: str | None = None


def settings_of(config: Mapping[str, Any], where: Path) -> Settings:
    """Read a ``cfg.json``.

    Args:
        config: its content.
        where: its path, for messages.

    Raises:
        ValueError: if the architecture or a normalisation is unknown, or a size is missing or impossible.
    """
    flat = not isinstance(config.get("metadata"), dict)
    reasons = []
    if flat:
        config, reason = _from_flat(config, where)
        reasons.append(reason)
    if "architecture" not in config:
        raise ValueError(f"{where} has no key 'architecture', which SAELens 6 writes")
    name = config["architecture"]
    if name not in KINDS:
        raise ValueError(f"{where}: architecture {name!r} cannot be read; readable are {', '.join(sorted(KINDS))}")
    kind = KINDS[name]
    unknown = sorted(set(config) - _COMMON - _TRAINING - kind.settings) if not flat else []
    if unknown:
        reasons.append(f"{where} has unknown keys {', '.join(unknown)}, which may change what the SAE computes")
    normalize = config.get("normalize_activations", "none")
    if normalize not in _NORMALIZATIONS:
        raise ValueError(
            f"{where}: normalize_activations = {normalize!r} is unknown; known are {', '.join(_NORMALIZATIONS)}"
        )
    d_in = require_integer(str(where), config, "d_in")
    metadata = {**config["metadata"], "architecture": name}
    if config.get("reshape_activations", "none") != "none":
        metadata["reshape_activations"] = config["reshape_activations"]
    return Settings(
        kind=kind,
        d_in=d_in,
        d_sae=require_integer(str(where), config, "d_sae"),
        d_out=require_integer(str(where), config, "d_out") if kind.transcodes else d_in,
        k=require_integer(str(where), config, "k") if kind.architecture == "topk" else None,
        rescale_by_decoder_norm=config.get("rescale_acts_by_decoder_norm"),
        subtract_b_dec=bool(config.get("apply_b_dec_to_input", True)) and not kind.transcodes,
        normalize=normalize,
        finetuned=bool(config.get("finetuning_scaling_factor", False)),
        metadata=metadata,
        not_runnable="; ".join(filter(None, [kind.not_runnable, *reasons])) or None,
    )


_RENAMED = {"hook_point": "hook_name", "activation_fn_str": "activation_fn", "hook_point_head_index": "hook_head_index"}


def _from_flat(config: Mapping[str, Any], where: Path) -> tuple[dict[str, Any], str | None]:
    """The same in the form of version 6, as SAELens 6 converts it; and why it cannot be run, if it cannot.

    Such files mix what the SAE is with everything about its training, so unknown keys mean nothing.
    """
    flat = {_RENAMED.get(key, key): value for key, value in config.items()}
    arguments = flat.get("activation_fn_kwargs") or {}
    activation, reason = flat.get("activation_fn") or "relu", None
    architecture = flat.get("architecture") or "standard"
    if activation == "topk":
        architecture = "topk"
        flat["k"] = arguments.get("k", flat.get("k"))
        if flat["k"] is None:
            raise ValueError(f"{where} has the activation function topk, but no activation_fn_kwargs.k")
    elif activation != "relu":
        reason = f"its activation function {activation!r} is not known here"
    if "d_sae" not in flat and "expansion_factor" in flat:
        flat["d_sae"] = require_integer(str(where), flat, "d_in") * require_integer(
            str(where), flat, "expansion_factor"
        )
    normalize = flat.get("normalize_activations")
    if normalize is None or isinstance(normalize, bool):
        normalize = "expected_average_only_in" if normalize else "none"
    reshape = "hook_z" if "hook_z" in str(flat.get("hook_name", "")) else "none"
    return {
        **flat,
        "architecture": architecture,
        "normalize_activations": normalize,
        "reshape_activations": flat.get("reshape_activations", reshape),
        "metadata": {key: flat[key] for key in _TOLD if flat.get(key) is not None},
    }, reason


_TOLD = ("model_name", "hook_name", "hook_layer", "hook_head_index", "context_size", "prepend_bos", "dataset_path",
         "model_from_pretrained_kwargs", "neuronpedia_id", "sae_lens_training_version")  # fmt: skip
