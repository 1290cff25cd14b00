"""The numbers *consistency* reports, each with its definition, as they are written to ``summary.json``."""

from dataclasses import dataclass

import pyarrow as pa

from sae_core.config import Result


class FrequencyBin(Result):
    """Matched pairs whose frequency, the smaller of the two features', lies in one bin; pairs of all pairs of runs."""

    low: float
    """Smallest frequency of the bin; 0 for the bin of pairs with a feature that never fired."""
    high: float
    """Largest frequency of the bin. Only the last bin includes it, and the bin of 0."""
    n_matches: int
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
    null_counts: list[float]
    """The same for the null, averaged over its draws, so that both add up to the same number of pairs."""


class ConsistencySummary(Result):
    """How far the runs of one variant found the same features.

    Every matching is the exact optimum. MCC of two runs is the mean absolute cosine of their matched decoder rows.
    """

    runs: list[str]
    n_runs: int
    n_pairs: int
    """Unordered pairs of runs."""
    d_in: int
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
    standard_error: float | None
    ci_reason: str | None
    """Why there is no interval."""
    pw_mcc_signed: float
    """The same with signed cosines, under the matching that is best for them."""
    pw_mcc_alive: float | None
    """The same as ``pw_mcc`` among the features that are alive in their run; dead features take no part."""
    alive_reason: str | None
    """Why there is no value among alive features."""
    share_negative: float
    """Share of matched pairs (absolute matching) with a negative cosine: ReLU codes cannot fire for both."""
    mmcs_forward: float
    """Mean over pairs of runs (a before b) of MMCS(a -> b): mean over a's features of the largest absolute cosine."""
    mmcs_backward: float
    """Mean over the same pairs of MMCS(b -> a)."""
    shared_fraction: dict[str, float]
    """For each threshold the share of matched pairs whose absolute cosine reaches it."""

    null_isotropic: float
    """PW-MCC of independent, uniformly random directions (N0)."""
    null_sign_flip: float
    """Mean PW-MCC against dictionaries with the same Gram matrix and flipped principal axes (N3)."""
    null_mmcs_isotropic: float
    """MMCS of uniformly random directions."""
    kappa_isotropic: float | None
    """``(pw_mcc - null_isotropic) / (1 - null_isotropic)``; None where the null is 1."""
    kappa_sign_flip: float | None
    """``(pw_mcc - null_sign_flip) / (1 - null_sign_flip)``; None where the null is 1."""

    certified: bool
    """Whether every matching, those of the null included, is proven optimal."""
    upper_bound: float
    """No matchings give a larger ``pw_mcc``; equal to it when certified."""
    histogram: CosineHistogram
    frequency_bins: list[FrequencyBin] | None
    """Five log-spaced bins of frequency, and one of pairs with a dead feature if there are any; None without
    frequencies."""


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
