"""Made-up results of points, for tests of what is told about them."""

from functools import cache

import numpy as np

from sae_core.config import ConsistencyConfig
from sae_core.consistency import ConsistencySummary, CosineHistogram, FrequencyBin, Run, consistency
from sae_core.synthetic.results import (
    CapacityLaw,
    Ceiling,
    DynamicsPoint,
    FeatureGroup,
    PointSummary,
    Premises,
    Quality,
    Recovery,
    RoundTrip,
    SeedCorrelation,
    SeedCount,
    Summaries,
)
from sae_core.synthetic_config import PointConfig, RecipeConfig, SyntheticConfig, SyntheticStudyConfig


def histogram(value: float, null: float, n: int = 200) -> CosineHistogram:
    """A peak at the value, and one of the null."""
    edges = np.linspace(0, 1, 41)
    rng = np.random.default_rng(0)
    counts, chance = (np.histogram(np.clip(rng.normal(centre, 0.05, n), 0, 1), edges)[0] for centre in (value, null))
    return CosineHistogram(edges=edges.tolist(), counts=counts.tolist(), null_counts=chance.astype(float).tolist())


@cache
def a_summary() -> ConsistencySummary:
    """The real thing, of three random dictionaries."""
    rng = np.random.default_rng(0)
    runs = [Run(f"seed {seed}", rng.standard_normal((6, 4)), rng.random(6)) for seed in range(3)]
    return consistency(runs, ConsistencyConfig(n_null_draws=1)).summary


def a_config(architecture: str = "topk", d_sae: int = 16, sae_k: int = 3, **data: object) -> PointConfig:
    """A point as a study file has it."""
    needs = {"standard": {"l1_coefficient": 0.1}, "topk": {"k": sae_k, "aux_k_coefficient": 0}}[architecture]
    return PointConfig.model_validate(
        {
            "data": {"d_in": 8, "d_gt": 16, "k": 3, **data},
            "variant": {"architecture": architecture, "d_sae": d_sae, **needs},
            "recipe_name": "unit",
            "recipe": RecipeConfig(),
            "measures": {},
            "seeds": [0, 1, 2],
        }
    )


def a_point(
    config: PointConfig | None = None,
    gt: float = 0.9,
    pw: float = 0.9,
    null: float = 0.5,
    half: float = 0.01,
    wrong: bool = False,
    **more: object,
) -> PointSummary:
    """A point with these numbers; everything that a figure may show is there."""
    config = config or a_config()
    n = len(config.seeds)
    kappa = {name: (value - null) / (1 - null) for name, value in (("gt_mcc", gt), ("pw_mcc", pw))}
    agreement = a_summary().model_copy(
        update={
            "pw_mcc": pw, "ci_low": pw - half, "ci_high": pw + half, "null_isotropic": null, "null_sign_flip": null,
            "kappa_isotropic": kappa["pw_mcc"], "kappa_sign_flip": kappa["pw_mcc"], "histogram": histogram(pw, null),
            "frequency_bins": [
                FrequencyBin(
                    low=10.0 ** (place - 5), high=10.0 ** (place - 4), n_matches=40 * (place + 1),
                    mean_cosine=pw - 0.05 * (4 - place), sd_cosine=0.1, contribution=pw / 5,
                )
                for place in range(5)
            ],
        }
    )  # fmt: skip
    trip = RoundTrip(n_codes=100, same_support=0.7, error=0.1)
    found = {
        "config": config,
        "recovery": Recovery(
            gt_mcc=gt, gt_ci_low=gt - half, gt_ci_high=gt + half, gt_mcc_by_run=[gt] * n, null_isotropic=null,
            null_sign_flip=null, kappa_isotropic=kappa["gt_mcc"], kappa_sign_flip=kappa["gt_mcc"],
            recovered_fraction={"0.9": 0.5}, uniqueness=0.8, histogram=histogram(gt, null),
        ),
        "consistency": agreement,
        "quality": Quality(fvu=0.1, fvu_by_run=[0.1] * n, l0=3.0, dead_fraction=0.0, n_samples=1000),
        "ceiling": Ceiling(n_runs=1, gt_mcc=0.97, gt_mcc_start=1.0, fvu=0.12, pw_mcc=None),
        "seed_correlation": SeedCorrelation(pearson=0.4, spearman=0.4, p_value=0.2, n_runs=n),
        "summaries": Summaries(
            tau=0.9, mean_run=0.6, best_run=0.7, medoid=0.65, consensus=0.8, mean_run_gt_mcc=gt, best_run_gt_mcc=gt,
            medoid_gt_mcc=gt, consensus_gt_mcc=gt, consensus_features=12, consensus_precision=0.9,
            mean_run_precision=0.8,
        ),
        "groups": [
            FeatureGroup(
                number=number, probability=0.1 / number, n_matched=10.0 / number, gt_mcc=gt - 0.02 * number,
                gt_mcc_sd=0.02,
            )
            for number in range(1, 5)
        ],
        "capacity": CapacityLaw(alpha=1.3, ci_low=1.2, ci_high=1.4),
        "dynamics": [
            DynamicsPoint(step=step, pw_mcc=null + (pw - null) * share, gt_mcc=null + (gt - null) * share, fvu=0.2)
            for step, share in ((0, 0.0), (10, 0.2), (100, 0.6), (1000, 0.9), (3000, 1.0))
        ],
        "seed_counts": [
            SeedCount(
                n_runs=count, n_draws=3, pw_mcc=pw, pw_mcc_sd=0.02 / count, ci_half_width=None if count == 2 else 0.02,
                mean_run=0.6, medoid=0.62, consensus=0.6 + 0.02 * count, consensus_sd=0.01, consensus_precision=0.9,
            )
            for count in (2, 3)
        ],
        "premises": Premises(
            mutual_coherence=0.8, coherence_bound=1.1, smallest_singular_value=0.1, n_sets=10, all_sets=False,
            spark_condition=None, truth=trip, truth_exhaustive=None, learned=trip,
        ),
        "chance_like": [name for name, value in kappa.items() if value < 0.05],
        "consistent_but_wrong": wrong,
    }  # fmt: skip
    return PointSummary.model_validate({**found, **more})


def results_of(study: SyntheticStudyConfig) -> dict[str, dict[str, list[PointSummary]]]:
    """A made-up point for every point of a study."""
    rng = np.random.default_rng(0)
    return {
        experiment.name: {
            group.name: [
                a_point(config, gt=float(rng.uniform(0.6, 1)), pw=float(rng.uniform(0.6, 1)))
                for config in study.points(experiment, group.name)
            ]
            for group in experiment.groups
        }
        for experiment in study.experiments
    }


def a_study(**group: object) -> SyntheticStudyConfig:
    """A study of one experiment with one group."""
    data = SyntheticConfig(d_in=8, d_gt=16, k=3)
    variants = [a_config().variant, a_config("standard").variant]
    return SyntheticStudyConfig.model_validate(
        {
            "name": "paper",
            "recipes": {"unit": {}},
            "experiments": [
                {
                    "name": "matched",
                    "title": "As many features",
                    "groups": [{"name": "8-16-3", "data": [data], "variants": variants, "recipes": ["unit"], **group}],
                }
            ],
        }
    )
