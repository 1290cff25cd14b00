"""What a *synthetic study file* holds: data whose features are known, SAEs trained on them, and experiments.

Like ``sae_core.config``: frozen models, one default for each number, impossible shapes refused before anything runs.
"""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sae_core.config import Automation, Config, Fraction, Name, Owner, StandardConfig, TopKConfig, TrainedConfig
from sae_core.sweeps import Sweeps

Positive = Annotated[float, Field(gt=0)]


# --- how often a feature fires ----------------------------------------------------------------------------------


class UniformFrequency(Config):
    """All features fire equally often."""

    kind: Literal["uniform"] = "uniform"


class ZipfFrequency(Config):
    """The weight of rank r is ``r ** -exponent``."""

    kind: Literal["zipf"]
    exponent: Positive = 1.0
    """Zipf's exponent; the paper calls it beta."""
    n_groups: int | None = Field(default=None, ge=1)
    """Groups of equally many consecutive features; all features of group g have rank g. None: every feature has a rank
    of its own."""


class TwoPhaseZipfFrequency(Config):
    """A power law that turns into a steeper one: ``r ** -exponent`` up to a rank, from there on ``tail_exponent``.

    The two laws meet at the break. Word frequencies in large corpora look like this (Ferrer i Cancho & Sole 2001).
    """

    kind: Literal["two_phase_zipf"]
    exponent: Positive = 1.0
    tail_exponent: Positive = 2.0
    break_rank: int = Field(ge=1)
    """Last rank of the first law."""


Frequency = Annotated[UniformFrequency | ZipfFrequency | TwoPhaseZipfFrequency, Field(discriminator="kind")]


# --- which features fire together -------------------------------------------------------------------------------


class Independent(Config):
    """A feature knows nothing of the others (but for the number of those that fire, where that is exact)."""

    kind: Literal["independent"] = "independent"


class Correlated(Config):
    """Firing follows a Gaussian copula with correlation matrix ``R = strength U U^T + (1 - strength) I``.

    Rows of ``U (d_gt, rank)`` are random unit vectors, so R has a unit diagonal and low rank off it.
    """

    kind: Literal["correlated"]
    strength: float = Field(ge=0, le=1)
    """0 is independence; at 1 features whose rows of U coincide fire together."""
    rank: int = Field(default=4, ge=1)


class Hierarchical(Config):
    """Features stand in trees; a child can fire only where its parent does.

    Feature i has the children ``branching * i + n_roots`` to ``branching * i + n_roots + branching - 1``, as far as
    there are so many features. Its own probability, that of ``frequency``, holds where its parent fires; all
    probabilities are scaled by one factor so that k features fire on average.
    """

    kind: Literal["hierarchical"]
    branching: int = Field(default=2, ge=1)
    n_roots: int = Field(default=1, ge=1)


class Exclusive(Config):
    """Consecutive features form groups of which at most one feature fires on a sample."""

    kind: Literal["exclusive"]
    group_size: int = Field(ge=2)


Structure = Annotated[Independent | Correlated | Hierarchical | Exclusive, Field(discriminator="kind")]


# --- the data ---------------------------------------------------------------------------------------------------


