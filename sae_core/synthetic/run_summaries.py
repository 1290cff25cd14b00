"""What recovers more of the truth: one run, the best, the medoid, or the consensus. Part of the *synthetic* stage."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

from sae_core.consistency import Consensus, Run
from sae_core.consistency.mutual_neighbours import Matchings, check_matchings
from sae_core.matching import Matching, match
from sae_core.synthetic.ground_truth import check_matchings_with_truth, checked_truth, n_recovered
from sae_core.synthetic.results import Summaries


def what_recovers(
    runs: Sequence[Run],
    matchings: Matchings,
    truth: Float[np.ndarray, "d_gt d_in"] | None,
    of_truth: Sequence[Matching],
    common: Consensus,
    tau: float = 0.9,
) -> Summaries:
    """What stands for several runs best: shares of the true features that are recovered, GT-MCC and precision.

    A true feature is recovered when its matched absolute cosine reaches tau. Shares are of all ``d_gt`` true features,
    so a consensus of few features cannot win by leaving out; its precision is of its own features. The medoid is the
    run with the largest mean MCC with the others.

    Args:
        runs: those of the consensus, in its order.
        matchings: of every pair of places i < j.
        truth: true features, one a row; None is refused.
        of_truth: the matching of each run (left) with the truth (right), as
            :func:`sae_core.synthetic.recovery.recover` makes it.
        common: the consensus of the runs.
        tau: cosine from which a true feature counts as recovered.

    Raises:
        ValueError: if there is no truth or it has another width, or if the matchings or the consensus are not those
            of the runs.
    """
    truth = checked_truth(runs, truth)
    check_matchings(runs, matchings)
    check_matchings_with_truth(runs, of_truth, len(truth))
    names = tuple(run.name for run in runs)
    if common.runs != names:
        raise ValueError(
            f"expected the consensus of {', '.join(names)}, got that of {', '.join(common.runs)}; pass that of "
            "the same runs, in the same order"
        )
    n_found = np.array([n_recovered(found, tau) for found in of_truth])
    gt_mccs = np.array([found.mcc for found in of_truth])
    share, best, medoid = n_found / len(truth), int(gt_mccs.argmax()), _medoid(matchings, len(runs))
    together = match(common.W_dec, truth, names=("the consensus", "the ground truth")) if common.n_features else None
    n_together = n_recovered(together, tau) if together else 0
    return Summaries(
        tau=tau,
        mean_run=float(share.mean()),
        best_run=float(share[best]),
        medoid=float(share[medoid]),
        consensus=n_together / len(truth),
        mean_run_gt_mcc=float(gt_mccs.mean()),
        best_run_gt_mcc=float(gt_mccs[best]),
        medoid_gt_mcc=float(gt_mccs[medoid]),
        consensus_gt_mcc=together.mcc if together else None,
        consensus_features=common.n_features,
        consensus_precision=n_together / common.n_features if common.n_features else None,
        mean_run_precision=float((n_found / [len(run.W_dec) for run in runs]).mean()),
    )


def pair_values(matchings: Matchings, n_runs: int) -> Float64[np.ndarray, "runs others"]:
    """MCC of every two runs, symmetric; nan on the diagonal."""
    values = np.full((n_runs, n_runs), np.nan)
    for (a, b), found in matchings.items():
        values[a, b] = values[b, a] = found.mcc
    return values


def _medoid(matchings: Matchings, n_runs: int) -> int:
    """The first of equals; rounded, since the order of a sum must not decide."""
    return int(np.round(np.nansum(pair_values(matchings, n_runs), axis=1), 12).argmax())
