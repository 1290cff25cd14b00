"""The numbers of a point of a synthetic study, each with its definition, as they are written to ``summary.json``.

Part of the *synthetic* stage.
"""

from sae_core.config import Result
from sae_core.consistency import ConsistencySummary, CosineHistogram
from sae_core.synthetic_config import PointConfig

CHANCE_KAPPA = 0.05
"""A value that is not so far above its chance level, of all there is above it, is called chance-like."""


class Recovery(Result):
    """How far runs found the truth. Means are over runs; lists are in the order of the runs.

    GT-MCC of a run is the mean absolute cosine of its decoder rows and true features under the best one-to-one
    matching, over ``min(d_sae, d_gt)`` pairs (Song et al. 2025, eq. 2).
    """

    gt_mcc: float
    """Mean GT-MCC."""
    gt_ci_low: float
    """Lower end of the 95 % interval of the mean: Student's t over runs, not clipped."""
    gt_ci_high: float
    """Upper end of the same interval."""
    gt_mcc_by_run: list[float]
    null_isotropic: float
    """GT-MCC of uniformly random directions, as many as the SAE has, with as many others as there are true features."""
    null_sign_flip: float | None
    """Mean GT-MCC against counterparts of the truth with its Gram matrix and flipped principal axes; None without
    draws."""
    kappa_isotropic: float
    """``(gt_mcc - null) / (1 - null)``."""
    kappa_sign_flip: float | None
    """The same with that null; None without draws, or where it is 1."""
    recovered_fraction: dict[str, float]
    """For each threshold the share of all ``d_gt`` true features whose matched cosine reaches it."""
    uniqueness: float
    """Different true features among the nearest of each SAE feature, over ``d_sae`` (as in SynthSAEBench)."""
    histogram: CosineHistogram
    """Matched absolute cosines over all runs, beside those of the sign-flip null."""


class Quality(Result):
    """What the SAEs are worth as autoencoders, on fresh samples; means over runs, and each run."""

    fvu: float
    """Fraction of variance unexplained: squared error over the variance of the samples."""
    fvu_by_run: list[float]
    l0: float
    """Active features on a sample."""
    dead_fraction: float
    """Features that fired on no sample."""
    n_samples: int


class Ceiling(Result):
    """The same training, started at the ground truth: where the paper's hope for a start would lead."""

    n_runs: int
    """One where all seeds would start alike (``d_sae == d_gt``)."""
    gt_mcc: float
    """After training."""
    gt_mcc_start: float
    """Before: 1 where the SAE has room for every true feature."""
    fvu: float
    """After training."""
    pw_mcc: float | None
    """After training; None for one run."""


class SeedCorrelation(Result):
    """Whether a run that agrees more with the others is closer to the truth."""

    pearson: float | None
    """Correlation over runs of the mean MCC with the others and GT-MCC; None when one of the two does not vary."""
    spearman: float | None
    p_value: float | None
    """Of ``pearson``, two-sided, by permutation of the runs."""
    n_runs: int


class Summaries(Result):
    """What recovers more of the truth: one run, the run that agrees most with the others, or all runs together."""

    tau: float
    """Cosine from which a true feature counts as recovered."""
    mean_run: float
    """Share of the true features recovered: mean over runs."""
    best_run: float
    """Of the run with the highest GT-MCC, which only the truth can name."""
    medoid: float
    """Of the run that agrees most with the others."""
    consensus: float
    """Of the consensus dictionary of all runs."""
    mean_run_gt_mcc: float
    best_run_gt_mcc: float
    medoid_gt_mcc: float
    consensus_gt_mcc: float | None
    """Over as many pairs as the consensus has features, so not to be compared with the others where those are fewer;
    None when it has none."""
    consensus_features: int
    consensus_precision: float | None
    """Share of the features of the consensus that recover a true one; None when it has none."""
    mean_run_precision: float
    """The same of the single runs, mean."""


