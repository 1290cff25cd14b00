"""The numbers *consistency* reports, each with its definition, as they are written to ``summary.json``."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sae_core.config import Result
from sae_core.consistency.consensus_dictionary import Consensus
from sae_core.consistency.consensus_summary import ConsensusSummary
from sae_core.consistency.core_sizes import CoreSummary


class FrequencyBin(Result):
    """Matched pairs whose frequency, the smaller of the two features', lies in one bin; pairs of all pairs of runs."""

    low: float
    """Smallest frequency of the bin; 0 for the bin of pairs with a feature that never fired."""
    high: float
    """Largest frequency of the bin. Only the last bin includes it, and the bin of 0."""
    n_matches: int
    """Matched pairs of features in the bin."""
    mean_cosine: float | None
    """Mean absolute cosine; None when the bin is empty."""
    sd_cosine: float | None
    """Standard deviation of the absolute cosine; None for fewer than two matches."""
    contribution: float
    """Part of PW-MCC that comes from this bin; the contributions of all bins add up to ``pw_mcc``."""


class CosineHistogram(Result):
    """Absolute cosines of matched pairs over all pairs of runs, beside those of the sign-flip null."""

    edges: list[float]
    """Borders of the bins, one more than there are bins, from 0 to 1."""
    counts: list[int]
    """Matched pairs in each bin."""
    null_counts: list[float] | None
    """The same for the null, averaged over its draws, so that both add up to the same number of pairs; None without
    draws."""


