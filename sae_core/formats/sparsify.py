"""The layout of sparsify: ``<hookpoint>/cfg.json`` beside ``sae.safetensors``, with seeds in folders ``seed<N>`` of it.

Part of *formats*. The encoder lies as ``nn.Linear`` keeps it, ``W_dec`` has features as rows, and ``W_skip`` is (d_out,
d_in). Source: ``sparse_coder.py`` of the package eai-sparsify.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_core.formats.checkpoint import Checkpoint
from sae_core.formats.files import read_json, read_safetensors, safetensors_header
from sae_core.formats.layouts import require_integer, require_keys, require_shape

NAME = "sparsify"
LOOKS_FOR = "cfg.json beside sae.safetensors (encoder.weight, encoder.bias, W_dec, b_dec)"
CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"

_KEYS = {"encoder.weight", "encoder.bias", "W_dec", "b_dec"}


def detects(path: Path) -> bool:
    """Whether a folder is in this layout, or holds seeds that are. Damaged weights count: reading says what it is."""
    if (path / CONFIG).is_file() and (path / WEIGHTS).is_file():
        try:
            return {"encoder.weight", "W_dec"} <= set(safetensors_header(path / WEIGHTS))
        except ValueError:
            return True
    return bool(_seeds(path))


def read(path: Path) -> Checkpoint:
    """The SAE or transcoder of one hookpoint and seed.

    Features that were not chosen by TopK alone (``groupmax``, signed codes) have a dictionary that can be read, but
    cannot be run.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if keys or shapes are not what ``cfg.json`` says; the message names both. Also for a folder of
            several seeds: name one.
    """
    if seeds := _seeds(path):
        raise ValueError(f"{path} holds several seeds ({', '.join(seeds)}), each an SAE of its own; name one of them")
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise FileNotFoundError(f"{path} has no {name}: the sparsify layout is {CONFIG} beside {WEIGHTS}")
    config, where = read_json(path / CONFIG), str(path / WEIGHTS)
    d_in, d_sae = _sizes(str(path / CONFIG), config)
    skips, transcodes = bool(config.get("skip_connection")), bool(config.get("transcode"))
    tensors = read_safetensors(path / WEIGHTS)
    require_keys(where, tensors, _KEYS | ({"W_skip"} if skips else set()))
    shapes = {
        "encoder.weight": (d_sae, d_in),
        "encoder.bias": (d_sae,),
        "W_dec": (d_sae, d_in),
        "b_dec": (d_in,),
        "W_skip": (d_in, d_in),
    }
    for key, tensor in tensors.items():
        require_shape(where, key, tensor, shapes[key], f"sizes from {CONFIG}: d_in = {d_in}, features = {d_sae}")
    reason = _not_runnable(config, skips and not transcodes)
    return Checkpoint(
        architecture=None if reason else "topk",
        W_dec=tensors["W_dec"],
        W_enc=tensors["encoder.weight"].T,
        b_enc=tensors["encoder.bias"],
        b_dec=tensors["b_dec"],
        settings={} if reason else {"k": require_integer(str(path / CONFIG), config, "k")},
        tensors={"W_skip": tensors["W_skip"].T} if skips else {},
        subtract_b_dec=not transcodes,
        transcodes=transcodes,
        declared={"d_in": d_in, "d_sae": d_sae},
        metadata=_metadata(path, reason),
    )


def _seeds(path: Path) -> list[str]:
    """Names of the folders of seeds, when the path is a hookpoint that holds nothing but those."""
    if not path.is_dir() or (path / CONFIG).is_file():
        return []
    return sorted(folder.parent.name for folder in path.glob(f"seed*/{CONFIG}") if (folder.parent / WEIGHTS).is_file())


def _sizes(where: str, config: Mapping[str, Any]) -> tuple[int, int]:
    """``d_in`` and the number of features, of which 0 or none means ``d_in * expansion_factor``."""
    d_in = require_integer(where, config, "d_in")
    given = require_integer(where, config, "num_latents", minimum=0) if "num_latents" in config else 0
    return d_in, given or d_in * require_integer(where, config, "expansion_factor")


def _not_runnable(config: Mapping[str, Any], skips_within: bool) -> str | None:
    if (activation := config.get("activation", "topk")) != "topk":
        return f"its features are chosen by {activation!r}, not by topk"
    if config.get("signed"):
        return "its codes may be negative (signed)"
    if skips_within:
        return "it has a skip connection although it writes where it reads"
    return None


def _metadata(path: Path, reason: str | None) -> dict[str, Any]:
    """What the configuration of the training run tells, which lies above the hookpoints where there is one."""
    hookpoint = path.parent if path.name.startswith("seed") else path
    found: dict[str, Any] = {"hook_name": hookpoint.name}
    if (hookpoint.parent / "config.json").is_file():
        training = read_json(hookpoint.parent / "config.json")
        names = {"model": "model_name", "dataset": "dataset_path", "ctx_len": "context_size"}
        found |= {ours: training[theirs] for theirs, ours in names.items() if theirs in training}
    return found | ({"not_runnable": reason} if reason else {})
