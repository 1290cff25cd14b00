"""Do explanations predict where their features fire?"""

import dagster as dg

from assets.checks import check_specs, score_checks
from assets.code_versions import scores_version, versioned
from assets.descriptions import scores_text
from assets.keys import StudyKeys, activations_key
from assets.options import Pool, study_options
from assets.partitions import run_key, split_run_key, study_partitions
from assets.pictures import score_metadata
from assets.recording import StoreResource, progress_of, record, upstream
from sae_core.config import ModelConfig, StudyConfig
from sae_core.explanation_chain import make_scores


def scores_asset(study: StudyConfig, model: ModelConfig) -> dg.AssetsDefinition:
    """``<study>/explanation_scores`` [variant x seed]: every explanation against text that did not make it."""
    keys, source = StudyKeys(study.name), activations_key(study.model, study.hook)

    @dg.asset(
        key=keys.scores,
        deps=[keys.contexts, keys.explanations, source],
        partitions_def=study_partitions(study).runs,
        **versioned(scores_version(study)),
        kinds={"scipy"},
        **study_options(study, Pool.LANGUAGE_MODEL),
        description=scores_text(study),
        check_specs=check_specs(keys.scores, score_checks, study.checks.blocking),
    )
    def explanation_scores(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        variant, seed = split_run_key(context)
        opened, title = store.open(), f"scores of {variant}, seed {seed}"
        explained = upstream(context, opened, keys.explanations, run_key(variant, seed))
        made = make_scores(
            opened,
            upstream(context, opened, keys.contexts, run_key(variant, seed))["feature_contexts"],
            explained,
            upstream(context, opened, source),
            model,
            study.scoring,
            study.embedder,
            progress_of(context, title),
        )
        return record(
            made,
            metadata=score_metadata(made, explained),
            check_results=score_checks(keys.scores, made, explained, study.checks),
        )

    return explanation_scores
