"""SAEs into the layout of dictionary_learning, so that its ``load_dictionary`` opens them.

Part of *formats*. A class that treats ``b_dec`` otherwise than the SAE gets it folded into the encoder's biases, which
is exact.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_core.architectures import Sae
from sae_core.whole_files import write_whole

CONFIG, WEIGHTS = "config.json", "ae.pt"
_TRAINER_NAMES = {"model_name": "lm_name", "hook_name": "submodule_name", "layer": "layer", "seed": "seed"}


def write(sae: Sae, folder: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write an SAE as ``ae.pt`` and ``config.json``.

    Args:
        sae: one that reads raw activations and writes what it reads.
        folder: made if needed; an SAE in it is replaced, file by file and each atomically.
        metadata: JSON values to keep beside it: ``model_name``, ``hook_name``, ...

    Raises:
        ValueError: for transcoders and for SAEs that normalise their input: the package has no class for them.
    """
    conventions = sae.conventions
    if conventions.is_transcoder or conventions.has_skip or conventions.normalize != "none":
        raise ValueError(
            f"dictionary_learning has no class for an SAE with {conventions}: it must write what it reads, without a "
            "skip connection or a normalisation; save it as saelens"
        )
    dict_class, state = _state(sae)
    told = dict(metadata or {})
    trainer: dict[str, Any] = {"dict_class": dict_class, "activation_dim": sae.d_in, "dict_size": sae.d_sae}
    trainer |= {name: getattr(sae, name) for name in sae.encode_settings}
    trainer |= {theirs: told[ours] for ours, theirs in _TRAINER_NAMES.items() if ours in told}
    config: dict[str, Any] = {"trainer": trainer, "metadata": told}
    if "context_size" in told:
        config["buffer"] = {"ctx_len": told["context_size"]}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=1, sort_keys=True)
    write_whole(folder / WEIGHTS, lambda part: torch.save(state, part))
    write_whole(folder / CONFIG, lambda part: part.write_text(text, encoding="utf-8"))


@torch.no_grad()
def _state(sae: Sae) -> tuple[str, dict[str, Tensor]]:
    """The class that computes the same, and its parameters."""
    parts = dict(sae.state_dict())
    linear = {"encoder.weight": parts["W_enc"].T, "decoder.weight": parts["W_dec"].T}
    subtracts, shift = sae.conventions.subtract_b_dec, parts["b_dec"] @ parts["W_enc"]
    match sae.architecture:
        case "standard" if subtracts:
            name = "AutoEncoder"
            state = linear | {"encoder.bias": parts["b_enc"], "bias": parts["b_dec"]}
        case "standard":
            name = "AutoEncoderNew"
            state = linear | {"encoder.bias": parts["b_enc"], "decoder.bias": parts["b_dec"]}
        case "topk":
            name = "AutoEncoderTopK"
            # (x - b_dec) W + b_enc + shift = x W + b_enc; the threshold is for another way to choose, -1 is unset
            own = parts["b_enc"] if subtracts else parts["b_enc"] + shift
            choice = {"k": torch.tensor(sae.k, dtype=torch.int), "threshold": torch.tensor(-1.0)}
            state = linear | {"encoder.bias": own, "b_dec": parts["b_dec"]} | choice
        case "gated":
            name = "GatedAutoEncoder"
            extra = torch.zeros_like(shift) if subtracts else shift
            state = linear | {
                "decoder_bias": parts["b_dec"],
                "gate_bias": parts["b_gate"] + extra,
                "mag_bias": parts["b_mag"] + extra * parts["r_mag"].exp(),
                "r_mag": parts["r_mag"],
            }
        case "jumprelu":
            name = "JumpReluAutoEncoder"
            own = parts["b_enc"] - shift if subtracts else parts["b_enc"]
            state = {key: parts[key] for key in ("W_enc", "W_dec", "b_dec", "threshold")} | {"b_enc": own}
        case other:
            raise ValueError(f"dictionary_learning has no class for the architecture {other!r}; save it as saelens")
    return name, {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
