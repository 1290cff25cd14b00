"""Runs made of a known dictionary, for tests of the stable core and of the consensus."""

from itertools import combinations

import numpy as np

from sae_core.consistency.runs import Run
from sae_core.matching import Matching, match


def unit(W: np.ndarray) -> np.ndarray:
    return W / np.linalg.norm(W, axis=1, keepdims=True)


def named(*dictionaries: np.ndarray) -> list[Run]:
    return [Run(f"seed {number}", W) for number, W in enumerate(dictionaries)]


def matched(runs: list[Run], signed: bool = False) -> dict[tuple[int, int], Matching]:
    return {(i, j): match(runs[i].W_dec, runs[j].W_dec, signed) for i, j in combinations(range(len(runs)), 2)}


def planted(n_runs: int, seed: int, n: int = 30, d: int = 10, noise: float = 0.5) -> list[Run]:
    """Runs of different widths that share most features, with noise, permuted, scaled and flipped."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, d))
    made = []
    for number in range(n_runs):
        found = shared[rng.random(n) < 0.9]
        W = np.concatenate([found + noise * rng.standard_normal(found.shape), rng.standard_normal((number, d))])
        scale = rng.choice([-1.0, 1.0], (len(W), 1)) * rng.uniform(0.5, 2, (len(W), 1))
        made.append((scale * W)[rng.permutation(len(W))])
    return named(*made)


def truth_and_runs(
    n_runs: int,
    seed: int = 0,
    n_true: int = 60,
    n_junk: int = 20,
    d: int = 32,
    noise: float = 0.4,
    missing: float = 0.1,
) -> tuple[np.ndarray, list[Run]]:
    """A dictionary, and runs that have most of its features with independent noise, and features of their own."""
    rng = np.random.default_rng(seed)
    truth, made = unit(rng.standard_normal((n_true, d))), []
    for _ in range(n_runs):
        found = rng.random(n_true) >= missing
        seen = truth[found] + noise * rng.standard_normal((found.sum(), d)) / np.sqrt(d)
        W = np.concatenate([seen, unit(rng.standard_normal((n_junk + (~found).sum(), d)))])
        scale = rng.choice([-1.0, 1.0], (len(W), 1)) * rng.uniform(0.5, 2, (len(W), 1))
        made.append((scale * W)[rng.permutation(len(W))])
    return truth, named(*made)
