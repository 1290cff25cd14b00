"""Code versions of the assets: what Dagster compares to know that settings or code changed since a partition was made.

A code version holds the number of the code of a stage (raised by hand when the same inputs give other results) and a
digest of the settings that decide the fingerprint of its artifacts in the store, no more: a setting that decides
nothing makes nothing stale. What is upstream is not part of it, for its content is compared by itself. The settings
of a variant are in its partition key, so that one more variant leaves the others alone.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from sae_core.chain import CODE_VERSION, settings_of
from sae_core.chat import PromptName, load_prompt
from sae_core.config import (
    Config,
    EmbedderConfig,
    LexicalExplainer,
    ModelConfig,
    PackagedEmbedder,
    PretrainedConfig,
    StudyConfig,
)
from sae_core.explanation_chain import (
    EXPLANATION_CODE_VERSION,
    JUDGING_PROMPTS,
    SCORING_PROMPTS,
    decisive_settings,
    prompts_of,
)
from sae_core.store import digest_json
from sae_core.synthetic_chain import SYNTHETIC_CODE_VERSION
from sae_core.synthetic_config import ExperimentConfig, SyntheticStudyConfig
from sae_core.version_chain import VERSION_CODE_VERSION

STEP_TAG = "sae_concord/code_version"
"""Tag of the step that makes an asset. The plan of a run keeps it, also of a run that failed, whose materialization
would have said it."""


class Versioned(TypedDict):
    """Arguments of ``dg.asset``."""

    code_version: str
    op_tags: dict[str, str]


def versioned(code_version: str) -> Versioned:
    """The arguments of ``dg.asset`` for an asset of this code version."""
    return {"code_version": code_version, "op_tags": {STEP_TAG: code_version}}


def activations_version(model: ModelConfig, hook: str) -> str:
    """Of the contexts of the text and of the activations at one hook point.

    Where the model and the text lie decides nothing; their content does, which is observed.
    """
    return _version(
        [CODE_VERSION["contexts"], CODE_VERSION["activations"]],
        {
            "hook": hook,
            "model_dtype": model.dtype,
            "corpus": settings_of(model.corpus, source=True, credit=True),
            "selection": model.corpus.selection,
            "activations": settings_of(model.activations),
        },
    )


def sae_version(study: StudyConfig, model: ModelConfig) -> str:
    """Of the SAEs and their evaluation.

    The files of pretrained SAEs are named in it, seed by seed: another list makes all SAEs of the study stale, and
    those that are the same come from the store.
    """
    stages = ("sae", "pretrained_sae", "reference_losses", "evaluation")
    pretrained = {
        variant.key: [variant.format, dict(zip(map(str, study.seeds), variant.saes, strict=True))]
        for variant in study.variants
        if isinstance(variant, PretrainedConfig)
    }
    return _version(
        [CODE_VERSION[stage] for stage in stages],
        {
            "training": study.training and study.training.decisive(),
            "vary": sorted(study.vary),
            "evaluation": settings_of(study.evaluation),
            "model_dtype": model.dtype,
            "pretrained": pretrained,
        },
    )


def consistency_version(study: StudyConfig) -> str:
    """Of the comparison of the seeds; a seed that was removed is noticed by it alone."""
    return _version(
        [CODE_VERSION["consistency"]], {"config": settings_of(study.consistency), "runs": list(study.run_names())}
    )


def model_versions_version(study: StudyConfig) -> str:
    """Of the comparison of the versions of the model."""
    return _version([VERSION_CODE_VERSION["model_versions"]], settings_of(study.consistency))


def contexts_version(study: StudyConfig) -> str:
    """Of the feature contexts."""
    return _version([EXPLANATION_CODE_VERSION["feature_contexts"]], settings_of(study.contexts))


def explanations_version(study: StudyConfig) -> str:
    """Of the explanations by all explainers, and of the prompts they use."""
    explainers = study.explanations.explainers
    return _version(
        [EXPLANATION_CODE_VERSION["explanations"]],
        {
            "config": settings_of(study.explanations, explainers=True),
            "explainers": [decisive_settings(explainer) for explainer in explainers],
            "prompts": _prompts(name for explainer in explainers for name in prompts_of(explainer)),
        },
    )


def scores_version(study: StudyConfig) -> str:
    """Of the scores. A rule is run and not judged, so where all explanations are rules no scorer decides anything."""
    judged = any(not isinstance(explainer, LexicalExplainer) for explainer in study.explanations.explainers)
    scorer = study.scoring.scorer if judged else None
    return _version(
        [EXPLANATION_CODE_VERSION["explanation_scores"]],
        {
            "config": settings_of(study.scoring, scorer=True),
            "embedder": _embedder(study.embedder),
            "scorer": scorer and decisive_settings(scorer),
            "prompts": _prompts(SCORING_PROMPTS if scorer else ()),
        },
    )


def similarity_version(study: StudyConfig) -> str:
    """Of the comparison of the explanations."""
    judge, explained = study.similarity.judge, study.explanations
    return _version(
        [EXPLANATION_CODE_VERSION["explanation_similarity"]],
        {
            "config": settings_of(study.similarity, judge=True),
            "embedder": _embedder(study.embedder),
            "judge": judge and decisive_settings(judge),
            "prompts": _prompts(JUDGING_PROMPTS if judge else ()),
            "min_activations": explained.min_activations,
            # The seed of the explanations decides here only which pairs are drawn.
            "asked": [
                [each.name, each.n_pairs, explained.seed if each.n_pairs else None] for each in explained.explainers
            ],
            "runs": list(study.run_names()),
        },
    )


def report_version(study: StudyConfig, model: ModelConfig) -> str:
    """Of the report, which prints every setting of the study."""
    return _version(
        [CODE_VERSION["report"]],
        {
            "study": settings_of(study, automation=True, owners=True),
            "credit": model.corpus.credit,
            "model": model.name,
        },
    )


def experiment_version(study: SyntheticStudyConfig, experiment: ExperimentConfig) -> str:
    """Of all points of one experiment of a synthetic study, and of its figures.

    It is one for all groups: a changed group makes the others stale too, whose points come from the store.
    """
    settings = {
        group.name: [group.figure, group.x, [settings_of(point) for point in study.points(experiment, group.name)]]
        for group in experiment.groups
    }
    return _version([SYNTHETIC_CODE_VERSION[stage] for stage in ("synthetic_point", "synthetic_experiment")], settings)


def reproduction_version(study: SyntheticStudyConfig, language_model: StudyConfig | None) -> str:
    """Of the page that sets the published numbers beside ours.

    Args:
        language_model: the study whose variants stand there too.
    """
    return _version(
        [SYNTHETIC_CODE_VERSION["reproduction"]],
        {
            "study": settings_of(study, automation=True, owners=True),
            "language_model": language_model and [variant.key for variant in language_model.variants],
        },
    )


def _embedder(embedder: EmbedderConfig) -> list[Any]:
    """How a package is installed decides nothing."""
    source: Config = embedder.source
    settings = settings_of(source, install=True) if isinstance(source, PackagedEmbedder) else settings_of(source)
    return [settings, embedder.dtype]


def _prompts(names: Iterable[PromptName]) -> dict[str, str]:
    return {name: load_prompt(name).sha256 for name in names}


def _version(code: Iterable[str], settings: Mapping[str, Any]) -> str:
    return ".".join([*code, digest_json(settings)[:8]])
