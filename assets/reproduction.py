"""The published numbers beside ours."""

import dagster as dg

from assets.keys import StudyKeys, SyntheticKeys
from assets.options import synthetic_options
from assets.partitions import all_groups, all_partitions, groups_by_partition
from assets.pictures import reproduction_metadata
from assets.recording import StoreResource, progress_of, record, upstream, upstream_if_any
from sae_core.config import StudyConfig
from sae_core.store import Artifact, ArtifactStore, digest_json
from sae_core.synthetic_chain import SYNTHETIC_CODE_VERSION, make_reproduction
from sae_core.synthetic_config import SyntheticStudyConfig


def reproduction_asset(study: SyntheticStudyConfig, language_model: StudyConfig | None) -> dg.AssetsDefinition:
    """``<study>/reproduction``: one page of all experiments, with a verdict on every published number.

    Args:
        language_model: the study whose variants stand there too, those of them that are materialized.
    """
    keys = SyntheticKeys(study.name)
    experiments = [all_groups(keys.experiment(experiment.name), experiment) for experiment in study.experiments]
    optional = [all_partitions(key) for key in _result_keys(language_model)] if language_model else []

    settings = digest_json(study.model_dump(mode="json", exclude={"automation", "owners"}))[:8]

    @dg.asset(
        key=keys.reproduction,
        deps=[*experiments, *optional],
        code_version=f"{SYNTHETIC_CODE_VERSION['reproduction']}.{settings}",
        kinds={"markdown"},
        **synthetic_options(study),
        description=_description(language_model),
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
        return record({"reproduction": made}, metadata=reproduction_metadata(made))

    return reproduction


def _description(language_model: StudyConfig | None) -> str:
    text = "What was published, what came out here, and what to make of it."
    if language_model:
        text += (
            f" Results of the study {language_model.name} stand there too, as far as there are any; without them it is "
            "made all the same, whatever the question before materializing says."
        )
    return text


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
