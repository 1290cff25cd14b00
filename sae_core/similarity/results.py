"""What *similarity* reports: frozen records, written as JSON and Parquet."""

from dataclasses import dataclass

import pyarrow as pa

from sae_core.config import Result
from sae_core.consistency.statistics import Interval
from sae_core.similarity_statistics import SimilarityBin


class RunPairSimilarity(Result):
    """The statistics of one pair of runs; None where too few matched pairs have a similarity."""

    run_a: str
    run_b: str
    n_matched: int
    n_used: int
    rho_partial: float | None
    rho: float | None
    mean_similarity: float | None
    mean_decoy: float | None
    lift: float | None
    auc: float | None


class SimilaritySummary(Result):
    """Explanation similarity of matched features; means are over the pairs of runs that have a value."""

    rho_partial: float | None
    """Spearman correlation of |cosine| and similarity given log frequency, in [-1, 1]: the primary statistic."""
    rho_partial_ci: Interval | None
    """Jackknife interval with the runs as units; None for two runs, or where a pair of runs has no value."""
    rho: float | None
    """The raw Spearman correlation, which frequency confounds."""
    rho_ci: Interval | None
    lift: float | None
    """Mean similarity of matched pairs minus that of their decoys."""
    lift_ci: Interval | None
    auc: float | None
    """Probability that a matched pair is more alike than a decoy, in [0, 1]; 0.5 is chance."""
    mean_similarity: float | None
    """Cosine of sentence embeddings, in [-1, 1]."""
    mean_decoy: float | None
    noise_ceiling: float | None
    """Mean similarity of one feature's own two explanations, one from each half: what a perfect match can reach."""
    n_runs: int
    n_matched: int
    """Matched pairs, all pairs of runs together."""
    n_used: int
    """Those that have a similarity."""
    missing: dict[str, int]
    """Matched pairs without a similarity, by reason; with ``n_used`` they add up to ``n_matched``."""
    equal_count_bins: list[SimilarityBin]
    log_bins: list[SimilarityBin]
    """Five bins equally wide in log |cosine|, as in Song et al. 2025."""
    run_pairs: list[RunPairSimilarity]


@dataclass(frozen=True)
class SimilarityReport:
    """What ``explanation_similarity`` found."""

    summary: SimilaritySummary
    pairs: pa.Table
    """Every matched pair: run_a, run_b, feature_a, feature_b, cosine (signed), frequency (the smaller of the two),
    similarity and decoy_similarity (null where missing), missing_reason (null where there is a similarity)."""
