"""An SAE made of the features that most runs have: part of *consistency*."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.architectures import Sae, create
from sae_core.consistency.consensus_dictionary import Consensus
from sae_core.consistency.geometric_medians import chunks, geometric_medians

_ONE_A_RUN = ("b_dec", "W_skip")
"""Parameters that belong to no feature."""
_SAME_COSINE = 1e-3
"""Members' cosines with the consensus may differ by so much between the SAEs and the runs."""


def consensus_sae(saes: Sequence[Sae], consensus: Consensus) -> Sae:
    """The consensus as an SAE of the architecture of its runs, in evaluation mode: it is saved and used like any other.

    Decoder rows are the consensus directions, of unit length. Encoder directions are geometric medians and biases,
    thresholds and gates are medians over a feature's members, each multiplied by the length of its decoder row as far
    as it scales with the pre-activations, so that what a member would have written is written. Members that point the
    other way are left out of this: a ReLU feature cannot fire for them (``Consensus.n_opposed`` counts them). ``b_dec``
    and ``W_skip`` are geometric medians over the runs.

    A TopK SAE keeps its ``k``, or one less than its features if these are fewer; it then chooses by the length of
    what a feature writes, which is what it did before where decoder rows had unit length.

    Args:
        saes: those of the runs, in the order of the runs.
        consensus: as :func:`sae_core.consistency.consensus_dictionary.consensus` finds it.

    Raises:
        ValueError: if the SAEs are not those of the runs, differ in architecture, settings, widths or conventions, or
            if fewer than two features are left.
    """
    _check(saes, consensus)
    first, m = saes[0], consensus.n_features
    settings = {name: getattr(first, name) for name in first.encode_settings}
    if "k" in settings:
        settings["k"] = min(settings["k"], m - 1)
    made = create(first.architecture, first.d_in, m, conventions=first.conventions, **settings)
    agree = consensus.cosine > 0  # a missing member's cosine is nan, which is not above 0
    lengths = _members_lengths(saes, consensus)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            values = [] if name == "W_dec" else [_array(getattr(sae, name)) for sae in saes]
            if name == "W_dec":
                found = consensus.W_dec
            elif name == "W_enc":
                found = _encoder(values, consensus, agree, lengths)
            elif name in _ONE_A_RUN:
                found = _of_runs(values)
            else:
                scale = lengths if name in first.in_activation_units else np.ones_like(lengths)
                found = _of_features(values, consensus, agree, scale)
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(found)))
    return made.requires_grad_(False).eval()


def _check(saes: Sequence[Sae], consensus: Consensus) -> None:
    if len(saes) != len(consensus.runs):
        raise ValueError(f"expected the SAEs of the {len(consensus.runs)} runs of the consensus, got {len(saes)}")
    if consensus.n_features < 2:
        raise ValueError(
            f"an SAE needs two features at least: the consensus of {', '.join(consensus.runs)} has "
            f"{consensus.n_features} at tau {consensus.tau:g}; these runs agree on nothing, or tau is too high"
        )
    first = saes[0]
    for run, sae in zip(consensus.runs, saes, strict=True):
        for what in ("architecture", "d_in", "d_out", "conventions", *first.encode_settings):
            if getattr(sae, what, None) != getattr(first, what):
                raise ValueError(
                    f"the SAEs of a consensus must be of one kind: {what} of {run} is {getattr(sae, what, None)}, "
                    f"that of {consensus.runs[0]} is {getattr(first, what)}; compare runs of one variant"
                )
    for number, (run, sae) in enumerate(zip(consensus.runs, saes, strict=True)):
        there = np.flatnonzero(consensus.members[:, number] >= 0)
        rows = consensus.members[there, number]
        fits = sae.d_out == consensus.W_dec.shape[1] and (len(rows) == 0 or int(rows.max()) < sae.d_sae)
        if not fits or _distance(_array(sae.W_dec)[rows], consensus, there, number) > _SAME_COSINE:
            raise ValueError(
                f"SAE {number} is not that of {run}: its decoder rows are not those that the consensus was made of; "
                "pass the SAEs in the order of the runs"
            )


def _distance(rows: Float[np.ndarray, "n d_out"], consensus: Consensus, there: np.ndarray, number: int) -> float:
    """How far the members' cosines with the consensus are from what they were."""
    if len(there) == 0:
        return 0.0
    found = np.einsum("ij,ij->i", rows, consensus.W_dec[there]) / np.maximum(np.linalg.norm(rows, axis=1), 1e-30)
    return float(np.abs(found - consensus.cosine[there, number]).max())


def _members_lengths(saes: Sequence[Sae], consensus: Consensus) -> Float[np.ndarray, "m runs"]:
    """Length of each member's decoder row."""
    return np.stack(
        [np.linalg.norm(_array(sae.W_dec), axis=1)[rows] for sae, rows in zip(saes, consensus.members.T, strict=True)],
        axis=1,
    )


def _encoder(
    encoders: Sequence[Float[np.ndarray, "d_in _"]],
    consensus: Consensus,
    agree: Bool[np.ndarray, "m runs"],
    lengths: Float[np.ndarray, "m runs"],
) -> Float[np.ndarray, "d_in m"]:
    out = np.empty((len(encoders[0]), consensus.n_features))
    for chunk in chunks(consensus.n_features, len(encoders), len(encoders[0])):
        columns = [W.T[rows] for W, rows in zip(encoders, consensus.members[chunk].T, strict=True)]
        vectors = np.stack(columns, axis=1) * lengths[chunk, :, None]
        out[:, chunk] = geometric_medians(vectors, agree[chunk]).T
    return out


def _of_features(
    values: Sequence[Float[np.ndarray, " _"]],
    consensus: Consensus,
    agree: Bool[np.ndarray, "m runs"],
    scale: Float[np.ndarray, "m runs"],
) -> Float[np.ndarray, " m"]:
    members = [vector[rows] for vector, rows in zip(values, consensus.members.T, strict=True)]
    return np.asarray(np.nanmedian(np.where(agree, np.stack(members, axis=1) * scale, np.nan), axis=1))


def _of_runs(values: Sequence[Float[np.ndarray, "..."]]) -> Float[np.ndarray, "..."]:
    vectors = np.stack([value.ravel() for value in values])[None]
    return np.asarray(geometric_medians(vectors, np.ones(vectors.shape[:2], bool))[0].reshape(values[0].shape))


def _array(tensor: Tensor) -> Float[np.ndarray, "..."]:
    return np.asarray(tensor.detach().float().cpu())
