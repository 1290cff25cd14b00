"""Did the features change with the model?"""

import dagster as dg

from assets.checks import check_specs, model_versions_checks
from assets.code_versions import model_versions_version, versioned
from assets.history import consistency_versions
from assets.keys import StudyKeys
from assets.options import Pool, study_options
from assets.partitions import all_seeds_of_variant, study_partitions
from assets.pictures import model_versions_metadata
from assets.recording import StoreResource, progress_of, record, upstream
from sae_core.config import StudyConfig
from sae_core.version_chain import make_model_versions


def model_versions_asset(study: StudyConfig) -> dg.AssetsDefinition:
    """``<study>/model_versions`` [variant]: all results over time, and old against new dictionaries."""
    keys = StudyKeys(study.name)

    @dg.asset(
        key=keys.model_versions,
        deps=[keys.consistency, all_seeds_of_variant(keys.sae)],
        partitions_def=study_partitions(study).variants,
        **versioned(model_versions_version(study)),
        kinds={"scipy"},
        **study_options(study, Pool.MEASURING),
        description="PW-MCC of every version over time, and PW-MCC across the last two versions of the model beside "
        "that within either: a difference near zero means that the model's change changed the features no more than "
        "another seed does.",
        check_specs=check_specs(keys.model_versions, model_versions_checks, study.checks.blocking),
    )
    def model_versions(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        opened, variant = store.open(), context.partition_key
        upstream(context, opened, keys.consistency, variant)  # refused where there is none
        versions = consistency_versions(context.instance, opened, keys.consistency, variant)
        made = make_model_versions(
            opened, versions, study.consistency, progress_of(context, f"model versions of {variant}")
        )
        checks = model_versions_checks(keys.model_versions, made, study.checks)
        return record({"model_versions": made}, metadata=model_versions_metadata(made), check_results=checks)

    return model_versions
