"""What features respond to, in words."""

import dagster as dg

from assets.checks import check_specs, explanation_checks
from assets.keys import StudyKeys, activations_key
from assets.partitions import run_key, split_run_key, study_partitions
from assets.pictures import explanation_metadata
from assets.recording import StoreResource, progress_of, record, upstream
from sae_core.chain import CODE_VERSION, make_explanations
from sae_core.config import ModelConfig, StudyConfig
from sae_core.store import digest_json


def explanations_asset(study: StudyConfig, model: ModelConfig) -> dg.AssetsDefinition:
    """``<study>/explanations`` [variant x seed]: an explanation of every feature from its strongest contexts."""
    keys, source = StudyKeys(study.name), activations_key(study.model, study.hook)

    @dg.asset(
        key=keys.explanations,
        deps=[keys.sae, source],
        partitions_def=study_partitions(study).runs,
        group_name="explanations",
        code_version=f"{CODE_VERSION['explanations']}.{digest_json(study.explanations.model_dump(mode='json'))[:8]}",
        kinds={study.explanations.explainer.kind},
        tags={"study": study.name},
        description="From held-out contexts; each half of the corpus explains for itself.",
        check_specs=check_specs(keys.explanations, explanation_checks),
    )
    def explanations(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        variant, seed = split_run_key(context)
        opened, title = store.open(), f"explanations of {variant}, seed {seed}"
        made = make_explanations(
            opened,
            upstream(context, opened, keys.sae, run_key(variant, seed)),
            upstream(context, opened, source),
            model,
            study.explanations,
            progress_of(context, title),
        )
        return record(
            {"explanations": made},
            metadata=explanation_metadata(made),
            check_results=explanation_checks(keys.explanations, made, study.checks),
        )

    return explanations
