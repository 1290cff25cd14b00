"""The stages of explanations as artifacts, as *chain* has them for what lies before: contexts, explanations, scores,
similarity.

An explainer that is asked for a sample of matched pairs depends on which pairs were drawn, not on all of *consistency*:
one more seed makes it explain the new features only, since what a model replied stays in the store.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_core.chain import language_model_of, language_model_settings, settings_of
from sae_core.config import (
    ChatConfig,
    ContextsConfig,
    EmbedderConfig,
    Explainer,
    ExplanationsConfig,
    LanguageModelConfig,
    LexicalExplainer,
    ScoringConfig,
    StudyConfig,
)
from sae_core.explainer_labels import explainer_labels
from sae_core.progress import Progress, silent
from sae_core.recipes import recipe
from sae_core.store import Artifact, ArtifactStore, digest_json

if TYPE_CHECKING:
    from sae_core.chat import PromptName

EXPLANATION_CODE_VERSION = {
    "feature_contexts": "1",
    "explanations": "2",
    "explanation_scores": "1",
    "explanation_similarity": "2",
}
"""As ``CODE_VERSION`` of *chain*."""
SCORING_PROMPTS: "tuple[PromptName, ...]" = ("detect", "fuzz", "simulate")
"""Those of a model that scores explanations."""
JUDGING_PROMPTS: "tuple[PromptName, ...]" = ("judge",)
"""Those of a model that rates how alike two explanations are."""


def make_feature_contexts(
    store: ArtifactStore,
    sae: Artifact,
    upstream: Mapping[str, Artifact],
    model: LanguageModelConfig,
    config: ContextsConfig,
    progress: Progress = silent,
) -> Artifact:
    """Where the features of one run fire on held-out text.

    Args:
        upstream: ``contexts`` and ``activations``, as ``make_activations`` returns them.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        from sae_core.feature_contexts import collect_contexts
        from sae_core.formats import load_sae
        from sae_core.shards import open_shards

        return collect_contexts(
            folder,
            load_sae(sae.path),
            open_shards(upstream["activations"].path / "held_out"),
            _held_out_text(store, upstream, model),
            _reader(store, upstream, model),
            config,
            progress,
        )

    return store.get_or_build(
        "feature_contexts",
        build,
        code_version=EXPLANATION_CODE_VERSION["feature_contexts"],
        inputs={"config": settings_of(config)},
        upstream={"sae": sae, **upstream},
        recipe=recipe("feature_contexts", model=language_model_settings(model), config=config),
    )


def make_explanations(
    store: ArtifactStore,
    contexts: Artifact,
    upstream: Mapping[str, Artifact],
    model: LanguageModelConfig,
    config: ExplanationsConfig,
    consistency: Artifact | None = None,
    run: str = "",
    progress: Progress = silent,
) -> dict[str, Artifact]:
    """What the features of one run respond to, in words, by every explainer.

    Args:
        contexts: of ``make_feature_contexts``.
        consistency: of the variant; needed by explainers with ``n_pairs``.
        run: its name there.

    Returns:
        ``explanations``, those of the first explainer, and ``explanations <name>`` of the others.

    Raises:
        ValueError: if an explainer has ``n_pairs`` and ``consistency`` is not given.
    """
    labels, found = explainer_labels(config.explainers, "explanations"), {}
    for explainer in config.explainers:
        features = _features_of_pairs(explainer, config.seed, consistency, run)
        found[labels[explainer.name]] = make_explanation(
            store, contexts, upstream, model, config, explainer, features, progress
        )
    return found


def _features_of_pairs(
    explainer: Explainer, seed: int, consistency: Artifact | None, run: str
) -> tuple[int, ...] | None:
    """Features of one run in the drawn pairs of an explainer; None where it explains all."""
    if explainer.n_pairs is None:
        return None
    if consistency is None:
        raise ValueError(
            f"explainer {explainer.name} explains n_pairs={explainer.n_pairs} matched pairs: expected the consistency "
            "artifact that says which features match, got None"
        )
    drawn = _drawn_pairs(consistency, explainer.n_pairs, seed)
    sides = [(row["run_a"], row["feature_a"]) for row in drawn] + [(row["run_b"], row["feature_b"]) for row in drawn]
    return tuple(sorted({feature for name, feature in sides if name == run}))


def _drawn_pairs(consistency: Artifact, n_pairs: int, seed: int) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    from sae_core.similarity.draws import draw_pairs

    rows: list[dict[str, Any]] = draw_pairs(
        pq.read_table(consistency.path / "matches.parquet"), n_pairs, seed
    ).to_pylist()
    return rows


