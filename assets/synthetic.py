"""Experiments on data whose true features are known."""

import dagster as dg

from assets.checks import check_specs, experiment_checks
from assets.code_versions import experiment_version, versioned
from assets.descriptions import experiment_text
from assets.keys import SyntheticKeys
from assets.options import synthetic_options
from assets.partitions import group_partitions, groups_by_partition
from assets.pictures import experiment_metadata
from assets.recording import StoreResource, progress_of, record
from sae_core.synthetic_chain import make_experiment
from sae_core.synthetic_config import ExperimentConfig, SyntheticStudyConfig


def experiment_asset(study: SyntheticStudyConfig, experiment: ExperimentConfig) -> dg.AssetsDefinition:
    """``<study>/<experiment>`` [group]: all seeds of every point, how far they agree, and how far with the truth."""
    keys = SyntheticKeys(study.name)
    key, groups = keys.experiment(experiment.name), groups_by_partition(experiment)

    @dg.asset(
        key=key,
        partitions_def=group_partitions(experiment),
        **versioned(experiment_version(study, experiment)),
        kinds={"pytorch"},
        **synthetic_options(study),
        description=experiment_text(study, experiment),
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
