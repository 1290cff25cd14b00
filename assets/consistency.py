"""Do the seeds of a variant find the same features?"""

import dagster as dg

from assets.checks import check_specs, consistency_checks
from assets.keys import StudyKeys, activations_key
from assets.options import Pool, study_options
from assets.partitions import all_seeds_of_variant, run_key, study_partitions
from assets.pictures import consistency_metadata
from assets.recording import StoreResource, progress_of, record, upstream
from sae_core.chain import CODE_VERSION, make_consistency
from sae_core.config import StudyConfig
from sae_core.store import digest_json


def consistency_asset(study: StudyConfig) -> dg.AssetsDefinition:
    """``<study>/consistency`` [variant]: PW-MCC over all pairs of seeds, with its nulls and its uncertainty."""
    keys, source = StudyKeys(study.name), activations_key(study.model, study.hook)

    @dg.asset(
        key=keys.consistency,
        deps=[all_seeds_of_variant(keys.sae), source],
        partitions_def=study_partitions(study).variants,
        code_version=f"{CODE_VERSION['consistency']}.{digest_json(study.consistency.model_dump(mode='json'))[:8]}",
        kinds={"scipy"},
        **study_options(study, Pool.MEASURING),
        description="PW-MCC (Song et al. 2025): mean cosine under the best one-to-one matching, over pairs of seeds.",
        check_specs=check_specs(keys.consistency, consistency_checks),
    )
    def consistency(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        opened, variant = store.open(), context.partition_key
        runs = {
            name: upstream(context, opened, keys.sae, run_key(variant, seed))
            for name, seed in study.run_names().items()
        }
        activations, progress = upstream(context, opened, source)["activations"], progress_of(context, variant)
        made = make_consistency(opened, runs, activations, study.consistency, progress)
        return record(
            {"consistency": made},
            metadata=consistency_metadata(made),
            check_results=consistency_checks(keys.consistency, made, study.checks),
        )

    return consistency
