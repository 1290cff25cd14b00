"""The layout of dictionary_learning: ``ae.pt`` beside ``config.json``, and ``checkpoints/ae_<step>.pt`` below it.

Part of *formats*. Weights lie as ``nn.Linear`` keeps them, so features are columns of ``decoder.weight``; the classes
that keep plain matrices have them as rows of ``W_dec``. Source: the package's ``dictionary.py`` and ``trainers``.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_core.formats.checkpoint import Checkpoint
from sae_core.formats.dictionary_learning_writer import write
from sae_core.formats.files import read_json, read_pickle
from sae_core.formats.layouts import require_integer, require_keys, require_shape

NAME = "dictionary_learning"
LOOKS_FOR = (
    "ae.pt or ae_<step>.pt (encoder.weight and decoder.weight, or W_enc and W_dec) with a config.json that names "
    "trainer.dict_class"
)
CONFIG, WEIGHTS = "config.json", "ae.pt"


@dataclass(frozen=True)
class _Class:
    """How one ``dict_class`` is stored and what it computes."""

    architecture: str
    names: Mapping[str, str]
    """Their keys of one number a feature or a dimension, and ours."""
    linear: bool = True
    """``nn.Linear`` orientation; else plain ``W_enc`` (d_in, d_sae) and ``W_dec`` (d_sae, d_in)."""
    subtract_b_dec: bool = True
    global_threshold: bool = False
    """Features are chosen over a batch in training; in use, by one saved threshold for all."""
    unused: frozenset[str] = frozenset()
    """Keys that must be there, and say nothing about what it computes."""
    optional: frozenset[str] = frozenset()

    @property
    def weights(self) -> tuple[str, str]:
        """Keys of the encoder and of the decoder."""
        return ("encoder.weight", "decoder.weight") if self.linear else ("W_enc", "W_dec")

    @property
    def required(self) -> set[str]:
        """Every key that its file must hold."""
        return {*self.weights, *self.names, *self.unused}

    def fits(self, keys: Collection[str]) -> bool:
        """Whether a file with these keys may be of this class."""
        return self.required <= set(keys) <= self.required | self.optional


_TOP_K = {"encoder.bias": "b_enc", "b_dec": "b_dec"}
_PLAIN = {"b_enc": "b_enc", "b_dec": "b_dec"}
_GATED = {"decoder_bias": "b_dec", "gate_bias": "b_gate", "mag_bias": "b_mag", "r_mag": "r_mag"}
_CHOICE = frozenset({"k", "threshold"})
_CLASSES = {
    "AutoEncoder": _Class("standard", {"encoder.bias": "b_enc", "bias": "b_dec"}),
    "AutoEncoderNew": _Class("standard", {"encoder.bias": "b_enc", "decoder.bias": "b_dec"}, subtract_b_dec=False),
    "GatedAutoEncoder": _Class("gated", _GATED),
    "AutoEncoderTopK": _Class("topk", _TOP_K, optional=_CHOICE),
    "BatchTopKSAE": _Class("jumprelu", _TOP_K, global_threshold=True, optional=_CHOICE),
    "MatryoshkaBatchTopKSAE": _Class(
        "jumprelu", _PLAIN, linear=False, global_threshold=True, unused=frozenset({"group_sizes"}), optional=_CHOICE
    ),
    "JumpReluAutoEncoder": _Class("jumprelu", _PLAIN | {"threshold": "threshold"}, linear=False, subtract_b_dec=False),
}
_IMPOSSIBLE = {
    "CrossCoder": "it reads and writes several layers at once",
    "BatchTopKCrossCoder": "it reads and writes several layers at once",
    "IdentityDict": "it has no features, its codes are the activations",
}


def detects(path: Path) -> bool:
    """Whether a file, or a folder with such files, is in this layout.

    A PyTorch file that cannot be opened counts, so that reading it says why.
    """
    weights = _candidates(path)
    if not weights:
        return False
    try:
        if "dict_class" in _section(_config(weights[0]), "trainer"):
            return True
        held = set(_state(read_pickle(weights[0])))
    except ValueError:
        return True
    return any(set(kind.weights) <= held for kind in _CLASSES.values())


def read(path: Path) -> Checkpoint:
    """The SAE in a folder with ``ae.pt``, or in one file of that kind.

    BatchTopK and Matryoshka SAEs are what they are in use: JumpReLU with the saved threshold. Where none was saved
    (-1), or only a missing ``config.json`` could tell TopK from BatchTopK, the dictionary alone can be read.
    A file that was written as a backup during training is in units of scaled activations: its biases are brought
    into the units of the activations, as the package does when training ends.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the class is unknown, or keys and shapes are not what it says; naming both.
    """
    weights = _one_file(path)
    where, config, loaded = str(weights), _config(weights), read_pickle(weights)
    if _is_backup(loaded) and not _section(config, "trainer"):
        config = {"trainer": loaded.get("config")}
    state, trainer, buffer = _state(loaded), _section(config, "trainer"), _section(config, "buffer")
    name, reason = _class_name(where, state, trainer)
    kind = _CLASSES[name]
    require_keys(where, state, kind.required, kind.optional)
    W_enc, W_dec = _matrices(where, kind, state, trainer)
    parts = _vectors(where, kind, state, len(W_dec), W_dec.shape[1])
    threshold = state.get("threshold") if kind.global_threshold else None
    parts, threshold = _undo_scaling(where, parts, threshold, loaded)
    reason = reason or _not_runnable(kind, threshold, buffer)
    if threshold is not None and reason is None:
        parts["threshold"] = threshold.float().expand(len(W_dec))
    return Checkpoint(
        architecture=None if reason else kind.architecture,
        W_dec=W_dec,
        W_enc=W_enc,
        b_enc=parts.pop("b_enc", None),
        b_dec=parts.pop("b_dec"),
        settings={"k": _k(weights, state, trainer)} if kind.architecture == "topk" and not reason else {},
        tensors=parts,
        subtract_b_dec=kind.subtract_b_dec,
        transcodes=_transcodes(buffer) and not kind.subtract_b_dec,
        declared={"d_in": W_dec.shape[1], "d_sae": len(W_dec)},
        metadata=_metadata(name, config, reason),
    )


def _candidates(path: Path) -> list[Path]:
    """The files of weights that a path stands for: itself, ``ae.pt`` in it, or all ``ae_<step>.pt`` in it."""
    if path.is_file():
        return [path] if path.suffix in (".pt", ".pth") else []
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    return sorted(path.glob("ae_*.pt")) or sorted(path.glob("checkpoints/ae_*.pt"))


def _one_file(path: Path) -> Path:
    found = _candidates(path)
    if not found:
        raise FileNotFoundError(f"{path} holds no {WEIGHTS} and no ae_<step>.pt: the dictionary_learning layout")
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(path)) for file in found)
        raise ValueError(f"{path} holds {len(found)} checkpoints of one training run; name one of them: {names}")
    return found[0]


def _config(weights: Path) -> dict[str, Any]:
    """The ``config.json`` beside the weights, or above ``checkpoints``; empty where there is none."""
    above = [weights.parent.parent] if weights.parent.name == "checkpoints" else []
    for folder in (weights.parent, *above):
        if (folder / CONFIG).is_file():
            return read_json(folder / CONFIG)
    return {}


def _section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _state(loaded: Any) -> dict[str, Tensor]:
    """The tensors by name: the file itself, or its ``ae`` when it was written as a backup."""
    inner = loaded["ae"] if _is_backup(loaded) else loaded
    if not isinstance(inner, dict):
        return {}
    return {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}


def _is_backup(loaded: Any) -> bool:
    return isinstance(loaded, dict) and isinstance(loaded.get("ae"), dict)


def _class_name(where: str, state: Mapping[str, Tensor], trainer: Mapping[str, Any]) -> tuple[str, str | None]:
    """The class of the dictionary; and why it cannot be run, if its class is not sure."""
    if name := trainer.get("dict_class"):
        if name in _IMPOSSIBLE:
            raise ValueError(f"{where}: a {name} cannot be read as one dictionary: {_IMPOSSIBLE[name]}")
        if name not in _CLASSES:
            raise ValueError(f"{where}: unknown dict_class {name!r} in {CONFIG}; known are {', '.join(_CLASSES)}")
        return str(name), None
    fitting = [name for name, kind in _CLASSES.items() if kind.fits(state)]
    if not fitting:
        raise ValueError(
            f"{where} has no {CONFIG} that names trainer.dict_class, and its keys ({', '.join(sorted(state)) or 'none'}"
            f") are those of none of {', '.join(_CLASSES)}"
        )
    if len(fitting) == 1:
        return fitting[0], None
    return fitting[0], f"its keys fit {' and '.join(fitting)}, and only the missing {CONFIG} could tell which it is"


def _matrices(
    where: str, kind: _Class, state: Mapping[str, Tensor], trainer: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """``W_enc`` (d_in, d_sae) and ``W_dec`` (d_sae, d_in), once both lie as the configuration says."""
    encoder_key, decoder_key = kind.weights
    encoder, decoder = state[encoder_key], state[decoder_key]
    if encoder.dim() != 2 or decoder.dim() != 2:
        raise ValueError(
            f"{where}: the weights have shapes {tuple(encoder.shape)} and {tuple(decoder.shape)}, expected matrices; "
            "dictionaries over several layers (crosscoders) cannot be read as one"
        )
    if trainer:
        d_in, d_sae = (require_integer(CONFIG, trainer, key) for key in ("activation_dim", "dict_size"))
        meaning = f"activation_dim and dict_size in {CONFIG}"
    else:  # the biases decide
        lengths = {ours: state[key].numel() for key, ours in kind.names.items()}
        d_in, d_sae = lengths["b_dec"], lengths["b_gate" if kind.architecture == "gated" else "b_enc"]
        meaning = "the lengths of the biases"
    shape = (d_sae, d_in) if kind.linear else (d_in, d_sae)
    require_shape(where, encoder_key, encoder, shape, meaning)
    require_shape(where, decoder_key, decoder, shape[::-1], meaning)
    return (encoder.T, decoder.T) if kind.linear else (encoder, decoder)


def _vectors(where: str, kind: _Class, state: Mapping[str, Tensor], d_sae: int, d_in: int) -> dict[str, Tensor]:
    """The other parts, by our names."""
    for theirs, ours in kind.names.items():
        length, meaning = (d_in, "d_in") if ours == "b_dec" else (d_sae, "d_sae")
        require_shape(where, theirs, state[theirs], (length,), meaning)
    return {ours: state[theirs] for theirs, ours in kind.names.items()}


def _undo_scaling(
    where: str, parts: dict[str, Tensor], threshold: Tensor | None, loaded: Any
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Parts of a backup in the units of the activations: ``scale_biases`` of the package."""
    factor = loaded.get("norm_factor") if _is_backup(loaded) else None
    if factor is None:
        return parts, threshold
    factor = float(factor)
    if not 0 < factor < float("inf"):
        raise ValueError(f"{where}: norm_factor = {factor}, expected a positive number; the backup cannot be used")
    parts = {name: tensor if name == "r_mag" else tensor.float() * factor for name, tensor in parts.items()}
    return parts, threshold * factor if threshold is not None and bool(threshold >= 0) else threshold