class SyntheticConfig(Config):
    """Samples ``x = codes @ dictionary + bias + noise`` with a dictionary that is known (Song et al. 2025, section 4).

    ``d_gt`` unit directions in ``d_in`` dimensions, of which ``k`` fire on a sample.
    """

    d_in: int = Field(ge=2)
    """Width of a sample; the paper calls it m."""
    d_gt: int = Field(ge=1)
    """Number of true features."""
    k: int = Field(ge=1)
    """Features that fire on a sample: exactly, or on average (``support``)."""
    dictionary: Literal["gaussian", "orthogonalised"] = "gaussian"
    """``gaussian``: independent random directions. ``orthogonalised``: such directions pushed apart, as orthogonal as
    so many directions in so few dimensions become."""
    support: Literal["exactly", "bernoulli"] = "exactly"
    """``exactly`` k features, drawn one after the other without replacement in proportion to their weights; or each by
    itself, with its own probability, k of them on average."""
    frequency: Frequency = UniformFrequency()
    structure: Structure = Independent()
    magnitude: Literal["half_normal", "exponential", "constant"] = "half_normal"
    """Codes of the features that fire: |N(0, 1)|, exponential with mean 1, or 1."""
    bias: float = Field(default=0.0, ge=0)
    """Length of a random vector that is added to every sample."""
    noise: float = Field(default=0.0, ge=0)
    """Root mean square length of Gaussian noise, where a code of 1 has length 1."""
    seed: int = Field(default=0, ge=0)
    """Of the dictionary, the bias and the structure. Samples have seeds of their own."""

    @property
    def key(self) -> str:
        """Name of the data, derived from its numbers: ``m16-gt32-k3-noise0.1``. Defaults are left out."""
        parts = [f"m{self.d_in}", f"gt{self.d_gt}", f"k{self.k}"]
        for field, info in type(self).model_fields.items():
            value = getattr(self, field)
            if field in ("d_in", "d_gt", "k") or value == info.default:
                continue
            if isinstance(value, Config):
                numbers = value.model_dump(exclude={"kind"}, exclude_none=True).values()
                parts.append("_".join([value.kind, *(f"{number:g}" for number in numbers)]))  # type: ignore[attr-defined]
            else:
                parts.append(value if isinstance(value, str) else f"{field}{value:g}")
        return re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join(parts))

    @model_validator(mode="after")
    def _shapes_fit(self) -> "SyntheticConfig":
        if self.k > self.d_gt:
            raise ValueError(f"k features fire, of d_gt there are: got k={self.k}, d_gt={self.d_gt}; lower k")
        frequency, structure = self.frequency, self.structure
        if isinstance(frequency, ZipfFrequency) and frequency.n_groups and self.d_gt % frequency.n_groups:
            raise ValueError(
                f"groups must be equally large: got d_gt={self.d_gt} and n_groups={frequency.n_groups}, which does not "
                "divide it; change one of them"
            )
        if isinstance(frequency, TwoPhaseZipfFrequency) and frequency.break_rank > self.d_gt:
            raise ValueError(
                f"break_rank must not exceed d_gt={self.d_gt}: got {frequency.break_rank}; lower it, or use zipf"
            )
        if isinstance(structure, Exclusive):
            if self.d_gt % structure.group_size:
                raise ValueError(
                    f"exclusive groups must be equally large: got d_gt={self.d_gt} and "
                    f"group_size={structure.group_size}, which does not divide it; change one of them"
                )
            if self.k > self.d_gt // structure.group_size:
                raise ValueError(
                    f"at most one feature of a group fires: got k={self.k} and {self.d_gt // structure.group_size} "
                    "groups; lower k or group_size"
                )
        if isinstance(structure, Hierarchical) and self.support == "exactly":
            raise ValueError(
                "a hierarchy decides itself how many features fire: set support to bernoulli, or the structure to "
                "another kind"
            )
        if isinstance(structure, Hierarchical) and structure.n_roots > self.d_gt:
            raise ValueError(f"n_roots must not exceed d_gt={self.d_gt}: got {structure.n_roots}; lower it")
        return self


# --- SAEs on the data -------------------------------------------------------------------------------------------


class RecipeConfig(Config):
    """How the SAEs of a point are trained, all seeds at once."""

    n_steps: int = Field(default=3000, ge=1)
    batch_size: int = Field(default=512, ge=2)
    lr: Positive = 1.5e-3
    """Adam's learning rate."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises from zero."""
    decay_start: float = Field(default=1.0, ge=0, le=1)
    """Share of the steps after which it falls linearly to zero."""
    grad_clip: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient over all parameters of one SAE; None leaves it as it is."""
    unit_decoder: bool = True
    """Keep decoder rows at unit length; the paper's released code does not."""
    unit_scale: bool = True
    """Scale samples to unit mean squared norm, as for language models; the paper's released code does not."""
    mean_error: bool = False
    """Take the mean of the squared error over d_in, as the paper's released code does, not the sum: a penalty then
    weighs d_in times as much."""
    code_l1: float = Field(default=0.0, ge=0)
    """Weight of an L1 penalty on the codes that a TopK SAE keeps, as in the paper's released code."""
    n_samples: int | None = Field(default=None, ge=2)
    """Train on so many samples, again and again in another order; None draws every batch anew."""
    vary: Literal["init", "init_and_data"] = "init"
    """What a seed changes: the initial weights, as in the paper; or the samples too."""
    dead_after_samples: int = Field(default=100_000, ge=1)
    """A feature that did not fire for so many samples counts as dead: where a variant has aux-k, that acts on it."""
    log_every: int = Field(default=100, ge=1)
    """Steps between two points of the curves."""

    @model_validator(mode="after")
    def _fits(self) -> "RecipeConfig":
        if self.n_samples is not None and self.n_samples < self.batch_size:
            raise ValueError(
                f"n_samples must hold a batch: got n_samples={self.n_samples}, batch_size={self.batch_size}; raise it"
            )
        if self.warmup_steps > self.decay_start * self.n_steps:
            raise ValueError(
                f"warmup_steps must end before the decay starts: got warmup_steps={self.warmup_steps}, "
                f"decay_start * n_steps = {self.decay_start * self.n_steps:g}; lower warmup_steps"
            )
        return self


