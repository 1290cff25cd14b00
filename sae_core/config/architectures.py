"""Settings of the variants: one class for each architecture, and one for SAEs that exist already."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sae_core.config.base import Config, Fraction, Name

LearningRate = Annotated[float, Field(gt=0)] | Literal["auto"]
"""A number, or ``auto``: ``2e-4 / sqrt(d_sae / 2 ** 14)`` (Gao et al. 2024, figure 3)."""


class SaeConfig(Config):
    """What every architecture has. The options that are off by default are said to help consistency."""

    d_sae: int = Field(ge=2)
    """Number of features."""
    lr: LearningRate | None = None
    """Learning rate of this variant; None takes ``training.lr``."""
    l2_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the squared length of all encoder and decoder weights in the loss (Jedryszek and Crook 2026,
    arXiv 2603.04198)."""
    aligned: bool = False
    """Hold the inner product of each feature's encoder and decoder at one (arXiv 2605.18629)."""
    whiten: bool = False
    """Train on activations of zero mean and unit covariance (PCA whitening; Saraswatula and Klindt 2025,
    arXiv 2511.13981). The SAE that comes out reads activations as they are."""

    @property
    def key(self) -> str:
        """Name of the variant, derived from its numbers: ``topk-d2048-k32``. Defaults are left out."""
        parts = [self.architecture, f"d{self.d_sae}"]  # type: ignore[attr-defined]
        short = {"l1_coefficient": "l1_", "target_l0": "l0_", "aux_k_coefficient": "aux"}
        for field in sorted(type(self).model_fields):
            value, default = getattr(self, field), type(self).model_fields[field].default
            if field not in ("architecture", "d_sae") and value != default:
                text = f"{value:g}" if isinstance(value, float) else str(value)
                parts.append(short.get(field, field) + text)
        return re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join(parts))

    @model_validator(mode="after")
    def _unit_rows(self) -> "SaeConfig":
        if self.aligned and isinstance(self, StandardAprilConfig):
            raise ValueError(
                "aligned needs decoder rows of unit length, which standard_april does not keep; use standard"
            )
        return self


class _SelectingConfig(SaeConfig):
    """What the architectures with a number of active features have in common."""

    k: int = Field(ge=1)
    """Features active on a token."""
    aux_k_coefficient: float = Field(default=1 / 32, ge=0)
    """Weight of the auxiliary loss that revives dead features; 0 turns it off."""
    aux_k: int | None = Field(default=None, ge=1)
    """Dead features that model the residual; None takes d_in / 2."""

    @model_validator(mode="after")
    def _k_fits(self) -> "_SelectingConfig":
        if self.k >= self.d_sae:
            raise ValueError(
                f"k must be smaller than d_sae: got k={self.k}, d_sae={self.d_sae}; lower k or raise d_sae"
            )
        return self


class TopKConfig(_SelectingConfig):
    """TopK SAE (Gao et al. 2024): the k largest pre-activations stay."""

    architecture: Literal["topk"] = "topk"
    l1_coefficient: float = Field(default=0.0, ge=0)
    """Weight of an L1 penalty on the pre-activations that were *not* selected (Jacquier et al. 2026,
    arXiv 2606.27321). It needs them all, so it costs the sparse training step."""
    k_anneal: float = Field(default=0.0, ge=0, le=1)
    """Share of the steps over which k falls linearly from d_in (He et al. 2024, Llama Scope, arXiv 2410.20526)."""


