"""Do the seeds of a variant find the same features?"""

import dagster as dg

from assets.checks import check_specs, consistency_blocking, consistency_checks, earlier_agreement
from assets.code_versions import consistency_version, versioned
from assets.descriptions import consistency_text
from assets.keys import StudyKeys, activations_key
from assets.options import Pool, study_options
from assets.partitions import all_seeds_of_variant, run_key, study_partitions
from assets.pictures import consistency_metadata
from assets.recording import StoreResource, progress_of, record, upstream
from sae_core.chain import make_consistency
from sae_core.config import StudyConfig


def consistency_asset(study: StudyConfig) -> dg.AssetsDefinition:
    """``<study>/consistency`` [variant]: PW-MCC over all pairs of seeds, with its nulls and its uncertainty."""
    keys, source = StudyKeys(study.name), activations_key(study.model, study.hook)

    @dg.asset(
        key=keys.consistency,
        deps=[all_seeds_of_variant(keys.sae), source],
        partitions_def=study_partitions(study).variants,
        **versioned(consistency_version(study)),
        kinds={"scipy"},
        **study_options(study, Pool.MEASURING),
        description=consistency_text(study),
        check_specs=check_specs(keys.consistency, consistency_checks, consistency_blocking(study)),
    )
    def consistency(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        opened, variant = store.open(), context.partition_key
        runs = {
            name: upstream(context, opened, keys.sae, run_key(variant, seed))
            for name, seed in study.run_names().items()
        }
        activations, progress = upstream(context, opened, source)["activations"], progress_of(context, variant)
        made = make_consistency(opened, runs, activations, study.consistency, progress)
        earlier = earlier_agreement(context, keys.consistency, variant, made)
        return record(
            {"consistency": made},
            metadata=consistency_metadata(made),
            check_results=consistency_checks(keys.consistency, made, study, earlier),
        )

    return consistency
