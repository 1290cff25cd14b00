"""What chance alone scores: the floors beside every MCC, for *consistency*.

Raw MCC has a large floor, since the best of many random directions is rarely far away. The isotropic null is what two
dictionaries of uniformly random directions score; the second-moment null gives such directions the anisotropy of the
real dictionaries; the sign-flip null keeps the Gram matrix of a real dictionary, so that duplicates, clusters and
anisotropy stay, and only the relation to the other dictionary is lost.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import quad
from scipy.optimize import linear_sum_assignment
from scipy.special import betainc, betaincinv
from torch import Tensor
from torch.nn.functional import normalize

from sae_core.matching import DENSE_PAIRS, Matching, match, rows_with_direction, unit_rows

FIT_FROM_FEATURES, FIT_FROM_WIDTH = 256, 32
"""From so many features and dimensions on, the isotropic MCC null is a closed form; below, it is simulated."""
_FIT_CONSTANT = 0.95
_SIMULATED_FEATURES = 16_384


def null_mcc(n: int, d: int, n_other: int | None = None, seed: int = 0) -> float:
    """Expected MCC of two independent dictionaries of uniformly random directions (N0), in (0, 1].

    The squared cosine of two such directions is Beta(1/2, (d-1)/2) distributed. For square problems of at least
    256 features in at least 32 dimensions the value is ``sqrt(Iinv_{1 - 0.95/n}(1/2, (d-1)/2))``, a fit to simulations
    that is off by at most 0.002 (in fewer dimensions by up to 0.012). A single
    feature is exact, by :func:`null_mmcs`. Anything else is simulated and matched exactly,
    with so many draws that about 16,384 matched pairs are averaged.

    Args:
        n: features of one dictionary.
        d: width, ``d_in``.
        n_other: features of the other dictionary; None for equally many.
        seed: of the simulation.

    Raises:
        ValueError: if a size is not positive.
    """
    other = n if n_other is None else n_other
    if min(n, other, d) < 1:
        raise ValueError(f"sizes must be positive: got n={n}, n_other={n_other}, d={d}")
    if d == 1:
        return 1.0
    if n == other and n >= FIT_FROM_FEATURES and d >= FIT_FROM_WIDTH:
        return float(np.sqrt(betaincinv(0.5, (d - 1) / 2, 1 - _FIT_CONSTANT / n)))
    if min(n, other) == 1:
        return null_mmcs(max(n, other), d)
    n_draws = max(1, _SIMULATED_FEATURES // min(n, other))
    return _simulated_mcc(n, other, d, n_draws, torch.Generator().manual_seed(seed))


def mean_null_mcc(sizes: Sequence[tuple[int, int]], d: int, seed: int = 0) -> float:
    """Mean of :func:`null_mcc` over pairs of dictionaries with so many features each; every size is drawn once."""
    ordered = [(min(pair), max(pair)) for pair in sizes]
    known = {size: null_mcc(size[0], d, size[1], seed) for size in sorted(set(ordered))}
    return float(np.mean([known[size] for size in ordered]))


def null_mmcs(n: int, d: int) -> float:
    """Expected largest absolute cosine of a direction with ``n`` random directions in ``d`` dimensions, exact.

    ``integral over t in [0, 1] of 1 - F(t)^n`` with ``F(t) = I_{t^2}(1/2, (d-1)/2)``: the isotropic null of the mean
    max cosine similarity (MMCS).

    Raises:
        ValueError: if a size is not positive.
    """
    if min(n, d) < 1:
        raise ValueError(f"sizes must be positive: got n={n}, d={d}")
    if d == 1:
        return 1.0

    def survival(t: float) -> float:
        return float(1 - betainc(0.5, (d - 1) / 2, t * t) ** n)

    # The integrand falls from 1 to 0 in a narrow band around the median of the maximum: quad is told where.
    median = float(np.sqrt(betaincinv(0.5, (d - 1) / 2, 0.5 ** (1 / n))))
    value, _ = quad(survival, 0, 1, points=[median / 2, median, (1 + median) / 2], limit=200, epsabs=1e-10)
    return float(value)


def _simulated_mcc(n: int, other: int, d: int, n_draws: int, generator: torch.Generator) -> float:
    """Mean MCC over draws of two Gaussian dictionaries; small problems are drawn many at a time."""
    at_once = min(n_draws, DENSE_PAIRS // (max(n, other) * max(n, other, d)))
    if at_once <= 1:
        pairs = ([torch.randn(size, d, generator=generator) for size in (n, other)] for _ in range(n_draws))
        return float(np.mean([match(a, b).mcc for a, b in pairs]))
    values: list[float] = []
    while len(values) < n_draws:
        a = normalize(torch.randn(at_once, n, d, generator=generator, dtype=torch.float64), dim=2)
        b = normalize(torch.randn(at_once, other, d, generator=generator, dtype=torch.float64), dim=2)
        for cosines in (a @ b.transpose(1, 2)).abs().numpy():
            values.append(float(cosines[linear_sum_assignment(cosines, maximize=True)].mean()))
    return float(np.mean(values[:n_draws]))


def second_moment_matchings(
    W_a: Float[Tensor | np.ndarray, "n_a d_a"],
    W_b: Float[Tensor | np.ndarray, "n_b d_b"],
    n_draws: int,
    seed: int,
    time_budget_s: float | None = None,
) -> Iterator[Matching]:
    """Matchings of random counterparts of A and B: Gaussian rows with the second moments of A's and B's unit rows (N1).

    Rows of A' are drawn from ``N(0, M_A)``, ``M_A = (1/n) sum_i a_i a_i^T``, not centred, so a direction that all
    rows share comes back as an axis of large spread; likewise B'. Both have as many rows as the originals have with a
    direction.

    Raises:
        ValueError: if there is no draw, or as :func:`sae_core.matching.match` does.
    """
    _check_draws(n_draws)
    roots = [_second_moment_root(W, name) for W, name in ((W_a, "left"), (W_b, "right"))]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n_draws):
        a, b = (torch.randn(n, len(root), generator=generator).to(root) @ root for n, root in roots)
        yield match(a, b, time_budget_s=time_budget_s)


def second_moment_null(
    W_a: Float[Tensor | np.ndarray, "n_a d_a"], W_b: Float[Tensor | np.ndarray, "n_b d_b"], n_draws: int, seed: int
) -> float:
    """Mean MCC of random dictionaries with the second moments of A and B; see :func:`second_moment_matchings`."""
    return float(np.mean([matching.mcc for matching in second_moment_matchings(W_a, W_b, n_draws, seed)]))


def sign_flip_matchings(
    W_a: Float[Tensor | np.ndarray, "n_a d_a"],
    W_b: Float[Tensor | np.ndarray, "n_b d_b"],
    n_draws: int,
    seed: int,
    time_budget_s: float | None = None,
) -> Iterator[Matching]:
    """Matchings of A with random counterparts of B that have exactly the Gram matrix and the second moment of B (N3).

    With V the eigenvectors of ``(1/n) sum_j b_j b_j^T`` over the unit rows of B and s a random sign vector,
    ``B' = B V diag(s) V^T``. A uniformly random rotation would not do: it spreads an anisotropic dictionary over all
    directions and so reports too low a chance level.

    Raises:
        ValueError: if there is no draw, or as :func:`sae_core.matching.match` does.
    """
    _check_draws(n_draws)
    b = unit_rows(torch.as_tensor(W_b), torch.from_numpy(rows_with_direction(W_b, "right")))
    _, eigenvectors = torch.linalg.eigh(b.T @ b / len(b))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n_draws):
        signs = torch.randint(0, 2, (b.shape[1],), generator=generator).to(b) * 2 - 1
        flipped = b @ (eigenvectors * signs) @ eigenvectors.T
        yield match(W_a, flipped, time_budget_s=time_budget_s)


def sign_flip_null(
    W_a: Float[Tensor | np.ndarray, "n_a d_a"], W_b: Float[Tensor | np.ndarray, "n_b d_b"], n_draws: int, seed: int
) -> float:
    """Mean MCC of A with sign-flipped counterparts of B, in [0, 1]; see :func:`sign_flip_matchings`."""
    return float(np.mean([matching.mcc for matching in sign_flip_matchings(W_a, W_b, n_draws, seed)]))


def chance_corrected(mcc: float, null: float) -> float:
    """``kappa = (mcc - null) / (1 - null)``: 1 for identical dictionaries, 0 at chance, negative below it.

    Raises:
        ValueError: if the null is not below 1, where nothing can be better than chance.
    """
    if not null < 1:
        raise ValueError(f"a chance level must be below 1 to be corrected for: got {null}")
    return (mcc - null) / (1 - null)


def _check_draws(n_draws: int) -> None:
    if n_draws < 1:
        raise ValueError(f"a null needs at least one draw: got n_draws={n_draws}")


def _second_moment_root(W: Tensor | np.ndarray, name: str) -> tuple[int, Float[Tensor, "d d"]]:
    """Number of rows with a direction, and the symmetric root of their second moment, float32."""
    unit = unit_rows(torch.as_tensor(W), torch.from_numpy(rows_with_direction(W, name)))
    values, vectors = torch.linalg.eigh(unit.T @ unit / len(unit))
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return len(unit), root.float()