class _BatchConfig(_SelectingConfig):
    """What the architectures whose tokens compete within a batch have in common."""

    threshold_beta: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the running mean of the smallest code kept, which is the threshold in use."""
    threshold_start_steps: int = Field(default=1000, ge=0)
    """Steps before that mean begins (half of all steps where that is earlier)."""


class BatchTopKConfig(_BatchConfig):
    """BatchTopK SAE (Bussmann et al. 2024): k codes a token on average over a batch; in use, a threshold."""

    architecture: Literal["batch_topk"] = "batch_topk"


class MatryoshkaBatchTopKConfig(_BatchConfig):
    """Matryoshka BatchTopK SAE (Bussmann et al. 2025): nested dictionaries, each of which reconstructs by itself."""

    architecture: Literal["matryoshka_batch_topk"] = "matryoshka_batch_topk"
    group_fractions: list[Fraction] = Field(default=[1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32], min_length=1)
    """Shares of the features in each group; nested dictionary i consists of the first i groups."""
    group_weights: list[Annotated[float, Field(gt=0)]] | None = None
    """Weights of the errors of the nested dictionaries; None weights them equally."""

    @model_validator(mode="after")
    def _groups_add_up(self) -> "MatryoshkaBatchTopKConfig":
        total, n = sum(self.group_fractions), len(self.group_fractions)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"group_fractions must add up to 1: got {self.group_fractions}, which add up to {total:g}")
        if self.group_weights is not None and len(self.group_weights) != n:
            raise ValueError(f"group_weights needs a number for each of the {n} groups: got {self.group_weights}")
        if min(int(fraction * self.d_sae) for fraction in self.group_fractions) < 1:
            raise ValueError(
                f"every group needs a feature: got group_fractions={self.group_fractions} of d_sae={self.d_sae}; "
                "raise d_sae or the smallest fraction"
            )
        return self


class StandardConfig(SaeConfig):
    """Standard SAE (Bricken et al. 2023): ReLU codes under an L1 penalty, unit-norm decoder rows."""

    architecture: Literal["standard"] = "standard"
    l1_coefficient: float = Field(gt=0)
    """Weight of the L1 penalty, for activations scaled to unit mean squared norm."""


class StandardAprilConfig(SaeConfig):
    """Standard SAE of the April update (Conerly et al. 2024): decoder rows of any length, which the penalty counts."""

    architecture: Literal["standard_april"] = "standard_april"
    l1_coefficient: float = Field(gt=0)
    """Weight of the L1 penalty, for activations scaled to unit mean squared norm."""


class PAnnealConfig(SaeConfig):
    """p-annealed SAE (Karvonen et al. 2024): the L1 penalty turns into one of the p-th powers of the codes."""

    architecture: Literal["p_anneal"] = "p_anneal"
    l1_coefficient: float = Field(gt=0)
    """Weight of the penalty while it is still L1; it is scaled as p falls, to keep the penalty's size."""
    p_end: float = Field(default=0.2, gt=0, le=1)
    """Last power of the schedule, which ends with training: the smallest one trained with is the value before it."""
    anneal_start: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps after which p begins to fall."""
    n_updates: int = Field(default=10, ge=2)
    """Values of p, from 1 to ``p_end``, equally spaced in value and in time."""
    n_recent: int = Field(default=10, ge=1)
    """Batches over which the penalty's size is averaged where it is scaled."""


class JumpReLUConfig(SaeConfig):
    """JumpReLU SAE (Rajamanoharan et al. 2024b): a learned threshold for each feature, L0 held at a target."""

    architecture: Literal["jumprelu"] = "jumprelu"
    target_l0: float = Field(gt=0)
    """Mean number of active features on a token."""
    sparsity_coefficient: float = Field(default=1.0, gt=0)
    """Weight of ``(L0 / target_l0 - 1)^2``."""
    bandwidth: float = Field(default=0.001, gt=0)
    """Width of the window in which a threshold feels a derivative, for activations of unit mean squared norm."""
    initial_threshold: float = Field(default=0.001, ge=0)

    @model_validator(mode="after")
    def _target_fits(self) -> "JumpReLUConfig":
        if self.target_l0 >= self.d_sae:
            raise ValueError(
                f"target_l0 must be smaller than d_sae: got target_l0={self.target_l0:g}, d_sae={self.d_sae}; "
                "lower target_l0 or raise d_sae"
            )
        return self


class GatedConfig(SaeConfig):
    """Gated SAE (Rajamanoharan et al. 2024a): one path says whether a feature is on, the other how much."""

    architecture: Literal["gated"] = "gated"
    l1_coefficient: float = Field(gt=0)
    """Weight of the L1 penalty on the gates, for activations scaled to unit mean squared norm."""


class PretrainedConfig(Config):
    """SAEs that were trained already, by anyone, in place of runs that the study would train."""

    architecture: Literal["pretrained"] = "pretrained"
    name: Name
    """What the variant is called; its key is ``pretrained-<name>``."""
    saes: list[str] = Field(min_length=2)
    """Where they lie, one for each of the study's seeds and in their order: a folder or file, or
    ``hf://owner/name@revision/folder``. All must read the activations of the study's hook."""
    format: str | None = None
    """One of ``sae_core.formats.FORMATS``; None looks at the files."""

    @property
    def key(self) -> str:
        """Name of the variant."""
        return f"pretrained-{self.name}"

    @model_validator(mode="after")
    def _different(self) -> "PretrainedConfig":
        twice = sorted({sae for sae in self.saes if self.saes.count(sae) > 1})
        if twice:
            raise ValueError(f"an SAE agrees with itself: {', '.join(twice)} given more than once; remove the copy")
        return self


TrainedConfig = (
    StandardConfig
    | StandardAprilConfig
    | TopKConfig
    | BatchTopKConfig
    | JumpReLUConfig
    | GatedConfig
    | PAnnealConfig
    | MatryoshkaBatchTopKConfig
)
"""A variant that the study trains."""
VariantConfig = Annotated[TrainedConfig | PretrainedConfig, Field(discriminator="architecture")]
