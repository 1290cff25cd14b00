"""Are consistent features explained alike?"""

import dagster as dg

from assets.checks import check_specs, similarity_checks
from assets.keys import StudyKeys
from assets.partitions import all_seeds_of_variant, run_key, study_partitions
from assets.pictures import similarity_metadata
from assets.recording import StoreResource, progress_of, record, upstream
from sae_core.chain import CODE_VERSION, make_similarity
from sae_core.config import StudyConfig
from sae_core.store import digest_json


def similarity_asset(study: StudyConfig) -> dg.AssetsDefinition:
    """``<study>/explanation_similarity`` [variant]: explanations of matched features against decoys."""
    keys = StudyKeys(study.name)

    @dg.asset(
        key=keys.similarity,
        deps=[keys.consistency, all_seeds_of_variant(keys.explanations)],
        partitions_def=study_partitions(study).variants,
        group_name="similarity",
        code_version=f"{CODE_VERSION['explanation_similarity']}.{digest_json(study.similarity.model_dump(mode='json'))[:8]}",
        kinds={"pytorch"},
        tags={"study": study.name},
        description="Sentence-embedding cosine of matched pairs; Spearman correlation with the matched cosine.",
        check_specs=check_specs(keys.similarity, similarity_checks),
    )
    def explanation_similarity(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        opened, variant = store.open(), context.partition_key
        explained = {
            name: upstream(context, opened, keys.explanations, run_key(variant, seed))["explanations"]
            for name, seed in study.run_names().items()
        }
        matched = upstream(context, opened, keys.consistency, variant)["consistency"]
        made = make_similarity(
            opened, matched, explained, study.similarity, progress_of(context, f"similarity of {variant}")
        )
        return record(
            {"explanation_similarity": made},
            metadata=similarity_metadata(made),
            check_results=similarity_checks(keys.similarity, made, study.checks),
        )

    return explanation_similarity
