"""How large a stable core chance alone gives: part of *consistency*."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from sae_core.consistency.core_edges import Edges, ascending
from sae_core.consistency.mutual_neighbours import MutualPairs, mutual_pairs_of
from sae_core.consistency.runs import Run
from sae_core.matching import rows_with_direction, unit_rows
from sae_core.matching.score_sources import UnitRows
from sae_core.progress import Progress, silent

_CHANCE_FEATURES, _MAX_DRAWS = 8192, 32
"""Small dictionaries are drawn until about so many features were looked at, at most so often."""


def chance_sizes(
    runs: Sequence[Run],
    taus: Sequence[float],
    signed: bool = False,
    n_draws: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Float[np.ndarray, "numbers levels"]:
    """Size of the stable core of independent dictionaries with the geometry of the runs.

    Every run is replaced by ``W V diag(s) V^T`` with V the eigenvectors of its second moment and s random signs of its
    own: its Gram matrix and second moment stay, duplicates and anisotropy included, and what it shares with the
    others is lost. (Not quite all in few dimensions, where a feature and its flipped counterpart have a cosine of
    spread about ``sqrt(3 / d_in)``: there the level is rather too high than too low.) The core of these counterparts
    is found as that of the runs, from their nearest neighbours: one product a pair, and no matching.

    In each draw counterparts join one by one in random order, until they have no core at any threshold, which counts
    as 0 for all larger numbers: a core of k runs holds at least two cores of k - 1 of them, so what is expected at k
    is at most k / 2 times what is expected at k - 1.

    Args:
        runs: at least two.
        taus: thresholds, ascending.
        signed: whether the cosine itself is the score.
        n_draws: None draws until 8,192 features were looked at, at most 32 times; 0 gives nan.
        seed: of the signs and the orders.
        progress: called before every product.

    Returns:
        Mean size over the draws for each number of runs from 2 on, and each threshold.
    """
    n_runs, levels = len(runs), ascending(taus)
    if n_draws is None:
        n_draws = int(np.clip(_CHANCE_FEATURES // min(len(run.W_dec) for run in runs), 1, _MAX_DRAWS))
    sizes = np.zeros((n_draws, n_runs - 1, len(levels)))
    counterparts = _Counterparts(runs, seed)
    n_products = n_draws * n_runs * (n_runs - 1) // 2
    for draw in range(n_draws):

        def step(done: int, draw: int = draw) -> None:
            text = f"stable core by chance, draw {draw + 1} of {n_draws}"
            progress(draw * n_products // n_draws + done, n_products, text)

        for place, values in enumerate(_draw(counterparts, levels, signed, step)):
            sizes[draw, place] = values
    return sizes.mean(axis=0) if n_draws else np.full((n_runs - 1, len(levels)), np.nan)


class _Counterparts:
    """Random dictionaries of the geometry of the runs."""

    def __init__(self, runs: Sequence[Run], seed: int) -> None:
        self._runs, self._generator = runs, torch.Generator().manual_seed(seed)
        self._axes: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def order(self) -> list[int]:
        """A random order of the runs."""
        order: list[int] = torch.randperm(len(self._runs), generator=self._generator).tolist()
        return order

    def draw(self, number: int) -> Float32[Tensor, "n d_in"]:
        """A counterpart of one run: unit rows, in the order of its rows with a direction."""
        if number not in self._axes:
            run = self._runs[number]
            rows = torch.from_numpy(rows_with_direction(run.W_dec, run.name))
            unit = unit_rows(torch.as_tensor(run.W_dec), rows, torch.float32)
            self._axes[number] = unit, torch.linalg.eigh(unit.T.double() @ unit.double())[1].float()
        unit, axes = self._axes[number]
        signs = torch.randint(0, 2, (unit.shape[1],), generator=self._generator).to(unit) * 2 - 1
        return unit @ ((axes * signs) @ axes.T)


def _draw(
    counterparts: _Counterparts, levels: Float[np.ndarray, " levels"], signed: bool, step: Callable[[int], None]
) -> Iterator[Int64[np.ndarray, " levels"]]:
    """Sizes of the core of 2, 3, ... counterparts; ends when there is none at any level."""
    there: list[Tensor] = []
    found: dict[tuple[int, int], MutualPairs] = {}
    done = 0
    for number in counterparts.order():
        there.append(counterparts.draw(number))
        new = len(there) - 1
        for other in range(new):
            step(done)
            found[other, new] = mutual_pairs_of(UnitRows(there[other], there[new], signed), float(levels[0]))
            done += 1
        if new:
            edges = Edges([len(rows) for rows in there], found, levels)
            sizes = edges.core_sizes(range(len(there)))
            yield sizes
            if not sizes.any():
                return
