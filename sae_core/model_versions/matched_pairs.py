"""Every run of one version matched with every run of another. Part of *model versions*."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float

from sae_core.config import ConsistencyConfig
from sae_core.consistency.nulls import sign_flip_matchings
from sae_core.consistency.pairs import NullDraws, histogram_edges
from sae_core.matching import Matching, match
from sae_core.model_versions.version_runs import NotComparable, VersionRuns
from sae_core.progress import Progress


@dataclass(frozen=True)
class AcrossPair:
    """A run of the old version matched with one of the new."""

    old: str
    new: str
    found: Matching
    null: NullDraws | None
    """The sign-flip null; None when it is not drawn."""

    @property
    def same_seed(self) -> bool:
        """Whether both have the same seed."""
        return self.old == self.new


def width_of(old: VersionRuns, new: VersionRuns) -> int:
    """Width of all decoders.

    Raises:
        NotComparable: if they have another width in one version than in the other.
    """
    widths = [{W_dec.shape[1] for W_dec in version.dictionaries.values()} for version in (old, new)]
    if widths[0] != widths[1] or len(widths[0]) != 1:
        sides = [", ".join(map(str, sorted(each))) for each in widths]
        raise NotComparable(
            f"the decoders of the earlier version are {sides[0]} wide, those of the current one {sides[1]}: cosines "
            "need one width, so a model of another size has other features by construction"
        )
    return int(widths[0].pop())


def matched_pairs(
    old: VersionRuns, new: VersionRuns, config: ConsistencyConfig, progress: Progress
) -> Iterator[AcrossPair]:
    """Every run of the old version matched with every run of the new one, the new ones running fastest.

    Raises:
        ValueError: as :func:`sae_core.matching.match` does.
    """
    pairs = list(product(old.names, new.names))
    for number, (a, b) in enumerate(pairs):
        names = (f"{a} of the old version", f"{b} of the new version")
        progress(number, len(pairs), f"matching {' and '.join(names)}")
        W_a, W_b = old.dictionaries[a], new.dictionaries[b]
        found = match(W_a, W_b, names=names, time_budget_s=config.time_budget_s)
        yield AcrossPair(a, b, found, _draw(W_a, W_b, config, number))
    progress(len(pairs), len(pairs), f"{len(pairs)} pairs of runs matched across two versions")


def _draw(
    W_a: Float[np.ndarray, "n_a d"], W_b: Float[np.ndarray, "n_b d"], config: ConsistencyConfig, number: int
) -> NullDraws | None:
    """The sign-flip null of one pair, as *consistency* draws it."""
    if config.n_null_draws == 0:
        return None
    seed = int(np.random.SeedSequence([config.seed, number, 2]).generate_state(1)[0])
    edges = histogram_edges(config.n_histogram_bins)
    found = list(sign_flip_matchings(W_a, W_b, config.n_null_draws, seed, config.time_budget_s))
    return NullDraws(
        mcc=float(np.mean([null.mcc for null in found])),
        upper_bound=float(np.mean([null.upper_bound for null in found])),
        counts=np.mean([np.histogram(null.score, edges)[0] for null in found], axis=0),
        certified=all(null.certified for null in found),
        stopped=tuple(null.stopped for null in found if null.stopped),
    )