class ConsistencySummary(Result):
    """How far the runs of one variant found the same features.

    Every matching is the exact optimum, unless ``certified`` is false. MCC of two runs is the mean absolute cosine of
    their matched decoder rows. What was not measured is None, and ``not_measured`` says why.
    """

    runs: list[str]
    """Names of the runs, in the order of every list below."""
    n_runs: int
    """Number of runs."""
    n_pairs: int
    """Unordered pairs of runs."""
    d_in: int
    """Width of the decoder rows."""
    d_sae: int
    """Features of the smallest run."""
    n_features: list[int]
    """Features of every run."""
    n_zero_rows: list[int]
    """Decoder rows of zeros of every run: they have no direction and are left out."""
    n_alive: list[int] | None
    """Features of every run that fired on the evaluation tokens; None without frequencies."""

    pw_mcc: float
    """Mean over all pairs of runs of MCC, absolute cosines, all features."""
    ci_low: float | None
    """Lower end of the 95 % confidence interval of ``pw_mcc``: jackknife over runs, not over pairs. Not clipped."""
    ci_high: float | None
    """Upper end of the same interval."""
    standard_error: float | None
    """Jackknife standard error of ``pw_mcc``, over runs."""
    ci_reason: str | None
    """Why there is no interval."""
    pw_mcc_signed: float | None
    """The same with signed cosines, under the matching that is best for them."""
    pw_mcc_alive: float | None
    """The same as ``pw_mcc`` among the features that are alive in their run; dead features take no part."""
    alive_reason: str | None
    """Why there is no value among alive features."""
    pw_mcc_merged: float | None
    """The same as ``pw_mcc`` after merging the duplicates inside each run: connected groups of features with an
    absolute cosine above the duplicate threshold are replaced by their mean direction."""
    share_negative: float
    """Share of matched pairs (absolute matching) with a negative cosine: ReLU codes cannot fire for both."""
    mmcs_forward: float
    """Mean over pairs of runs (a before b) of MMCS(a -> b): mean over a's features of the largest absolute cosine."""
    mmcs_backward: float
    """Mean over the same pairs of MMCS(b -> a)."""
    shared_fraction: dict[str, float]
    """For each threshold the share of matched pairs whose absolute cosine reaches it."""
    joint_mean: float | None
    """Mean score of the joint matching (Paulo & Belrose 2025), over all pairs of runs: the matching that is best for
    the absolute value of the mean of decoder and encoder cosine."""
    shared_fraction_joint: dict[str, float] | None
    """For each threshold the share of pairs of the joint matching whose score reaches it; a feature is *shared* in
    the paper at 0.7."""
    shared_fraction_both: dict[str, float] | None
    """For each threshold the share of pairs of the joint matching whose decoder and encoder cosines both reach it,
    with the same sign."""
    cycle_consistency: float | None
    """Share of features x for which going from run i to j to k ends where going from i to k does, over all triples of
    runs and the features with a partner on the way; None for two runs."""

    null_isotropic: float
    """PW-MCC of independent, uniformly random directions (N0)."""
    null_second_moment: float | None
    """Mean PW-MCC of independent Gaussian rows with the uncentred second moment of either run's unit rows (N1)."""
    null_second_moment_upper_bound: float | None
    """No matchings give a larger value for the same draws; equal to it when its matchings are proven optimal."""
    null_untrained: float | None
    """PW-MCC of the decoders at step 0 (N2); equals ``null_isotropic`` when the initialisations are independent."""
    null_sign_flip: float | None
    """Mean PW-MCC against dictionaries with the same Gram matrix and flipped principal axes (N3)."""
    null_sign_flip_upper_bound: float | None
    """No matchings give a larger value for the same draws; equal to it when its matchings are proven optimal."""
    null_mmcs_isotropic: float
    """MMCS of uniformly random directions."""
    kappa_isotropic: float | None
    """``(pw_mcc - null_isotropic) / (1 - null_isotropic)``; None where the null is 1."""
    kappa_second_moment: float | None
    """``(pw_mcc - null_second_moment) / (1 - null_second_moment)``; None where the null is 1 or not measured."""
    kappa_sign_flip: float | None
    """``(pw_mcc - null_sign_flip) / (1 - null_sign_flip)``; None where the null is 1 or not measured."""

    shared_initialisation: bool
    """Whether runs look as if they started from the same weights, so that they are not independent and PW-MCC says
    little. Judged from the decoders at step 0 where all are known, else from ``n_same_index``."""
    shared_initialisation_reason: str
    """What ``shared_initialisation`` rests on."""
    n_same_index: int
    """Matched pairs, over all pairs of runs, of features with the same number. Training does not move features to
    other numbers, so many of them mean a shared initialisation; independent runs have about one a pair."""
    n_same_index_expected: float
    """Its expectation for independent runs: for each pair the matched features over those of the larger run."""
    same_index_p: float
    """Probability of at least ``n_same_index`` when runs are independent: Poisson with that expectation."""

    n_duplicates: list[int] | None
    """Features of every run with another feature of the same run above the duplicate threshold."""
    uniqueness: list[float] | None
    """Of every run: features after merging duplicates over features before, those with a direction; in (0, 1]."""
    core: CoreSummary | None
    """The stable core at every threshold, and at the core threshold."""
    consensus: ConsensusSummary | None
    """The consensus dictionary, and whether it is worth more than a single run."""

    certified: bool
    """Whether every matching, those of the nulls included, is proven optimal. (The consensus says so for itself.)"""
    upper_bound: float
    """No matchings give a larger ``pw_mcc``; equal to it when its matchings are proven optimal."""
    stopped: list[str]
    """Matchings behind any number of this summary that ended before the proof, and why. Their MCC is a lower bound,
    beside which an upper bound stands; MMCS and nearest neighbours (of the stable core) come from the pairs that were
    looked at. Usually empty."""
    histogram: CosineHistogram
    """Matched absolute cosines beside those of the sign-flip null."""
    frequency_bins: list[FrequencyBin] | None
    """Log-spaced bins of frequency, and first one of pairs with a dead feature if there are any; None without
    frequencies."""
    frequency_bins_equal: list[FrequencyBin] | None
    """The same with bins that hold equally many pairs, as far as equal frequencies, which stay together, let them."""
    not_measured: dict[str, str]
    """For every field that is None because it was not measured: why."""


@dataclass(frozen=True)
class ConsistencyReport:
    """The summary and the tables behind it."""

    summary: ConsistencySummary
    pairs: pa.Table
    """One row a pair of runs."""
    matches: pa.Table
    """One row a matched pair of features, under the absolute matching, with its signed cosine."""
    features: pa.Table
    """One row a feature of a run."""
    core_curve: pa.Table | None
    """Size of the stable core by threshold and number of seeds; None when it was not asked for."""
    consensus: Consensus | None
    """The consensus dictionary; None when it was not asked for."""

    def matches_of(self, run_a: str, run_b: str) -> pa.Table:
        """The rows of ``matches`` of one pair of runs, named in their order."""
        inside = pc.and_(pc.equal(self.matches["run_a"], run_a), pc.equal(self.matches["run_b"], run_b))
        return self.matches.filter(inside)
