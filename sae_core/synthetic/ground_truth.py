"""The true dictionary beside runs, refused where it is none or not theirs. Part of the *synthetic* stage."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from sae_core.consistency import Run
from sae_core.matching import Matching


def checked_truth(runs: Sequence[Run], truth: Float[np.ndarray, "d_gt d_in"] | None) -> Float[np.ndarray, "d_gt d_in"]:
    """The truth, if it can be that of the runs.

    Raises:
        ValueError: if there is none, or it is of another width.
    """
    if truth is None:
        raise ValueError(
            "expected the true dictionary (d_gt, d_in), got None: only synthetic data have a ground truth; pass "
            "SyntheticData(config).dictionary.numpy(), or compare runs with each other (sae_core.consistency)"
        )
    for run in runs:
        if run.W_dec.shape[1] != truth.shape[1]:
            raise ValueError(
                f"{run.name} and the ground truth must have the same d_in: got {run.W_dec.shape[1]} and "
                f"{truth.shape[1]}; pass the dictionary of the data that this run was trained on"
            )
    return truth


def check_matchings_with_truth(runs: Sequence[Run], of_truth: Sequence[Matching], d_gt: int) -> None:
    """Refuse matchings that are not those of these runs with a truth of so many features.

    Raises:
        ValueError: if there are more or fewer than runs, or one is of other sizes.
    """
    if len(of_truth) != len(runs):
        raise ValueError(f"expected a matching of each of the {len(runs)} runs with the truth, got {len(of_truth)}")
    for run, found in zip(runs, of_truth, strict=True):
        expected, got = (len(run.W_dec), d_gt), (len(found.best_left), len(found.best_right))
        if got != expected:
            raise ValueError(
                f"expected a matching of the {expected[0]} features of {run.name} with {expected[1]} true ones, got "
                f"one of {got[0]} with {got[1]}; pass the matchings that recover() made of these runs"
            )


def n_recovered(found: Matching, tau: float) -> int:
    """True features whose matched cosine reaches tau."""
    return int((found.score >= tau).sum())
