"""Where features fire on held-out text: what explanations are made of and scored on."""

import dagster as dg

from assets.checks import check_specs, context_checks
from assets.code_versions import contexts_version, versioned
from assets.descriptions import contexts_text
from assets.keys import StudyKeys, activations_key
from assets.options import Pool, study_options
from assets.partitions import run_key, split_run_key, study_partitions
from assets.pictures import context_metadata
from assets.recording import StoreResource, progress_of, record, upstream
from sae_core.config import ModelConfig, StudyConfig
from sae_core.explanation_chain import make_feature_contexts


def contexts_asset(study: StudyConfig, model: ModelConfig) -> dg.AssetsDefinition:
    """``<study>/contexts`` [variant x seed]: where every feature fires, in both halves of the text."""
    keys, source = StudyKeys(study.name), activations_key(study.model, study.hook)

    @dg.asset(
        key=keys.contexts,
        deps=[keys.sae, source],
        partitions_def=study_partitions(study).runs,
        **versioned(contexts_version(study)),
        kinds={"pytorch", "parquet"},
        **study_options(study, Pool.LANGUAGE_MODEL),
        description=contexts_text(study),
        check_specs=check_specs(keys.contexts, context_checks, study.checks.blocking),
    )
    def contexts(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        variant, seed = split_run_key(context)
        opened, title = store.open(), f"contexts of {variant}, seed {seed}"
        made = make_feature_contexts(
            opened,
            upstream(context, opened, keys.sae, run_key(variant, seed))["sae"],
            upstream(context, opened, source),
            model,
            study.contexts,
            progress_of(context, title),
        )
        return record(
            {"feature_contexts": made},
            metadata=context_metadata(made),
            check_results=context_checks(keys.contexts, made, study.checks),
        )

    return contexts