class MeasuresConfig(Config):
    """What is measured of a point besides GT-MCC and PW-MCC."""

    n_eval_samples: int = Field(default=16_384, ge=1)
    """Fresh samples for FVU, L0, dead share and frequencies."""
    n_null_draws: int = Field(default=2, ge=0)
    """Draws of the sign-flip null for every pair of seeds, and for every seed and the truth."""
    ceiling: bool = True
    """Train from the ground truth too: what the best start leads to."""
    consensus: bool = True
    """Whether the consensus of the seeds is closer to the truth than the seeds."""
    groups: int | None = Field(default=None, ge=2)
    """Measure recovery by so many groups of consecutive true features."""
    round_trip: bool = False
    """Check the theory's premises: spark, coherence, and whether encode(decode(f)) = f on k-sparse codes."""
    checkpoints: list[Annotated[float, Field(ge=0, le=1)]] = Field(default=[])
    """Shares of the steps after which PW-MCC and GT-MCC are measured too."""
    seed_counts: list[Annotated[int, Field(ge=2)]] = Field(default=[])
    """Measure what fewer seeds would have said: so many of them, drawn several times."""
    n_frequency_bins: int = Field(default=5, ge=1)
    thresholds: list[Fraction] = Field(default=[0.5, 0.7, 0.9])
    """Cosines at which a pair counts as shared, or a true feature as recovered."""
    seed: int = Field(default=0, ge=0)
    """Of the evaluation samples, nulls and drawn codes."""


def _has_options(variant: TopKConfig) -> bool:
    return bool(variant.aux_k_coefficient or variant.l1_coefficient or variant.k_anneal)


class PointConfig(Config):
    """One thing that is measured: SAEs of one variant, under all seeds, on one kind of data."""

    data: SyntheticConfig
    variant: Annotated[TrainedConfig, Field(discriminator="architecture")]
    recipe_name: Name
    recipe: RecipeConfig
    measures: MeasuresConfig
    seeds: list[Annotated[int, Field(ge=0)]]

    @property
    def key(self) -> str:
        """Name of the point within its experiment."""
        return f"{self.data.key}.{self.variant.key}.{self.recipe_name}"

    @model_validator(mode="after")
    def _trainable(self) -> "PointConfig":
        variant, recipe = self.variant, self.recipe
        if variant.whiten:
            raise ValueError("synthetic samples are not whitened: take whiten out of the variant")
        plain = isinstance(variant, StandardConfig) or (isinstance(variant, TopKConfig) and not _has_options(variant))
        if not plain and (not recipe.unit_decoder or recipe.mean_error or recipe.code_l1):
            raise ValueError(
                f"recipe {self.recipe_name} trains as the paper's released code does (unit_decoder: false, mean_error "
                f"or code_l1), which is for standard, and topk with aux_k_coefficient: 0: got {variant.key}; use "
                "another recipe"
            )
        return self


FigureKind = Literal["bars", "sweep", "groups", "frequency", "dynamics", "round_trip", "seeds"]


class GroupConfig(Config):
    """Points that belong in one figure: every kind of data with every variant and every recipe."""

    name: Name = "all"
    data: Annotated[list[SyntheticConfig], Sweeps()] = Field(min_length=1)
    """A value may be a sweep, as in ``noise: {sweep: [0, 0.1]}``; the entry then stands for one with each value."""
    variants: Annotated[list[Annotated[TrainedConfig, Field(discriminator="architecture")]], Sweeps()] = Field(
        min_length=1
    )
    recipes: list[Name] = Field(min_length=1)
    """Names of recipes of the study."""
    figure: FigureKind = "bars"
    x: str | None = None
    """What the points differ in, the horizontal axis of the figure: ``k`` (of the variant), ``d_sae``, or a number of
    the data such as ``noise``, ``d_in`` or ``strength``. None: a bar each."""
    measures: MeasuresConfig | None = None
    """None takes those of the experiment."""
    seeds: list[Annotated[int, Field(ge=0)]] | None = None
    """None takes those of the study."""

    @model_validator(mode="after")
    def _has_axis(self) -> "GroupConfig":
        if self.figure in ("sweep", "round_trip") and self.x is None:
            raise ValueError(f"group {self.name}: a figure of the kind {self.figure} needs x, for example x: noise")
        return self