class FeatureGroup(Result):
    """True features of one group."""

    number: int
    """From 1; the most frequent first."""
    probability: float
    """Of firing on a sample, of one of its features, measured."""
    n_matched: float
    """Features of the SAE matched to one of the group, mean over runs: the capacity it gets."""
    gt_mcc: float | None
    """Mean absolute cosine of those; None without any."""
    gt_mcc_sd: float | None
    """Standard deviation over runs that have any."""


class CapacityLaw(Result):
    """``n_matched`` of a group grows as ``probability ** alpha``: a Poisson regression over groups and runs.

    Where the SAE has room for all true features every group is full, and alpha near 0 whatever the law."""

    alpha: float
    ci_low: float
    ci_high: float
    """95 % interval: jackknife over runs."""


class DynamicsPoint(Result):
    """PW-MCC and GT-MCC after some steps."""

    step: int
    pw_mcc: float
    gt_mcc: float
    fvu: float


class RoundTrip(Result):
    """Whether ``encode(decode(f)) = f`` for random k-sparse f with codes as in the data."""

    n_codes: int
    same_support: float
    """Share of the codes that come back with exactly the same active features."""
    error: float
    """Median of ``|f' - f| / |f|``."""


class Premises(Result):
    """What the theory of identifiability asks for (Song et al. 2025, section 3; Hillar & Sommer 2015)."""

    mutual_coherence: float
    """Largest absolute cosine of two true features."""
    coherence_bound: float
    """``(1 + 1 / mutual_coherence) / 2``, at most ``d_gt + 1``: below so many active features, coherence alone makes
    codes unique (Donoho & Elad 2003)."""
    smallest_singular_value: float
    """Over the sets of 2k true features that were looked at; 0 means that some k-sparse codes are not unique."""
    n_sets: int
    """Sets that were looked at."""
    all_sets: bool
    """Whether these are all there are."""
    spark_condition: bool | None
    """Whether any 2k true features are linearly independent, ``spark > 2k``; None when only some sets were looked at
    and none of them is dependent."""
    truth: RoundTrip
    """Of the true dictionary with its transpose as encoder, the k largest codes kept: what a linear encoder can do."""
    truth_exhaustive: RoundTrip | None
    """Of the true dictionary with the best of all sets of k features as encoder; None when there are too many."""
    learned: RoundTrip
    """Of the trained SAEs, with codes over their own features; means over runs."""


class SeedCount(Result):
    """What so many seeds say, over several draws of them."""

    n_runs: int
    n_draws: int
    pw_mcc: float
    """Mean over draws."""
    pw_mcc_sd: float | None
    """Standard deviation over draws; None for one draw."""
    ci_half_width: float | None
    """Mean over draws of half the jackknife interval; None for two seeds."""
    mean_run: float
    """Share of the true features that a run recovers, mean over runs and draws."""
    medoid: float
    """The same of the run that agrees most with the others."""
    consensus: float
    """The same of the consensus."""
    consensus_sd: float | None
    consensus_precision: float | None
    """Share of the features of the consensus that recover a true one; None when no draw has one."""


class PointSummary(Result):
    """Everything about one point."""

    config: PointConfig
    """Data, variant, recipe, measures and seeds."""
    recovery: Recovery
    consistency: ConsistencySummary
    """PW-MCC with its interval, nulls, histogram and shared fractions, defined as for language models."""
    quality: Quality
    ceiling: Ceiling | None
    """None when switched off."""
    seed_correlation: SeedCorrelation
    summaries: Summaries | None
    """None when switched off (``measures.consensus``)."""
    groups: list[FeatureGroup] | None
    """None without groups."""
    capacity: CapacityLaw | None
    """None without groups, or where it is undetermined: one run, or fewer than two groups that got any feature."""
    dynamics: list[DynamicsPoint] | None
    """None without checkpoints."""
    seed_counts: list[SeedCount] | None
    """None without ``measures.seed_counts``."""
    premises: Premises | None
    """None when switched off (``measures.round_trip``)."""
    chance_like: list[str]
    """Those of ``gt_mcc`` and ``pw_mcc`` that are not above chance (kappa below 0.05, either null)."""
    consistent_but_wrong: bool
    """Whether runs agree more with each other than with the truth, by more than both intervals allow."""