def make_explanation(
    store: ArtifactStore,
    contexts: Artifact,
    upstream: Mapping[str, Artifact],
    model: LanguageModelConfig,
    config: ExplanationsConfig,
    settings: Explainer,
    features: tuple[int, ...] | None,
    progress: Progress = silent,
) -> Artifact:
    """What one explainer says of the features of one run.

    Args:
        upstream: ``contexts``, as ``make_activations`` returns them.
        settings: of the explainer.
        features: those that are explained; None: all.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        from sae_core.explaining.artifact import explain_run
        from sae_core.explaining.chat_explainer import ChatExplainer
        from sae_core.explaining.lexical import LexicalExplainer as RuleWriter
        from sae_core.feature_contexts import read_contexts

        found, text = read_contexts(contexts.path), _held_out_text(store, upstream, model)
        if isinstance(settings, LexicalExplainer):
            return explain_run(folder, found, RuleWriter(settings, found, text), settings.kind, config, None, progress)
        chat = _chat(store, settings)
        explainer = ChatExplainer(settings, chat, found, text)
        summary = explain_run(folder, found, explainer, settings.kind, config, features, progress)
        return summary | _usage(chat)

    return store.get_or_build(
        "explanations",
        build,
        code_version=EXPLANATION_CODE_VERSION["explanations"],
        inputs={
            "config": settings_of(config, explainers=True),
            "explainer": decisive_settings(settings),
            "chat": {} if isinstance(settings, LexicalExplainer) else _chat_inputs(settings, prompts_of(settings)),
            "features": None if features is None else digest_json(list(features)),
        },
        upstream={"feature_contexts": contexts, "contexts": upstream["contexts"]},
        recipe=recipe(
            "explanations",
            model=language_model_settings(model),
            config=config,
            explainer=settings.name,
            features=features,
        ),
    )


def make_scores(
    store: ArtifactStore,
    contexts: Artifact,
    explanations: Mapping[str, Artifact],
    upstream: Mapping[str, Artifact],
    model: LanguageModelConfig,
    config: ScoringConfig,
    embedder: EmbedderConfig,
    progress: Progress = silent,
) -> dict[str, Artifact]:
    """How far the explanations of one run predict where its features fire, on the half that did not make them.

    Args:
        explanations: of ``make_explanations``.

    Returns:
        ``scores``, those of the first explainer, and ``scores <name>`` of the others.
    """
    return {
        name.replace("explanations", "scores", 1): make_score(
            store, contexts, explained, upstream, model, config, embedder, progress
        )
        for name, explained in explanations.items()
    }


def make_score(
    store: ArtifactStore,
    contexts: Artifact,
    explanations: Artifact,
    upstream: Mapping[str, Artifact],
    model: LanguageModelConfig,
    config: ScoringConfig,
    embedder: EmbedderConfig,
    progress: Progress = silent,
) -> Artifact:
    """The scores of what one explainer says of the features of one run.

    Args:
        explanations: of ``make_explanation``.
        upstream: ``contexts``, as ``make_activations`` returns them.
    """
    from sae_core.embeddings import embedder_digest

    # A rule is run, not judged by a model.
    scorer = config.scorer if explanations.summary["kind"] != "lexical" else None

    def build(folder: Path) -> Mapping[str, Any]:
        import pyarrow.parquet as pq

        from sae_core.feature_contexts import read_contexts
        from sae_core.scoring.score import score_run

        chat = None if scorer is None else _chat(store, scorer)
        summary: dict[str, Any] = score_run(
            folder,
            read_contexts(contexts.path),
            _held_out_text(store, upstream, model),
            pq.read_table(explanations.path / "explanations.parquet"),
            _embedder(embedder),
            chat,
            config,
            progress,
        )
        return summary | ({} if chat is None else _usage(chat))

    return store.get_or_build(
        "explanation_scores",
        build,
        code_version=EXPLANATION_CODE_VERSION["explanation_scores"],
        inputs={
            "config": settings_of(config, scorer=True),
            "embedder": [embedder_digest(embedder), embedder.dtype],
            "scorer": None if scorer is None else decisive_settings(scorer),
            "chat": {} if scorer is None else _chat_inputs(scorer, SCORING_PROMPTS),
        },
        upstream={"feature_contexts": contexts, "explanations": explanations, "contexts": upstream["contexts"]},
        recipe=recipe("explanation_scores", model=language_model_settings(model), config=config, embedder=embedder),
    )


def make_similarity(
    store: ArtifactStore,
    consistency: Artifact,
    contexts: Mapping[str, Artifact],
    explanations: Mapping[str, Mapping[str, Artifact]],
    study: StudyConfig,
    progress: Progress = silent,
) -> Artifact:
    """Whether matched features are explained alike.

    Args:
        contexts: of every run, by its name.
        explanations: by explainer, in the order of the study, and by run.
    """
    from sae_core.embeddings import embedder_digest

    config, judge = study.similarity, study.similarity.judge
    explained = study.explanations
    asked = {each.name: each.n_pairs for each in explained.explainers}

    def build(folder: Path) -> Mapping[str, Any]:
        import pyarrow.parquet as pq

        from sae_core.feature_contexts import read_contexts
        from sae_core.similarity.chance import chance_cosines
        from sae_core.similarity.compare import explanation_similarity, write_similarity
        from sae_core.similarity.draws import draw_pairs

        matches = pq.read_table(consistency.path / "matches.parquet")
        chat = None if judge is None else _chat(store, judge)
        report = explanation_similarity(
            matches,
            {run: read_contexts(artifact.path) for run, artifact in contexts.items()},
            {
                name: {run: pq.read_table(artifact.path / "explanations.parquet") for run, artifact in runs.items()}
                for name, runs in explanations.items()
            },
            {
                name: None if n_pairs is None else draw_pairs(matches, n_pairs, explained.seed)
                for name, n_pairs in asked.items()
            },
            chance_cosines(pq.read_table(consistency.path / "pairs.parquet"), consistency.summary),
            _embedder(study.embedder),
            chat,
            config,
            progress,
            explained.min_activations,
        )
        return write_similarity(folder, report) | ({} if chat is None else _usage(chat))

    return store.get_or_build(
        "explanation_similarity",
        build,
        code_version=EXPLANATION_CODE_VERSION["explanation_similarity"],
        inputs={
            "config": settings_of(config, judge=True),
            "embedder": [embedder_digest(study.embedder), study.embedder.dtype],
            "judge": None if judge is None else decisive_settings(judge),
            "chat": {} if judge is None else _chat_inputs(judge, JUDGING_PROMPTS),
            "min_activations": explained.min_activations,
            # A list: the first explainer gives the primary measure. The seed decides which pairs are drawn.
            "asked": [[name, n_pairs, explained.seed if n_pairs else None] for name, n_pairs in asked.items()],
            "runs": list(contexts),
        },
        upstream={
            "consistency": consistency,
            **{f"feature_contexts {run}": artifact for run, artifact in contexts.items()},
            **{
                f"explanations {name} {run}": artifact
                for name, runs in explanations.items()
                for run, artifact in runs.items()
            },
        },
        recipe=recipe("explanation_similarity", study=study, runs=list(contexts), explainers=list(explanations)),
    )


_INDIFFERENT = (
    "max_concurrency", "timeout_s", "max_retries", "api_key_env", "batch_size", "usd_per_million_prompt_tokens",
    "usd_per_million_reply_tokens",
)  # fmt: skip
"""Settings of a chat model that change when and where it replies, not what."""


def decisive_settings(settings: Explainer | ChatConfig) -> dict[str, Any]:
    """The settings of a model that writes text that decide what it replies, as JSON values."""
    return settings_of(settings, **dict.fromkeys(_INDIFFERENT, True))


def prompts_of(settings: Explainer) -> "tuple[PromptName, ...]":
    """The prompts that an explainer uses; a rule uses none."""
    if isinstance(settings, LexicalExplainer):
        return ()
    return ("explain",) if settings.prompt == "contexts" else ("word_list",)


def _chat_inputs(settings: ChatConfig, prompts: "tuple[PromptName, ...]") -> dict[str, str]:
    from sae_core.chat import chat_inputs

    return chat_inputs(settings, prompts)


def _chat(store: ArtifactStore, settings: ChatConfig) -> Any:
    """The model that writes text; one on this machine stays in memory between stages."""
    from sae_core.chat import build_chat
    from sae_core.model_sources import model_digest

    def load(config: LanguageModelConfig) -> Any:
        return language_model_of(store, config, model_digest(config.source))

    return build_chat(settings, store.replies, load)


def _usage(chat: Any) -> dict[str, Any]:
    """Requests, tokens and money of a stage, for its manifest: what they were is not part of what came out."""
    return {f"chat/{name}": value for name, value in vars(chat.usage).items() if value is not None}


def _reader(store: ArtifactStore, upstream: Mapping[str, Artifact], model: LanguageModelConfig) -> Any:
    """The language model whose activations the SAEs read."""
    return language_model_of(store, model, upstream["activations"].manifest.inputs["model"])


def _held_out_text(store: ArtifactStore, upstream: Mapping[str, Artifact], model: LanguageModelConfig) -> Any:
    return _text(
        upstream["contexts"].path,
        upstream["contexts"].content,
        upstream["contexts"].manifest.inputs["model"],
        model.model_dump_json(include=set(LanguageModelConfig.model_fields)),
        str(store.root),
    )


@lru_cache(maxsize=1)
def _text(folder: Path, content: str, digest: str, model: str, root: str) -> Any:
    """The held-out text of one corpus stays in memory between stages; ``content`` keeps it from outliving a change."""
    from sae_core.corpus import open_contexts
    from sae_core.held_out_text import HeldOutText
    from sae_core.words import Segmenter

    reader = language_model_of(ArtifactStore(root), LanguageModelConfig.model_validate_json(model), digest)
    segmenter = Segmenter(reader.tokenizer, reader.special_token_ids)
    return HeldOutText(open_contexts(folder).split("held_out"), segmenter)


@lru_cache(maxsize=1)
def _embedder(config: EmbedderConfig) -> Any:
    from sae_core.embeddings import load_embedder

    return load_embedder(config)