class ExperimentConfig(Config):
    """One asset: points, and the figure that shows them. With several groups it has a partition for each."""

    name: Name
    title: str
    groups: list[GroupConfig] = Field(min_length=1)
    measures: MeasuresConfig = MeasuresConfig()

    def group(self, name: str) -> GroupConfig:
        """The group with this name.

        Raises:
            KeyError: if there is none; the message lists those there are.
        """
        for group in self.groups:
            if group.name == name:
                return group
        there = ", ".join(group.name for group in self.groups)
        raise KeyError(f"experiment {self.name} has no group {name!r}; it has {there}")

    @model_validator(mode="after")
    def _distinct(self) -> "ExperimentConfig":
        names = [group.name for group in self.groups]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"groups must differ: {', '.join(twice)} given more than once; rename one")
        return self


class SyntheticStudyConfig(Config):
    """A *synthetic study file*."""

    name: Name
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=list(range(10)))
    recipes: dict[Name, RecipeConfig]
    experiments: list[ExperimentConfig] = Field(min_length=1)
    language_model_study: Name | None = None
    """Name of a study of Pythia-160M whose results, once there are any, stand beside the paper's."""
    automation: Automation = "manual"
    """What the daemon makes anew by itself."""
    owners: list[Owner] = Field(default=[])
    """Whom to ask; shown in the UI."""

    @model_validator(mode="after")
    def _fits(self) -> "SyntheticStudyConfig":
        names = [experiment.name.replace("-", "_") for experiment in self.experiments]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:  # as names of assets, - and _ are the same
            raise ValueError(f"experiments must differ: {', '.join(twice)} given more than once; rename one")
        if "reproduction" in names:
            raise ValueError("an experiment cannot be called 'reproduction', which is the asset that gathers them")
        for experiment in self.experiments:
            self._check(experiment)
        return self

    def _check(self, experiment: ExperimentConfig) -> None:
        for group in experiment.groups:
            where = f"experiment {experiment.name}, group {group.name}"
            for recipe in group.recipes:
                if recipe not in self.recipes:
                    raise ValueError(f"{where}: there is no recipe {recipe!r}; there are {', '.join(self.recipes)}")
            points = self.points(experiment, group.name)
            keys = [point.key for point in points]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            if twice:
                raise ValueError(f"{where}: {', '.join(twice)} given more than once; remove one")
            for point in points:
                self._check_point(point, where)

    def _check_point(self, point: PointConfig, where: str) -> None:
        seeds, n_groups, d_gt = point.seeds, point.measures.groups, point.data.d_gt
        if len(set(seeds)) < 2 or len(set(seeds)) < len(seeds):
            raise ValueError(f"{where}: seeds must be at least two, all different: got {seeds}")
        if n_groups and d_gt % n_groups:
            raise ValueError(
                f"{where}: measures.groups must divide d_gt: got {n_groups} groups of d_gt={d_gt}; change one of them"
            )
        if max(point.measures.seed_counts, default=0) > len(seeds):
            raise ValueError(
                f"{where}: measures.seed_counts asks for {max(point.measures.seed_counts)} seeds of {len(seeds)}; "
                "lower it or add seeds"
            )

    def experiment(self, name: str) -> ExperimentConfig:
        """The experiment with this name.

        Raises:
            KeyError: if there is none; the message lists those there are.
        """
        for experiment in self.experiments:
            if experiment.name == name:
                return experiment
        there = ", ".join(experiment.name for experiment in self.experiments)
        raise KeyError(f"synthetic study {self.name} has no experiment {name!r}; it has {there}")

    def points(self, experiment: ExperimentConfig, group: str) -> list[PointConfig]:
        """The points of one group of an experiment."""
        found = experiment.group(group)
        return [
            PointConfig(
                data=data,
                variant=variant,
                recipe_name=recipe,
                recipe=self.recipes[recipe],
                measures=found.measures or experiment.measures,
                seeds=found.seeds if found.seeds is not None else self.seeds,
            )
            for data in found.data
            for variant in found.variants
            for recipe in found.recipes
        ]
