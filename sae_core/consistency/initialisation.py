"""Whether runs started from the same weights: then they are not independent, and PW-MCC says little. Of *consistency*.

Two signs. Decoders at step 0 that agree more than uniformly random directions do. And, without them, features matched
to the feature with the same number: training leaves a feature where it was initialised, and nothing else links the
numbers of two runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import pdtrc

from sae_core.config import Result
from sae_core.consistency.nulls import null_mcc
from sae_core.consistency.runs import Run
from sae_core.matching import Matching, match
from sae_core.progress import Progress, silent

SAME_INDEX_P = 1e-3
"""Probability, by chance, from which so many features matched to their own number are taken for a sign."""
NULL_ERROR = 0.002
"""How wrong the fitted chance level may be; see :func:`sae_core.consistency.nulls.null_mcc`."""
STANDARD_ERRORS = 4
"""Untrained decoders are above chance when they are so many standard errors above it."""


class Initialisation(Result):
    """What is known about the start of the runs."""

    shared: bool
    """Whether runs look as if they started from the same weights."""
    reason: str
    """What that rests on."""
    untrained: float | None
    """PW-MCC of the decoders at step 0; None when one is not known."""
    untrained_reason: str | None
    """Why there is none."""
    n_same_index: int
    """Matched features with the same number, over all pairs of runs."""
    n_same_index_expected: float
    """The number expected of independent runs."""
    same_index_p: float
    """Probability of at least so many when runs are independent."""
    stopped: list[str]
    """Matchings at step 0 that ended before the proof, and why; ``untrained`` is a lower bound then."""


def check_initialisation(
    runs: Sequence[Run],
    matchings: Mapping[tuple[int, int], Matching],
    seed: int = 0,
    time_budget_s: float | None = None,
    progress: Progress = silent,
) -> Initialisation:
    """Look for an initialisation that runs share.

    With the decoders of all runs at step 0, a pair of runs shares its start when their MCC is above that of random
    directions (N0) by more than four standard errors, ``sd / sqrt(n)`` over the matched pairs, and the error of the
    fitted N0. Otherwise the matched features with the same number decide: independent runs have about
    Poisson(matched / features of the larger run) of them a pair.

    Args:
        runs: at least two.
        matchings: absolute, of the trained decoders, for pairs of places among the runs.
        seed: of the simulated N0 of small dictionaries.
        time_budget_s: of one matching.
        progress: called before every matching.

    Raises:
        ValueError: as :func:`sae_core.matching.match` does, naming the run and "at step 0".
    """
    n_same = sum(int((found.left == found.right).sum()) for found in matchings.values())
    expected = sum(len(found.left) / max(_n_directions(found)) for found in matchings.values())
    p = float(pdtrc(n_same - 1, expected) if n_same else 1.0)
    same = f"{n_same:,} matched features have the same number in both runs, independent runs have about {expected:.3g}"
    unknown = [run.name for run in runs if run.initial is None]
    start = None if unknown else _match_untrained(runs, seed, time_budget_s, progress)
    if start is None:
        untrained_reason = f"no decoder at step 0 for {', '.join(unknown)}"
        shared, reason = p < SAME_INDEX_P, f"{same} (probability {p:.2g}); {untrained_reason}"
    else:
        untrained_reason, shared = None, bool(start.above)
        found = "; ".join(start.above)
        reason = f"at step 0 above chance: {found}" if found else "at step 0 all pairs of runs are at chance"
        reason += f"; {same}"
    return Initialisation(
        shared=shared,
        reason=reason,
        untrained=start.pw_mcc if start else None,
        untrained_reason=untrained_reason,
        n_same_index=n_same,
        n_same_index_expected=expected,
        same_index_p=p,
        stopped=start.stopped if start else [],
    )


@dataclass(frozen=True)
class _Untrained:
    pw_mcc: float
    above: list[str]
    """Pairs of runs that are above chance, in words."""
    stopped: list[str]


def _match_untrained(runs: Sequence[Run], seed: int, time_budget_s: float | None, progress: Progress) -> _Untrained:
    values, above, stopped = [], [], []
    chances: dict[tuple[int, int], float] = {}
    pairs = list(combinations(runs, 2))
    for number, (left, right) in enumerate(pairs):
        names = (f"{left.name} at step 0", f"{right.name} at step 0")
        progress(number, len(pairs), f"matching {' and '.join(names)}")
        if left.initial is None or right.initial is None:
            raise ValueError(f"{' and '.join(names)}: the decoder at step 0 is needed of both")
        found = match(left.initial, right.initial, names=names, time_budget_s=time_budget_s)
        n, n_other = sorted(_n_directions(found))
        if (n, n_other) not in chances:
            chances[n, n_other] = null_mcc(n, left.initial.shape[1], n_other, seed)
        chance = chances[n, n_other]
        error = STANDARD_ERRORS * float(found.score.std()) / np.sqrt(len(found.left)) + NULL_ERROR
        values.append(found.mcc)
        if found.mcc > chance + error:
            above.append(f"{left.name} and {right.name} have {found.mcc:.4g}, chance gives {chance:.4g}")
        if found.stopped:
            stopped.append(f"{' and '.join(names)}: {found.stopped}")
    return _Untrained(float(np.mean(values)), above, stopped)


def _n_directions(found: Matching) -> tuple[int, int]:
    """Features of either run that are not rows of zeros."""
    return len(found.best_left) - found.n_excluded_left, len(found.best_right) - found.n_excluded_right