def _not_runnable(kind: _Class, threshold: Tensor | None, buffer: Mapping[str, Any]) -> str | None:
    if kind.global_threshold and (threshold is None or not bool(threshold >= 0)):
        state = "missing" if threshold is None else f"{float(threshold):g}, which means unset"
        return (
            f"its threshold is {state}: in training features are chosen over whole batches, and the threshold that "
            "stands for it in use is measured only after trainer.threshold_start_step"
        )
    if _transcodes(buffer) and kind.subtract_b_dec:
        return "it is a transcoder that takes the bias of its output from its input"
    return None


def _transcodes(buffer: Mapping[str, Any]) -> bool:
    return buffer.get("io") == "in_and_out"


def _k(weights: Path, state: Mapping[str, Tensor], trainer: Mapping[str, Any]) -> int:
    """k of the file; that of the configuration may differ only in checkpoints, made while k was annealed."""
    told = require_integer(CONFIG, trainer, "k") if "k" in trainer else None
    own = int(state["k"]) if "k" in state else told
    if own is None:
        raise ValueError(f"{weights} has no k, and no {CONFIG} beside it names trainer.k: how many features are kept?")
    if told not in (None, own) and weights.name == WEIGHTS:
        raise ValueError(f"{weights} holds k = {own}, but its {CONFIG} says {told}; they are of different SAEs")
    return own


def _metadata(name: str, config: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
    trainer, buffer = _section(config, "trainer"), _section(config, "buffer")
    known = {
        "model_name": trainer.get("lm_name"),
        "hook_name": trainer.get("submodule_name"),
        "layer": trainer.get("layer"),
        "seed": trainer.get("seed"),
        "context_size": buffer.get("ctx_len"),
        "not_runnable": reason,
    }
    told = {key: value for key, value in known.items() if value is not None}
    return {"dict_class": name} | told | _section(config, "metadata")


__all__ = ["LOOKS_FOR", "NAME", "detects", "read", "write"]
