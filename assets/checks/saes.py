"""Checks of trained SAEs."""

import json
import struct
from pathlib import Path

import dagster as dg

from assets.checks.common import FINITE, VERIFIED, Check, finite, makes, results, verified
from sae_core.config import (
    BatchTopKConfig,
    ChecksConfig,
    JumpReLUConfig,
    MatryoshkaBatchTopKConfig,
    TopKConfig,
    VariantConfig,
)
from sae_core.store import Artifact

_WEIGHTS = "sae_weights.safetensors"


@makes(
    verified=VERIFIED,
    finite=FINITE,
    shapes="Encoder, decoder and biases have the width of the activations and the features of the variant: read from "
    "the header of the weights.",
    fve="The fraction of variance explained on held-out tokens reaches `checks.min_fve`.",
    alive="No more than `checks.max_dead_fraction` of the features never fire on held-out tokens.",
    l0_on_target="The active features on a token are within a factor of `checks.max_l0_ratio` of the target.",
)
def sae_checks(
    key: dg.AssetKey, sae: Artifact, evaluation: Artifact, d_in: int, variant: VariantConfig, limits: ChecksConfig
) -> list[dg.AssetCheckResult]:
    """The SAE is there, finite, of the right shape, reconstructs, is mostly alive, and as sparse as asked for.

    Args:
        d_in: width of the activations it was trained on.
    """
    measured = evaluation.summary
    again = "look at the training curves of the run; lower `training.lr`, or clip gradients, and materialize it again"
    return results(
        key,
        [
            verified(sae, evaluation),
            finite({"training": sae.summary, "evaluation": measured}, again),
            _shapes(sae, d_in, getattr(variant, "d_sae", None)),
            Check(
                "fve",
                measured["fve"] >= limits.min_fve,
                measured["fve"],
                f"at least {limits.min_fve:g} (checks.min_fve)",
                "train for more steps, or with more features or a larger L0; lower checks.min_fve if it is good enough",
            ),
            Check(
                "alive",
                measured["dead_fraction"] <= limits.max_dead_fraction,
                measured["dead_fraction"],
                f"at most {limits.max_dead_fraction:g} (checks.max_dead_fraction)",
                "train for more steps, raise the auxiliary loss (aux_k_coefficient), or take fewer features",
            ),
            _l0_on_target(measured["l0"], _target_l0(variant), limits),
        ],
        limits.blocking,
    )


def _l0_on_target(l0: float, target: float | None, limits: ChecksConfig) -> Check:
    if target is None:
        return Check("l0_on_target", True, l0, "no target: a penalty decides it", "")
    low, high = target / limits.max_l0_ratio, target * limits.max_l0_ratio
    return Check(
        "l0_on_target",
        low <= l0 <= high,
        l0,
        f"{low:.4g} to {high:.4g} (target {target:g}, checks.max_l0_ratio)",
        "train for more steps; too low: features are dead, too high: the threshold has not settled",
        {"l0_over_target": l0 / target},
    )


def _target_l0(variant: VariantConfig) -> float | None:
    """Active features on a token that were asked for; None where a penalty decides them."""
    if isinstance(variant, JumpReLUConfig):
        return variant.target_l0
    return variant.k if isinstance(variant, (TopKConfig, BatchTopKConfig, MatryoshkaBatchTopKConfig)) else None


def _shapes(sae: Artifact, d_in: int, d_sae: int | None) -> Check:
    """Args: d_sae: None where an SAE that was trained elsewhere decides it."""
    shapes = tensor_shapes(sae.path / _WEIGHTS)
    if shapes is None:
        expected, wrong = "weights in the safetensors format", [f"{_WEIGHTS} has no readable header"]
    else:
        decoder = shapes.get("W_dec", [])
        n = d_sae if d_sae is not None else (decoder[0] if decoder else 0)
        d_out = decoder[-1] if decoder and "W_skip" in shapes else d_in
        right = {"W_enc": [d_in, n], "W_dec": [n, d_out], "b_dec": [d_out], "b_enc": [n]}
        # A gated SAE has two other biases in the place of b_enc.
        right = {name: shape for name, shape in right.items() if name != "b_enc" or "b_gate" not in shapes}
        expected = f"{d_in} x {n} (d_in x d_sae)"
        wrong = [
            f"{name} is {shapes.get(name, 'missing')}, expected {shape}"
            for name, shape in right.items()
            if shapes.get(name) != shape
        ]
    value = "" if shapes is None else " x ".join(map(str, shapes.get("W_enc", [])))
    remedy = "delete the folder of the artifact and materialize this partition again"
    return Check("shapes", not wrong, value, expected, remedy, {"wrong": ", ".join(wrong)})


def tensor_shapes(path: Path) -> dict[str, list[int]] | None:
    """Shapes of the tensors of a safetensors file, by name, from its header alone; None where it has none."""
    # The format: eight bytes of length, then that much JSON.
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, path.stat().st_size)))
        return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    except (OSError, struct.error, ValueError, AttributeError, KeyError, TypeError):
        return None
