"""For every stage: from its recipe back to the call that makes it. Part of *reproduce*."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter

from sae_core.chain import (
    make_activations,
    make_consistency,
    make_contexts,
    make_evaluation,
    make_pretrained_sae,
    make_reference_losses,
    make_report,
    make_sae,
)
from sae_core.config import (
    ConsistencyConfig,
    ContextsConfig,
    EmbedderConfig,
    EvaluationConfig,
    ExplanationsConfig,
    LanguageModelConfig,
    ModelConfig,
    PackagedModel,
    PretrainedConfig,
    RunSeeds,
    ScoringConfig,
    StudyConfig,
    TrainedConfig,
    TrainingConfig,
)
from sae_core.explanation_chain import make_explanation, make_feature_contexts, make_score, make_similarity
from sae_core.progress import Progress
from sae_core.store import Artifact, ArtifactStore
from sae_core.synthetic_chain import make_experiment, make_point, make_reproduction
from sae_core.synthetic_config import PointConfig, SyntheticStudyConfig
from sae_core.version_chain import versions_from

Arguments = Mapping[str, Any]
Upstream = Mapping[str, Artifact]
Remake = Callable[[ArtifactStore, Arguments, Upstream, Progress], Artifact]
"""``remake(store, arguments, upstream, progress)``: calls the stage with the arguments of a recipe and the upstream
artifacts by their names in the manifest."""

_TRAINED: TypeAdapter[TrainedConfig] = TypeAdapter(TrainedConfig)


def _contexts(store: ArtifactStore, given: Arguments, upstream: Upstream, progress: Progress) -> Artifact:
    return make_contexts(store, ModelConfig.model_validate(given["model"]), progress)


def _activations(store: ArtifactStore, given: Arguments, upstream: Upstream, progress: Progress) -> Artifact:
    model = ModelConfig.model_validate(given["model"])
    return make_activations(store, model, given["hook"], progress)["activations"]


def _sae(store: ArtifactStore, given: Arguments, upstream: Upstream, progress: Progress) -> Artifact:
    return make_sae(
        store,
        upstream["activations"],
        _TRAINED.validate_python(given["variant"]),
        TrainingConfig.model_validate(given["training"]),
        RunSeeds.model_validate(given["seeds"]),
        progress,
    )


def _pretrained_sae(store: ArtifactStore, given: Arguments, upstream: Upstream, progress: Progress) -> Artifact:
    variant = PretrainedConfig.model_validate(given["variant"])
    return make_pretrained_sae(store, upstream["activations"], variant, given["number"])


def _reference_losses(store: ArtifactStore, given: Arguments, upstream: Upstream, progress: Progress) -> Artifact:
    config = EvaluationConfig.model_validate(given["config"])
    return make_reference_losses(store, upstream, _language_model(given), config, progress)


def _evaluation(store: ArtifactStore, given: Arguments, upstream: Upstream, progress: Progress) -> Artifact:
    config = EvaluationConfig.model_validate(given["config"])
    made_of = {name: upstream[name] for name in ("contexts", "activations")}
    return make_evaluation(store, upstream["sae"], made_of, _language_model(given), config, progress)


def _consistency(store: ArtifactStore, given: Arguments, upstream: Upstream, progress: Progress) -> Artifact:
    runs = {run: {name: upstream[f"{name} {run}"] for name in names} for run, names in given["runs"].items()}
    config = ConsistencyConfig.model_validate(given["config"])
    return make_consistency(store, runs, upstream["activations"], config, progress)


def _model_versions(store: ArtifactStore, given: Arguments, upstream: Upstream, progress: Progress) -> Artifact:
    return versions_from(store, given["inputs"], upstream, progress)


def _report(store: ArtifactStore, given: Arguments, upstream: Upstream, progress: Progress) -> Artifact:
    variants = {key: {name: upstream[f"{key}/{name}"] for name in names} for key, names in given["variants"].items()}
    study, model = StudyConfig.model_validate(given["study"]), ModelConfig.model_validate(given["model"])
    return make_report(store, study, model, variants, progress)


def _feature_contexts(store: ArtifactStore, given: Arguments, upstream: Upstream, progress: Progress) -> Artifact:
    made_of = {name: upstream[name] for name in ("contexts", "activations")}
    config = ContextsConfig.model_validate(given["config"])
    return make_feature_contexts(store, upstream["sae"], made_of, _language_model(given), config, progress)


def _explanations(store: ArtifactStore, given: Arguments, upstream: Upstream, progress: Progress) -> Artifact:
    config = ExplanationsConfig.model_validate(given["config"])
    (explainer,) = [each for each in config.explainers if each.name == given["explainer"]]
    features, contexts = given["features"], upstream["feature_contexts"]
    return make_explanation(
        store,
        contexts,
        upstream,
        _language_model(given),
        config,
        explainer,
        None if features is None else tuple(features),
        progress,
    )


def _scores(store: ArtifactStore, given: Arguments, upstream: Upstream, progress: Progress) -> Artifact:
    return make_score(
        store,
        upstream["feature_contexts"],
        upstream["explanations"],
        upstream,
        _language_model(given),
        ScoringConfig.model_validate(given["config"]),
        EmbedderConfig.model_validate(given["embedder"]),
        progress,
    )


def _similarity(store: ArtifactStore, given: Arguments, upstream: Upstream, progress: Progress) -> Artifact:
    runs = given["runs"]
    return make_similarity(
        store,
        upstream["consistency"],
        {run: upstream[f"feature_contexts {run}"] for run in runs},
        {name: {run: upstream[f"explanations {name} {run}"] for run in runs} for name in given["explainers"]},
        StudyConfig.model_validate(given["study"]),
        progress,
    )


def _language_model_files(store: ArtifactStore, given: Arguments, upstream: Upstream, progress: Progress) -> Artifact:
    from sae_core.model_sources import make_language_model

    return make_language_model(store, PackagedModel.model_validate(given["source"]))


def _synthetic_point(store: ArtifactStore, given: Arguments, upstream: Upstream, progress: Progress) -> Artifact:
    return make_point(store, PointConfig.model_validate(given["point"]), progress)


def _synthetic_experiment(store: ArtifactStore, given: Arguments, upstream: Upstream, progress: Progress) -> Artifact:
    study = SyntheticStudyConfig.model_validate(given["study"])
    return make_experiment(store, study, given["experiment"], given["group"], progress)


def _reproduction(store: ArtifactStore, given: Arguments, upstream: Upstream, progress: Progress) -> Artifact:
    return make_reproduction(
        store,
        SyntheticStudyConfig.model_validate(given["study"]),
        {(experiment, group): upstream[f"{experiment} {group}"] for experiment, group in given["experiments"]},
        {
            variant: {name: upstream[f"language model {variant} {name}"] for name in names}
            for variant, names in given["language_model"].items()
        },
        progress,
    )


def _language_model(given: Arguments) -> LanguageModelConfig:
    return LanguageModelConfig.model_validate(given["model"])


STAGES: dict[str, Remake] = {
    "language_model": _language_model_files,
    "contexts": _contexts,
    "activations": _activations,
    "sae": _sae,
    "pretrained_sae": _pretrained_sae,
    "reference_losses": _reference_losses,
    "evaluation": _evaluation,
    "consistency": _consistency,
    "feature_contexts": _feature_contexts,
    "explanations": _explanations,
    "explanation_scores": _scores,
    "explanation_similarity": _similarity,
    "model_versions": _model_versions,
    "report": _report,
    "synthetic_point": _synthetic_point,
    "synthetic_experiment": _synthetic_experiment,
    "reproduction": _reproduction,
}
"""Every stage that makes an artifact, by the name in its recipe."""
