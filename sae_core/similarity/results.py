"""What *similarity* reports: frozen records, written as JSON and Parquet."""

from dataclasses import dataclass

import pyarrow as pa

from sae_core.config import Result
from sae_core.consistency.statistics import Interval
from sae_core.similarity.statistics import SimilarityBin


class RunPairSimilarity(Result):
    """The statistics of one pair of runs; None where too few matched pairs have a similarity."""

    run_a: str
    run_b: str
    n_used: int
    rho_partial: float | None
    rho: float | None
    mean_similarity: float | None
    mean_decoy: float | None
    lift: float | None
    auc: float | None
    auc_shuffled: float | None
    permutation_p: float | None
    rho_partial_permuted: float | None


class MeasureSummary(Result):
    """One measure of similarity over the matched pairs; means are over the pairs of runs that have a value."""

    measure: str
    """``embedding:<explainer>`` (cosine of sentence embeddings, in [-1, 1]), ``judge:<explainer>`` (a model's rating, 1
    to 10), ``words`` (Bhattacharyya affinity of the words that make the features fire, in [0, 1]), ``activations``
    (absolute correlation of their activations on the same tokens, in [0, 1])."""
    kind: str
    """``embedding``, ``judge``, ``words`` or ``activations``."""
    explainer: str | None
    """Who wrote the explanations; None for the kinds that need none."""
    rho_partial: float | None
    """Spearman correlation of |cosine| and similarity given log frequency, in [-1, 1]: the primary statistic."""
    rho_partial_ci: Interval | None
    """Jackknife interval with the runs as units; None for two runs, or where a pair of runs has no value."""
    permutation_p: float | None
    """Probability of so large an absolute ``rho_partial`` when what its trend with frequency leaves of similarity is
    permuted among matched pairs of like frequency. Over several pairs of runs twice the median of theirs, which is
    valid however they depend."""
    rho_partial_permuted: float | None
    """Mean ``rho_partial`` over these permutations: what a common dependence on frequency makes of it by itself. Near 0
    unless both bend with frequency in the same way, which a partial rank correlation does not remove."""
    rho: float | None
    """The raw Spearman correlation, which frequency confounds."""
    rho_ci: Interval | None
    rho_partial_above_chance: float | None
    """``rho_partial`` among the pairs whose cosine exceeds chance."""
    lift: float | None
    """Mean similarity of matched pairs minus that of their decoys: random pairs of equal frequency."""
    lift_ci: Interval | None
    auc: float | None
    """Probability that a matched pair is more alike than a decoy, in [0, 1]; 0.5 is chance."""
    auc_shuffled: float | None
    """The same with the partners of matched features shuffled among features of equal frequency: must be near 0.5."""
    mean_similarity: float | None
    mean_decoy: float | None
    mean_similarity_below_chance: float | None
    """Of the pairs whose cosine does not exceed chance."""
    noise_ceiling: float | None
    """Mean similarity of one feature with itself, between the two halves of the text: about the most that two seeds can
    reach. None for ``activations`` (it is 1 there) and ``judge``."""
    n_asked: int
    """Matched pairs, all pairs of runs together, that were to have a value: all of them, or the sample drawn."""
    n_used: int
    """Those that have one."""
    n_below_chance: int
    """Those of them whose cosine does not exceed chance."""
    missing: dict[str, int]
    """Pairs asked for without a value, by reason; with ``n_used`` they add up to ``n_asked``."""
    equal_count_bins: list[SimilarityBin]
    """Five bins of |cosine| with equally many pairs."""
    log_bins: list[SimilarityBin]
    """The five bins of Song et al. 2025, equally wide in log |cosine| from .065 to 1, and before them one of what lies
    below, if anything does."""
    run_pairs: list[RunPairSimilarity]


class SimilaritySummary(Result):
    """How alike matched features are explained, by every measure."""

    n_runs: int
    n_matched: int
    """Matched pairs, all pairs of runs together."""
    chance_cosine: dict[str, float]
    """For each pair of runs ("seed 0 and seed 1") the cosine up to which a pair counts as below chance: the mean
    matched cosine of the sign-flip null, or where it was not measured that of random directions."""
    primary: str
    """The measure that a report puts first: the embedding of the first explainer."""
    measures: list[MeasureSummary]

    def measure(self, name: str) -> MeasureSummary:
        """The summary of one measure.

        Raises:
            KeyError: if it was not measured; the message lists those that were.
        """
        for found in self.measures:
            if found.measure == name:
                return found
        raise KeyError(f"no measure {name!r}; there are {', '.join(each.measure for each in self.measures)}")

    @property
    def first(self) -> MeasureSummary:
        """The primary measure."""
        return self.measure(self.primary)


@dataclass(frozen=True)
class SimilarityReport:
    """What ``explanation_similarity`` found."""

    summary: SimilaritySummary
    pairs: pa.Table
    """A row for each matched pair and measure that was asked for: measure, run_a, run_b, feature_a, feature_b, cosine
    (signed), frequency (the smaller of the two), above_chance (bool), similarity and decoy_similarity (null where
    missing), missing_reason (null where there is a similarity)."""
