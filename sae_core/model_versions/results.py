"""The numbers *model versions* reports, each with its definition, as they are written to ``summary.json``."""

from sae_core.config import Result
from sae_core.consistency.results import CosineHistogram


class VersionRow(Result):
    """One version of a variant: a *consistency* result as it was materialized at some time.

    What is not known is None: everything but time and content where the store no longer has the result.
    """

    time: str
    """When it was first materialized, ISO 8601 in UTC, to the second."""
    content: str
    """Digest of the content: equal results are one version, however often they were materialized."""
    in_store: bool
    """Whether the store still has it."""
    is_current: bool
    """Whether it is the latest materialization."""
    fingerprint: str | None = None
    """Its address in the store."""
    model: str | None = None
    """Digest of the language model that its SAEs were trained on."""
    corpus: str | None = None
    """Digest of the text."""
    code_version: str | None = None
    """Version of the code of *consistency*."""
    commit: str | None = None
    """Git commit that made it."""
    n_runs: int | None = None
    pw_mcc: float | None = None
    """PW-MCC within the version."""
    ci_low: float | None = None
    ci_high: float | None = None
    null: float | None = None
    """Its chance level: the sign-flip null, or without it that of random directions."""
    kappa: float | None = None
    """PW-MCC corrected for that chance level."""
    differs: list[str]
    """In what it was made otherwise than the version before it that is still in the store; empty for the first."""


class AcrossVersions(Result):
    """How far the dictionaries of two versions of a model agree, beside how far those within a version do.

    MCC of two runs is the mean absolute cosine of their decoder rows under the best one-to-one matching. Runs of equal
    name (``seed 0``) have the same seed in both versions: they began with the same weights and saw the text in the same
    order, so they may agree more than other pairs, and within a version there are no such pairs. What is compared with
    the agreement within versions are therefore the pairs of different seeds.
    """

    runs_old: list[str]
    runs_new: list[str]
    d_in: int
    """Width of the decoder rows, of both versions."""
    n_features_old: list[int]
    n_features_new: list[int]

    pw_mcc_across: float
    """Mean MCC over all pairs of a run of the old version and one of the new."""
    across_ci_low: float | None
    """Lower end of its 95 % confidence interval: jackknife over the runs of both versions. Not clipped."""
    across_ci_high: float | None
    pw_mcc_same_seed: float | None
    """The same over the pairs of equal seed; None where the versions share no seed."""
    n_pairs_same_seed: int
    pw_mcc_different_seed: float
    """The same over the pairs of different seeds."""
    n_pairs_different_seed: int
    within_old: float
    """PW-MCC of the old version, from its *consistency* result."""
    within_new: float
    """PW-MCC of the new version."""
    difference: float
    """``pw_mcc_different_seed - (within_old + within_new) / 2``: near zero when the model's change changed the features
    no more than another seed does, negative when it changed them more."""
    difference_ci_low: float | None
    """Lower end of its 95 % confidence interval."""
    difference_ci_high: float | None
    difference_all_pairs: float
    """``pw_mcc_across - (within_old + within_new) / 2``: the same with the pairs of equal seed."""
    ci_reason: str | None
    """Why there are no intervals."""

    null_isotropic: float
    """MCC of independent, uniformly random directions, mean over the pairs."""
    null_sign_flip: float | None
    """Mean MCC against dictionaries of the new version with the same Gram matrix and flipped principal axes."""
    null_sign_flip_upper_bound: float | None
    """No matchings give a larger value for the same draws."""
    kappa_isotropic: float | None
    """``(pw_mcc_across - null_isotropic) / (1 - null_isotropic)``; None where the null is 1."""
    kappa_sign_flip: float | None
    """The same for the sign-flip null."""

    shared_fraction: dict[str, float]
    """For each threshold the share of matched pairs, over all pairs of runs, whose absolute cosine reaches it."""
    n_agreed_new: dict[str, int]
    """For each threshold the features of the runs of the new version on which the seeds of that version agree: mean
    absolute cosine with their partners at least the threshold."""
    share_new: dict[str, float | None]
    """The share of these that have no feature with that cosine in any run of the old version: found with the new model
    only. None where the seeds agree on none."""
    n_agreed_old: dict[str, int]
    """As ``n_agreed_new``, of the old version."""
    share_lost: dict[str, float | None]
    """The share of these that have no feature with that cosine in any run of the new version."""

    histogram: CosineHistogram
    """Matched absolute cosines over all pairs of runs, beside those of the sign-flip null."""
    certified: bool
    """Whether every matching, those of the null included, is proven optimal."""
    upper_bound: float
    """No matchings give a larger ``pw_mcc_across``."""
    stopped: list[str]
    """Matchings that ended before the proof, and why; usually empty."""
    not_measured: dict[str, str]
    """For every field that is None because it was not measured: why."""

    @property
    def null(self) -> float:
        """The chance level of agreement across: the sign-flip null, or without it that of random directions."""
        return self.null_isotropic if self.null_sign_flip is None else self.null_sign_flip


class VersionsSummary(Result):
    """All versions of a variant, and the current one compared with that of the model before."""

    n_versions: int
    """Results with different content that were ever materialized."""
    n_missing: int
    """Those of them that the store no longer has."""
    n_models: int
    """Versions of the language model among those that the store has."""
    versions: list[VersionRow]
    """In the order in which they were first materialized."""
    compared_with: str | None
    """Content of the version that the current one is compared with: the latest with another model."""
    across: AcrossVersions | None
    """The comparison; None where there is none."""
    not_compared: str | None
    """Why there is none: ``not comparable: ...``, or that there is no other version of the model."""
    cautions: list[str]
    """What else differs between the two, beside the model, and what else a reader must know."""
