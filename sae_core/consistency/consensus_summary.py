"""The consensus as numbers and as a table: what *consistency* writes of it."""

import numpy as np
import pyarrow as pa

from sae_core.config import Result
from sae_core.consistency.consensus_dictionary import Consensus
from sae_core.consistency.group_comparison import DisjointGroups, no_groups_reason


class ConsensusSummary(Result):
    """The dictionary of features that most runs found, and whether it is worth more than a run."""

    n_features: int
    """Features of the consensus; 0 when the runs share nothing."""
    medoid: str
    """The run that agrees best with the others: the others were matched to it first, and its features are those that
    the consensus can have."""
    tau: float
    """Least cosine of a member with the most central one."""
    min_support: int
    """Runs that must have a feature."""
    mean_support: float | None
    """Runs that have a feature, mean over features; None without features."""
    n_full_support: int
    """Features that all runs have."""
    mean_spread: float | None
    """One minus the mean cosine of two members of a feature (signs aligned), mean over features; None without
    features."""
    n_opposed: int
    """Members that point the other way. They count for the direction, but not for the encoder of the consensus SAE,
    since a ReLU feature fires on one side of its axis only."""
    has_encoder: bool
    """Whether all runs had an encoder."""
    n_rounds: int
    """Times that the runs were matched: to the medoid, then to the consensus."""
    converged: bool
    """Whether the last round changed nothing."""
    certified: bool
    """Whether every matching that was made is proven optimal."""
    disjoint_groups: DisjointGroups | None
    """Consensuses of disjoint groups of runs against single runs."""
    disjoint_groups_reason: str | None
    """Why these were not compared."""


def consensus_summary(
    consensus: Consensus, groups: DisjointGroups | None = None, groups_reason: str | None = None
) -> ConsensusSummary:
    """The numbers of a consensus.

    Args:
        groups: as :func:`sae_core.consistency.group_comparison.disjoint_groups` gives it.
        groups_reason: why there are none; None says what that function means by None.
    """
    n = consensus.n_features
    return ConsensusSummary(
        n_features=n,
        medoid=consensus.runs[consensus.medoid],
        tau=consensus.tau,
        min_support=consensus.min_support,
        mean_support=float(consensus.support.mean()) if n else None,
        n_full_support=int((consensus.support == len(consensus.runs)).sum()),
        mean_spread=float(consensus.spread.mean()) if n else None,
        n_opposed=consensus.n_opposed,
        has_encoder=consensus.W_enc is not None,
        n_rounds=consensus.n_rounds,
        converged=consensus.converged,
        certified=consensus.certified,
        disjoint_groups=groups,
        disjoint_groups_reason=None if groups else groups_reason or no_groups_reason(len(consensus.runs)),
    )


def consensus_table(consensus: Consensus) -> pa.Table:
    """One row a feature: ``feature``, ``spread``, ``support``, and for each run ``member_<name>``, the feature's row
    there, and ``cosine_<name>``, its cosine with the consensus; null where the run does not have the feature."""
    columns = {
        "feature": pa.array(np.arange(consensus.n_features), pa.int64()),
        "spread": pa.array(consensus.spread, pa.float64()),
        "support": pa.array(consensus.support, pa.int64()),
    }
    for number, name in enumerate(consensus.runs):
        missing = consensus.members[:, number] < 0
        columns[f"member_{name}"] = pa.array(consensus.members[:, number], pa.int64(), mask=missing)
        columns[f"cosine_{name}"] = pa.array(consensus.cosine[:, number], pa.float64(), mask=missing)
    return pa.table(columns)
