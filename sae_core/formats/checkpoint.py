"""What a file of weights says, in the one canonical form that every format is read into.

Part of *formats*: a reader makes a ``Checkpoint``, ``to_sae`` makes it an SAE that runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sae_core.architectures import ARCHITECTURES, Conventions, Sae, create

PER_FEATURE = ("b_enc", "threshold", "b_gate", "b_mag", "r_mag")
"""Parts that have one number a feature."""


@dataclass(frozen=True)
class Checkpoint:
    """One SAE as read, in any floating type; readers change names and orientation, and fold what is exact.

    ``h = (n(x) - b_dec * subtract_b_dec) W_enc + b_enc``, codes are ``activate(h)`` of the architecture, and the
    reconstruction is ``codes W_dec + b_dec`` with the normalisation ``n`` undone, plus ``x W_skip``.
    """

    architecture: str | None
    """Name in ``ARCHITECTURES``; None when only the dictionary is known, or the SAE cannot be run."""
    W_dec: Tensor
    """(d_sae, d_out), rows are features."""
    W_enc: Tensor | None = None
    """(d_in, d_sae), columns are features; None when unknown."""
    b_enc: Tensor | None = None
    """(d_sae); None is zero."""
    b_dec: Tensor | None = None
    """(d_out); None is zero."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Constructor arguments of the architecture, such as ``{"k": 32}``."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Other parameters: ``threshold``, ``b_gate``, ``b_mag``, ``r_mag`` (d_sae), ``W_skip`` (d_in, d_out)."""
    subtract_b_dec: bool = True
    """Whether the encoder sees ``x - b_dec``."""
    normalize: str = "none"
    """What is done to each input first: ``none``, ``constant_norm_rescale`` or ``layer_norm``."""
    transcodes: bool = False
    """Whether it predicts activations of another place than those that it reads."""
    declared: Mapping[str, int] = field(default_factory=dict)
    """Sizes as the file's configuration gives them, of ``d_in``, ``d_sae`` and ``d_out``: they decide what is
    transposed. Empty when there is no configuration."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What else the file tells: ``model_name``, ``hook_name``, ``context_size``, ... ``not_runnable``, if there, says
    why the SAE cannot be run although its dictionary can be read (architecture None)."""


def check(checkpoint: Checkpoint, where: str) -> None:
    """Refuse a checkpoint whose parts do not fit together or hold values that are not finite.

    Args:
        where: what was read, for messages.

    Raises:
        ValueError: naming the part and the row. Rows of zeros are allowed.
    """
    expected = _expected_shapes(checkpoint, where)
    present = _present(checkpoint)
    for name, tensor in present.items():
        if tuple(tensor.shape) != expected.get(name, tuple(tensor.shape)):
            raise ValueError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, expected {expected[name]}; "
                "the parts are not of one SAE, or one of them is transposed"
            )
    if checkpoint.architecture is not None:
        _check_parameters(checkpoint, set(present), where)
    for name, tensor in present.items():
        check_finite(name, tensor, where)


def to_sae(checkpoint: Checkpoint, where: str) -> Sae:
    """The SAE of a checkpoint, in evaluation mode, float32, on the CPU, with memory of its own.

    Args:
        where: what was read, for messages.

    Raises:
        ValueError: as ``check``, and if the checkpoint cannot be run; the message says why.
    """
    if checkpoint.architecture is None or checkpoint.W_enc is None:
        reason = checkpoint.metadata.get("not_runnable", "it holds a decoder alone")
        raise ValueError(
            f"{where} cannot be run as an SAE: {reason}. Its dictionary can be compared all the same "
            "(load_dictionary, `concord compare`)"
        )
    check(checkpoint, where)
    d_sae, d_out = checkpoint.W_dec.shape
    try:
        conventions = Conventions(
            d_out=d_out if checkpoint.transcodes else None,
            is_transcoder=checkpoint.transcodes,
            has_skip="W_skip" in checkpoint.tensors,
            subtract_b_dec=checkpoint.subtract_b_dec,
            normalize=checkpoint.normalize,
        )
        settings = {"conventions": conventions, **checkpoint.settings}
        sae = create(checkpoint.architecture, len(checkpoint.W_enc), d_sae, **settings)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    state = {name: _own(name, tensor) for name, tensor in _present(checkpoint).items()}
    for name, parameter in sae.state_dict().items():
        state.setdefault(name, parameter)  # a bias that the file leaves out is zero
    sae.load_state_dict(state, assign=True)
    return sae.requires_grad_(False).eval()


def check_finite(name: str, tensor: Tensor, where: str) -> None:
    """Refuse an array with a value that is not finite in float32.

    Raises:
        ValueError: naming the first such row (of ``W_enc``, column), which is a feature.
    """
    if torch.isfinite(tensor.sum(dtype=torch.float64)) and tensor.dtype != torch.float64:
        return  # no sum of finite float32 values overflows float64, and any other value makes it not finite
    bad = ~torch.isfinite(tensor.float())
    if not bad.any():
        return
    at = ""
    if tensor.dim() > 0:
        axis = "column" if name == "W_enc" else "row"
        lines = bad.any(0) if name == "W_enc" else bad.reshape(len(bad), -1).any(1)
        at = f" in {axis} {int(lines.nonzero()[0])} ({int(lines.sum())} such {axis}s in all)"
    raise ValueError(
        f"{where}: {name} holds values that are not finite{at}; the SAE cannot be used: training diverged, or the file "
        "is damaged"
    )


def _present(checkpoint: Checkpoint) -> dict[str, Tensor]:
    parts = {name: getattr(checkpoint, name) for name in ("W_dec", "W_enc", "b_enc", "b_dec")}
    return {name: tensor for name, tensor in (parts | dict(checkpoint.tensors)).items() if tensor is not None}


def _expected_shapes(checkpoint: Checkpoint, where: str) -> dict[str, tuple[int, ...]]:
    """Shapes that follow from the decoder, once it is known to lie the right way round."""
    W_dec = checkpoint.W_dec
    if W_dec.dim() != 2 or 0 in W_dec.shape or not W_dec.is_floating_point():
        raise ValueError(
            f"{where}: W_dec has shape {tuple(W_dec.shape)} and type {W_dec.dtype}, expected (d_sae, d_in) of a "
            "floating type: it is no decoder"
        )
    d_sae, d_out = W_dec.shape
    said_sae, said_out = _said(checkpoint)
    if said_sae not in (None, d_sae) or said_out not in (None, d_out):
        transposed = said_sae in (None, d_out) and said_out in (None, d_sae)
        raise ValueError(
            f"{where}: W_dec {'is transposed: it ' if transposed else ''}has shape {(d_sae, d_out)}, expected (d_sae, "
            f"d_in) = ({said_sae or d_sae}, {said_out or d_out}) from the configuration and the biases, one row a "
            "feature; the file is not what its format says"
        )
    d_in = len(checkpoint.W_enc) if checkpoint.transcodes and checkpoint.W_enc is not None else d_out
    d_in = checkpoint.declared.get("d_in", d_in)
    per_feature = dict.fromkeys(PER_FEATURE, (d_sae,))
    return {"W_dec": (d_sae, d_out), "W_enc": (d_in, d_sae), "b_dec": (d_out,), "W_skip": (d_in, d_out), **per_feature}


def _said(checkpoint: Checkpoint) -> tuple[int | None, int | None]:
    """``d_sae`` and ``d_out`` as the configuration gives them, else as the biases do; None where nothing tells."""
    declared, present = checkpoint.declared, _present(checkpoint)
    lengths = {len(present[name]) for name in PER_FEATURE if name in present and present[name].dim() == 1}
    d_sae = declared.get("d_sae", lengths.pop() if len(lengths) == 1 else None)
    d_out = len(checkpoint.b_dec) if checkpoint.b_dec is not None and checkpoint.b_dec.dim() == 1 else None
    return d_sae, declared.get("d_out", d_out if checkpoint.transcodes else declared.get("d_in", d_out))


def _check_parameters(checkpoint: Checkpoint, present: set[str], where: str) -> None:
    """Refuse parts that the architecture does not know, or parts that it needs and that are missing."""
    if checkpoint.architecture not in ARCHITECTURES:
        raise ValueError(
            f"{where}: unknown architecture {checkpoint.architecture!r}; known: {', '.join(ARCHITECTURES)}"
        )
    own = {"jumprelu": {"threshold"}, "gated": {"b_gate", "b_mag", "r_mag"}}.get(checkpoint.architecture, set())
    optional = {"b_dec", "W_skip"} | (set() if checkpoint.architecture == "gated" else {"b_enc"})
    missing = {"W_dec", "W_enc", *own} - present
    unknown = present - {"W_dec", "W_enc"} - own - optional
    if missing or unknown:
        problem = f"lacks {', '.join(sorted(missing))}" if missing else f"has no use for {', '.join(sorted(unknown))}"
        raise ValueError(f"{where}: a {checkpoint.architecture} SAE {problem}; it is read as something that it is not")


def _own(name: str, tensor: Tensor) -> Tensor:
    """A float32 copy, in the order in memory that ``Sae`` keeps."""
    if name == "W_enc":
        return tensor.T.to(torch.float32, copy=True, memory_format=torch.contiguous_format).T
    return tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
