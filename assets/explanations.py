"""What features respond to, in words."""

import dagster as dg

from assets.checks import check_specs, explanation_checks
from assets.code_versions import explanations_version, versioned
from assets.descriptions import explanations_text
from assets.keys import StudyKeys, activations_key
from assets.options import Pool, study_options
from assets.partitions import run_key, split_run_key, study_partitions, variant_of_run
from assets.pictures import explanation_metadata
from assets.recording import StoreResource, progress_of, record, upstream
from sae_core.config import ModelConfig, StudyConfig
from sae_core.explanation_chain import make_explanations


def explanations_asset(study: StudyConfig, model: ModelConfig) -> dg.AssetsDefinition:
    """``<study>/explanations`` [variant x seed]: what every explainer says of the features, from each half of the text.

    It depends on *consistency* only where an explainer explains a sample of matched pairs.
    """
    keys, source = StudyKeys(study.name), activations_key(study.model, study.hook)
    explainers = study.explanations.explainers
    sampled = any(explainer.n_pairs is not None for explainer in explainers)

    @dg.asset(
        key=keys.explanations,
        deps=[keys.contexts, source, *([variant_of_run(keys.consistency)] if sampled else [])],
        partitions_def=study_partitions(study).runs,
        **versioned(explanations_version(study)),
        kinds={explainer.kind for explainer in explainers},
        **study_options(study, Pool.LANGUAGE_MODEL),
        description=explanations_text(study),
        check_specs=check_specs(keys.explanations, explanation_checks, study.checks.blocking),
    )
    def explanations(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        variant, seed = split_run_key(context)
        opened, title = store.open(), f"explanations of {variant}, seed {seed}"
        made = make_explanations(
            opened,
            upstream(context, opened, keys.contexts, run_key(variant, seed))["feature_contexts"],
            upstream(context, opened, source),
            model,
            study.explanations,
            upstream(context, opened, keys.consistency, variant)["consistency"] if sampled else None,
            next(name for name, its_seed in study.run_names().items() if its_seed == seed),
            progress_of(context, title),
        )
        return record(
            made,
            metadata=explanation_metadata(made),
            check_results=explanation_checks(keys.explanations, made, study.checks),
        )

    return explanations
