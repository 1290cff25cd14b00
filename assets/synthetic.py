"""Experiments on data whose true features are known."""

import dagster as dg

from assets.checks import check_specs, experiment_checks
from assets.keys import SyntheticKeys
from assets.options import synthetic_options
from assets.partitions import group_partitions, groups_by_partition
from assets.pictures import experiment_metadata
from assets.recording import StoreResource, progress_of, record
from sae_core.store import digest_json
from sae_core.synthetic_chain import SYNTHETIC_CODE_VERSION, make_experiment
from sae_core.synthetic_config import ExperimentConfig, SyntheticStudyConfig


def experiment_asset(study: SyntheticStudyConfig, experiment: ExperimentConfig) -> dg.AssetsDefinition:
    """``<study>/<experiment>`` [group]: all seeds of every point, how far they agree, and how far with the truth."""
    keys = SyntheticKeys(study.name)
    key, groups = keys.experiment(experiment.name), groups_by_partition(experiment)

    @dg.asset(
        key=key,
        partitions_def=group_partitions(experiment),
        code_version=_code_version(study, experiment),
        kinds={"pytorch"},
        **synthetic_options(study),
        description=experiment.title,
        check_specs=check_specs(key, experiment_checks),
    )
    def points(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        group = groups[context.partition_key if context.has_partition_key else None]
        progress = progress_of(context, f"{experiment.name}, {group}")
        made = make_experiment(store.open(), study, experiment.name, group, progress)
        return record(
            {"experiment": made}, metadata=experiment_metadata(made), check_results=experiment_checks(key, made)
        )

    return points


def _code_version(study: SyntheticStudyConfig, experiment: ExperimentConfig) -> str:
    """Of the code, and of the settings that decide the points and their figure."""
    settings = {
        group.name: [group.figure, group.x, [p.model_dump(mode="json") for p in study.points(experiment, group.name)]]
        for group in experiment.groups
    }
    code = ".".join(SYNTHETIC_CODE_VERSION[stage] for stage in ("synthetic_point", "synthetic_experiment"))
    return f"{code}.{digest_json(settings)[:8]}"
