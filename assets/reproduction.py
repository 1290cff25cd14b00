"""The published numbers beside ours."""

import dagster as dg

from assets.checks import check_specs, reproduction_checks
from assets.code_versions import reproduction_version, versioned
from assets.descriptions import reproduction_text
from assets.keys import StudyKeys, SyntheticKeys
from assets.options import synthetic_options
from assets.partitions import all_groups, all_partitions, groups_by_partition
from assets.pictures import reproduction_metadata
from assets.recording import StoreResource, progress_of, record, upstream, upstream_if_any
from sae_core.config import StudyConfig
from sae_core.store import Artifact, ArtifactStore
from sae_core.synthetic_chain import make_reproduction
from sae_core.synthetic_config import SyntheticStudyConfig


def reproduction_asset(study: SyntheticStudyConfig, language_model: StudyConfig | None) -> dg.AssetsDefinition:
    """``<study>/reproduction``: one page of all experiments, with a verdict on every published number.

    Args:
        language_model: the study whose variants stand there too, those of them that are materialized.
    """
    keys = SyntheticKeys(study.name)
    experiments = [all_groups(keys.experiment(experiment.name), experiment) for experiment in study.experiments]
    optional = _result_keys(language_model) if language_model else ()

    @dg.asset(
        key=keys.reproduction,
        deps=[*experiments, *map(all_partitions, optional)],
        **versioned(reproduction_version(study, language_model)),
        kinds={"markdown"},
        **synthetic_options(study, optional),
        description=reproduction_text(study, language_model),
        check_specs=check_specs(keys.reproduction, reproduction_checks),
    )
    def reproduction(context: dg.AssetExecutionContext, store: StoreResource) -> dg.MaterializeResult:
        opened = store.open()
        made_of = {
            (experiment.name, group): upstream(context, opened, keys.experiment(experiment.name), part)["experiment"]
            for experiment in study.experiments
            for part, group in groups_by_partition(experiment).items()
        }
        found = _materialized(context, opened, language_model) if language_model else {}
        made = make_reproduction(opened, study, made_of, found, progress_of(context, "reproduction"))
        checks = reproduction_checks(keys.reproduction, made)
        return record({"reproduction": made}, metadata=reproduction_metadata(made), check_results=checks)

    return reproduction


def _result_keys(study: StudyConfig) -> tuple[dg.AssetKey, dg.AssetKey]:
    keys = StudyKeys(study.name)
    return keys.consistency, keys.similarity


def _materialized(
    context: dg.AssetExecutionContext, store: ArtifactStore, study: StudyConfig
) -> dict[str, dict[str, Artifact]]:
    """What there is of every variant whose seeds were compared; explanations may be missing."""
    consistency, similarity = _result_keys(study)
    found = {}
    for variant in study.variants:
        if compared := upstream_if_any(context, store, consistency, variant.key):
            found[variant.key] = compared | (upstream_if_any(context, store, similarity, variant.key) or {})
    return found
