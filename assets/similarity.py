"""Are consistent features explained alike?"""

from collections.abc import Mapping

import dagster as dg

from assets.checks import check_specs, similarity_checks
from assets.code_versions import similarity_version, versioned
from assets.descriptions import similarity_text
from assets.keys import StudyKeys
from assets.options import Pool, study_options
from assets.partitions import all_seeds_of_variant, run_key, study_partitions
from assets.pictures import similarity_metadata
from assets.recording import StoreResource, progress_of, record, upstream
from sae_core.config import StudyConfig
from sae_core.explainer_labels import explainer_labels
from sae_core.explanation_chain import make_similarity
from sae_core.store import Artifact


def similarity_asset(study: StudyConfig) -> dg.AssetsDefinition:
    """``<study>/explanation_similarity`` [variant]: explanations of matched features against decoys."""
    keys = StudyKeys(study.name)

    @dg.asset(
        key=keys.similarity,
        deps=[keys.consistency, all_seeds_of_variant(keys.contexts), all_seeds_of_variant(keys.explanations)],
        partitions_def=study_partitions(study).variants,
        **versioned(similarity_version(study)),
        kinds={"pytorch", "scipy"},
        **study_options(study, Pool.MEASURING),
        description=similarity_text(study),
        check_specs=check_specs(keys.similarity, similarity_checks, study.checks.blocking),
    )
    def explanation_similarity(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        opened, variant = store.open(), context.partition_key
        runs = {name: run_key(variant, seed) for name, seed in study.run_names().items()}
        explained = {name: upstream(context, opened, keys.explanations, run) for name, run in runs.items()}
        made = make_similarity(
            opened,
            upstream(context, opened, keys.consistency, variant)["consistency"],
            {name: upstream(context, opened, keys.contexts, run)["feature_contexts"] for name, run in runs.items()},
            _by_explainer(study, explained),
            study,
            progress_of(context, f"similarity of {variant}"),
        )
        return record(
            {"explanation_similarity": made},
            metadata=similarity_metadata(made),
            check_results=similarity_checks(keys.similarity, made, study.checks),
        )

    return explanation_similarity


def _by_explainer(study: StudyConfig, runs: Mapping[str, Mapping[str, Artifact]]) -> dict[str, dict[str, Artifact]]:
    """Artifacts by explainer and run, from those by run and name."""
    labels = explainer_labels(study.explanations.explainers, "explanations")
    for run, found in runs.items():
        if missing := [name for name, label in labels.items() if label not in found]:
            raise dg.Failure(
                f"the explanations of {run} were made without {', '.join(missing)}: materialize them again, now that "
                "the study names more explainers",
                allow_retries=False,
            )
    return {name: {run: found[label] for run, found in runs.items()} for name, label in labels.items()}
