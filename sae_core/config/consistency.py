"""Settings of the comparison of seeds."""

from pydantic import Field

from sae_core.config.base import Config, Fraction


class ConsistencyConfig(Config):
    """How seeds are compared.

    Every part that can be switched off costs at least one more exact matching of every pair of runs; what is not
    measured is None in the summary, with its reason.
    """

    thresholds: list[Fraction] = Field(default=[0.5, 0.7, 0.9])
    """Cosines at which a matched pair counts as shared."""
    n_null_draws: int = Field(default=4, ge=0)
    """Random draws of the second-moment and of the PCA sign-flip null, each, for every pair of seeds. With 0 neither is
    measured, and no value is corrected for the latter."""
    signed: bool = True
    """Match with signed cosines too."""
    joint: bool = True
    """Match on decoder and encoder together too, where the encoders are known."""
    merged: bool = True
    """Look for duplicates inside each dictionary, and match again with duplicates merged."""
    core: bool = True
    """Find the stable core, and its size against the threshold and the number of seeds."""
    consensus: bool = True
    """Make the consensus dictionary, and from four seeds on compare consensuses of disjoint groups of seeds."""
    n_group_splits: int = Field(default=4, ge=0)
    """Splits of the seeds in two groups whose consensuses are compared; each costs the matchings of two consensuses."""
    core_threshold: Fraction = 0.7
    """Absolute cosine from which mutual nearest neighbours count as the same feature in the stable core."""
    duplicate_threshold: Fraction = 0.95
    """Absolute cosine above which two features of one dictionary are duplicates."""
    n_activation_tokens: int = Field(default=131_072, ge=0)
    """Held-out tokens on which the activations of matched features are compared (all of them when there are fewer);
    0 leaves that out."""
    time_budget_s: float | None = Field(default=None, gt=0)
    """Seconds for one matching; when they are over, its value is a lower bound, and an upper bound stands beside it.
    None takes as long as the proof needs."""
    n_histogram_bins: int = Field(default=50, ge=1)
    """Bins of the histogram of matched cosines, between 0 and 1."""
    n_frequency_bins: int = Field(default=5, ge=1)
    """Log-spaced, and as many equal-count, bins of the frequency of matched pairs."""
    seed: int = Field(default=0, ge=0)
    """Seed of the nulls."""
