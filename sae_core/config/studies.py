"""Settings of a *study file*: everything about one study on a language model."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sae_core.config.architectures import PretrainedConfig, VariantConfig
from sae_core.config.base import Automation, Config, Name, Owner
from sae_core.config.checks import ChecksConfig
from sae_core.config.consistency import ConsistencyConfig
from sae_core.config.explanations import (
    ContextsConfig,
    EmbedderConfig,
    ExplanationsConfig,
    ScoringConfig,
    SimilarityConfig,
)
from sae_core.config.training import EvaluationConfig, RunSeeds, TrainingConfig
from sae_core.sweeps import Sweeps


class StudyConfig(Config):
    """A *study file*: which activations, which variants, which seeds."""

    name: Name
    model: Name
    """Name of a model file."""
    hook: str
    """One of the hooks of that model file."""
    variants: Annotated[list[VariantConfig], Sweeps()] = Field(min_length=1)
    """Architectures with their numbers. A value may be a sweep, as in ``k: {sweep: [8, 16, 32]}``: the entry then
    stands for a variant with each of the values; several sweeps in an entry, for each of their combinations."""
    seeds: list[Annotated[int, Field(ge=0)]]
    vary: list[Literal["init", "order", "data"]] = Field(default=["init"])
    """What a seed changes: the initial weights, the order of the tokens, which ``training.data_fraction`` of the text
    is seen, or several of them. What is not named uses seed 0."""
    training: TrainingConfig | None = None
    """Needed unless all variants are pretrained."""
    evaluation: EvaluationConfig = EvaluationConfig()
    consistency: ConsistencyConfig = ConsistencyConfig()
    contexts: ContextsConfig = ContextsConfig()
    explanations: ExplanationsConfig = ExplanationsConfig()
    scoring: ScoringConfig = ScoringConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    similarity: SimilarityConfig = SimilarityConfig()
    checks: ChecksConfig = ChecksConfig()
    automation: Automation = "manual"
    """What the daemon makes anew by itself."""
    owners: list[Owner] = Field(default=[])
    """Whom to ask; shown in the UI."""

    @model_validator(mode="after")
    def _distinct(self) -> "StudyConfig":
        if len(set(self.seeds)) < 2:
            raise ValueError(
                f"consistency needs at least two different seeds: got seeds={self.seeds}; add one, as in [0, 1, 2]"
            )
        names = {"seeds": [str(seed) for seed in self.seeds], "variants": [variant.key for variant in self.variants]}
        for what, keys in names.items():
            twice = sorted({key for key in keys if keys.count(key) > 1})
            if twice:
                raise ValueError(f"{what} must differ: {', '.join(twice)} given more than once; remove the copy")
        if self.name in ("model", "corpus", "activations", "broken"):
            raise ValueError(
                f"a study cannot be called {self.name!r}, which is the first part of other asset keys; rename it"
            )
        for variant in self.variants:
            if isinstance(variant, PretrainedConfig) and len(variant.saes) != len(self.seeds):
                raise ValueError(
                    f"variant {variant.key} must name one SAE for each seed: got {len(variant.saes)} saes and "
                    f"{len(self.seeds)} seeds; number the seeds 0 to {len(variant.saes) - 1}, or correct the list"
                )
        if self.training is None and not all(isinstance(variant, PretrainedConfig) for variant in self.variants):
            raise ValueError("training is missing: a study that trains SAEs says for how long, as in {n_steps: 10000}")
        if not self.vary:
            raise ValueError("vary must name what a seed changes: got nothing; write [init], [order] or [init, order]")
        if "data" in self.vary and self.training is not None and self.training.data_fraction == 1:
            raise ValueError(
                "vary names data, but training.data_fraction is 1, so all seeds would see the same text; set "
                "training.data_fraction below 1 (0.5: each seed sees a half of its own), or take data out of vary"
            )
        return self

    def variant(self, key: str) -> VariantConfig:
        """The variant with this key.

        Raises:
            KeyError: if there is none; the message lists those there are.
        """
        for variant in self.variants:
            if variant.key == key:
                return variant
        raise KeyError(f"study {self.name} has no variant {key!r}; it has {', '.join(v.key for v in self.variants)}")

    @property
    def required_training(self) -> TrainingConfig:
        """The settings of the training loop.

        Raises:
            ValueError: if the study trains nothing.
        """
        if self.training is None:
            raise ValueError(f"study {self.name} has no training settings: all its variants are pretrained")
        return self.training

    def run_names(self) -> dict[str, int]:
        """Names of the runs of a variant, as they stand in every table, and their seeds: ``{"seed 0": 0}``."""
        return {f"seed {seed}": seed for seed in self.seeds}

    def run_seeds(self, seed: int) -> RunSeeds:
        """The named seeds of the run with this study seed."""
        init, order, data = (seed if name in self.vary else 0 for name in ("init", "order", "data"))
        return RunSeeds(init_seed=init, order_seed=order, data_seed=data)
