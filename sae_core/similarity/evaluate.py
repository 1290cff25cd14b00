"""One measure over the matched pairs of all pairs of runs, their decoys and their shuffled partners."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from sae_core.config import SimilarityConfig
from sae_core.progress import Progress
from sae_core.similarity.decoys import draw_decoys, shuffle_partners
from sae_core.similarity.draws import pair_rng
from sae_core.similarity.matched_pairs import MatchedPairs
from sae_core.similarity.measures import FeaturePairs, Measure

_DEAD = "not alive in both runs"


@dataclass(frozen=True)
class Measured:
    """The similarity of the matched pairs of two runs that were asked for (nan: missing)."""

    pairs: MatchedPairs
    rows: Int64[np.ndarray, " n"]
    """Which matched pairs; what follows is of these."""
    similarity: Float64[np.ndarray, " n"]
    reason: np.ndarray
    """(n,) text: why there is none; None where there is."""
    decoy: Float64[np.ndarray, "n decoys"]
    shuffled: Float64[np.ndarray, "used shuffled"]
    """Of the used pairs, to the partner of another one; no column where that was not measured."""

    @property
    def used(self) -> Bool[np.ndarray, " n"]:
        """Whether there is a similarity."""
        return np.asarray(~np.isnan(self.similarity))

    @property
    def mean_decoy(self) -> Float64[np.ndarray, " n"]:
        """Mean over a pair's decoys; nan without any."""
        known = ~np.isnan(self.decoy)
        count = known.sum(axis=1)
        total = np.where(known, self.decoy, 0.0).sum(axis=1)
        return np.asarray(np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0))


def evaluate(
    measure: Measure,
    pairs: Sequence[MatchedPairs],
    rows: Sequence[Int64[np.ndarray, " _"]],
    config: SimilarityConfig,
    progress: Progress,
) -> list[Measured]:
    """Measure matched pairs, and beside each that has a value its decoys and its shuffled partner.

    Args:
        rows: which matched pairs of each pair of runs.
    """
    alive = [asked[pair.alive[asked]] for pair, asked in zip(pairs, rows, strict=True)]
    matched = measure.score([_features(p, own, own) for p, own in zip(pairs, alive, strict=True)], progress)
    used = [own[~np.isnan(scores.value)] for own, scores in zip(alive, matched, strict=True)]
    n_decoys = 1 if measure.costly else config.n_decoys
    decoys = [_decoys(measure, p, own, n_decoys, config.seed) for p, own in zip(pairs, used, strict=True)]
    against = _score_drawn(measure, pairs, used, decoys, progress)
    partners = [_partners(measure, p, own, n_decoys, config.seed) for p, own in zip(pairs, used, strict=True)]
    shuffled = _score_drawn(measure, pairs, used, partners, progress)
    return [
        Measured(
            pairs=pairs[i],
            rows=rows[i],
            similarity=_spread(rows[i], alive[i], matched[i].value, np.nan),
            reason=_spread(rows[i], alive[i], matched[i].reason, _DEAD),
            decoy=_spread(rows[i], used[i], against[i], np.nan),
            shuffled=shuffled[i],
        )
        for i in range(len(pairs))
    ]


def _features(pairs: MatchedPairs, rows: Int64[np.ndarray, " n"], partners: Int64[np.ndarray, " n"]) -> FeaturePairs:
    """The first features of some matched pairs beside the second ones of others."""
    return FeaturePairs(pairs.run_a, pairs.run_b, pairs.left[rows], pairs.right[partners])


def _decoys(
    measure: Measure, pairs: MatchedPairs, used: Int64[np.ndarray, " n"], n_decoys: int, seed: int
) -> Int64[np.ndarray, "n decoys"]:
    """Matched pairs whose second features are decoys. All that the measure knows may be, asked for or not."""
    pool = np.flatnonzero(pairs.alive & measure.known(pairs.run_b, pairs.right))
    rng = pair_rng(seed, pairs.run_a, pairs.run_b, "decoys")
    return draw_decoys(pairs.frequency_b, pool, used, n_decoys, rng)


def _partners(
    measure: Measure, pairs: MatchedPairs, used: Int64[np.ndarray, " n"], n_decoys: int, seed: int
) -> Int64[np.ndarray, "n shuffled"]:
    """Matched pairs whose second features are the shuffled partners; no column where every number is paid for."""
    if measure.costly:
        return np.zeros((len(used), 0), np.int64)
    rng = pair_rng(seed, pairs.run_a, pairs.run_b, "shuffled")
    found = shuffle_partners(pairs.frequency_b[used], n_decoys, rng)
    return np.where(found >= 0, used[found], -1)[:, None]


def _score_drawn(
    measure: Measure,
    pairs: Sequence[MatchedPairs],
    rows: Sequence[Int64[np.ndarray, " _"]],
    drawn: Sequence[Int64[np.ndarray, "_ _"]],
    progress: Progress,
) -> list[Float64[np.ndarray, "_ _"]]:
    """Similarity of the first features of ``rows`` to the second ones of what was drawn; nan where nothing was."""
    found = [np.full(one.shape, np.nan) for one in drawn]
    there = [one >= 0 for one in drawn]
    if not any(one.any() for one in there):
        return found
    asked = [
        _features(pair, np.broadcast_to(own[:, None], one.shape)[which], one[which])
        for pair, own, one, which in zip(pairs, rows, drawn, there, strict=True)
    ]
    for values, which, scores in zip(found, there, measure.score(asked, progress), strict=True):
        values[which] = scores.value
    return found


def _spread(
    rows: Int64[np.ndarray, " n"], some: Int64[np.ndarray, " m"], values: np.ndarray, elsewhere: object
) -> np.ndarray:
    """(n, ...) values at the places of ``some``, which are among ``rows``; both ascending."""
    out = np.full((len(rows), *values.shape[1:]), elsewhere, values.dtype)
    out[np.searchsorted(rows, some)] = values
    return out
