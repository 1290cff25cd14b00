"""The chain of stages as artifacts: each function makes one stage, or finds it in the store.

This is what the assets call, and what a notebook calls without Dagster::

    store = ArtifactStore("my-store")
    upstream = make_activations(store, model_config, hook)
    sae = make_sae(store, upstream["activations"], variant, training, seeds)

A stage is made again only when something that decides its content changed: the content of what lies upstream, the
settings named in its ``inputs``, or ``CODE_VERSION``.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from sae_core.builds import build_together
from sae_core.config import (
    ActivationsConfig,
    Config,
    ConsistencyConfig,
    EvaluationConfig,
    LanguageModelConfig,
    ModelConfig,
    PretrainedConfig,
    RunSeeds,
    StudyConfig,
    TrainedConfig,
    TrainingConfig,
)
from sae_core.progress import Progress, silent
from sae_core.recipes import recipe
from sae_core.store import Artifact, ArtifactStore

CODE_VERSION = {
    "contexts": "1",
    "activations": "1",
    "sae": "3",
    "pretrained_sae": "1",
    "reference_losses": "1",
    "evaluation": "1",
    "consistency": "2",
    "report": "5",
}
"""Raise a number when the same inputs give other results than before: it makes the old artifacts stale."""


def settings_of(config: Config, **without: bool) -> dict[str, Any]:
    """Settings as JSON values for the inputs of an artifact, but for those that decide nothing."""
    return config.model_dump(mode="json", exclude=set(without))


def make_contexts(store: ArtifactStore, config: ModelConfig, progress: Progress = silent) -> Artifact:
    """The corpus as token contexts of equal length, training and held-out part."""
    from sae_core.corpus import corpus_digest, load_documents, write_contexts
    from sae_core.model_sources import model_digest

    def build(folder: Path) -> Mapping[str, Any]:
        documents = load_documents(config.corpus.source)
        tokenizer = language_model_of(store, config, digest).tokenizer
        return write_contexts(folder, documents, tokenizer, config.corpus, progress)

    digest = model_digest(config.source)
    inputs = {
        "model": digest,
        "corpus": corpus_digest(config.corpus.source),
        "selection": config.corpus.selection,
        "config": settings_of(config.corpus, source=True, credit=True),
    }
    return store.get_or_build(
        "contexts",
        build,
        code_version=CODE_VERSION["contexts"],
        inputs=inputs,
        recipe=recipe("contexts", model=config),
    )


def make_activations(
    store: ArtifactStore, config: ModelConfig, hook: str, progress: Progress = silent
) -> dict[str, Artifact]:
    """The contexts, and the language model's activations at one hook point on them, in Parquet shards."""
    from sae_core.activations import extract
    from sae_core.corpus import open_contexts
    from sae_core.language_models import preflight

    def build(folder: Path) -> Mapping[str, Any]:
        model = language_model_of(store, config, contexts.manifest.inputs["model"])
        return extract(folder, model, open_contexts(contexts.path), hook, config.activations, progress)

    preflight(config, [hook], store)
    contexts = make_contexts(store, config, progress)
    inputs = {
        "model": contexts.manifest.inputs["model"],
        "hook": hook,
        "model_dtype": config.dtype,
        "config": settings_of(config.activations),
    }
    activations = store.get_or_build(
        "activations",
        build,
        code_version=CODE_VERSION["activations"],
        inputs=inputs,
        upstream={"contexts": contexts},
        recipe=recipe("activations", model=config, hook=hook),
    )
    return {"contexts": contexts, "activations": activations}


def make_sae(
    store: ArtifactStore,
    activations: Artifact,
    variant: TrainedConfig,
    training: TrainingConfig,
    seeds: RunSeeds,
    progress: Progress = silent,
) -> Artifact:
    """One trained SAE: weights in the SAELens layout, its settings and its training curves."""
    return make_saes(store, activations, variant, training, [seeds], progress)[0]


def make_saes(
    store: ArtifactStore,
    activations: Artifact,
    variant: TrainedConfig,
    training: TrainingConfig,
    seeds: Sequence[RunSeeds],
    progress: Progress = silent,
) -> list[Artifact]:
    """The trained SAEs of some seeds, each the same as ``make_sae`` makes it.

    Those that do not exist are trained in one pass over the activations, as far as they see the same of them in the
    same order. All of them are in memory at once. A killed call goes on where each of them was.
    """

    def work(folders: Mapping[str, Path]) -> Mapping[str, Callable[[], Mapping[str, Any]]]:
        from sae_core.shards import open_shards
        from sae_core.training import train_runs

        metadata = {"model": activations.manifest.inputs["model"], "hook_name": activations.manifest.inputs["hook"]}
        of_seeds = {seeds_of[name]: folder for name, folder in folders.items()}
        shards = open_shards(activations.path / "train")
        ends = train_runs(of_seeds, shards, variant, training, metadata, progress, store.logs)
        return {name: ends[seeds_of[name]] for name in folders}

    shared = {"variant": settings_of(variant), "training": training.decisive()}
    inputs = [{**shared, "seeds": settings_of(one)} for one in seeds]
    code, upstream = CODE_VERSION["sae"], {"activations": activations}
    seeds_of = {store.fingerprint("sae", code, one, upstream): s for one, s in zip(inputs, seeds, strict=True)}
    recipes = [recipe("sae", variant=variant, training=training, seeds=one) for one in seeds]
    return build_together(store, "sae", code, inputs, upstream, work, recipes)


def make_pretrained_sae(
    store: ArtifactStore, activations: Artifact, variant: PretrainedConfig, number: int
) -> Artifact:
    """An SAE that was trained elsewhere, in the layout of our own; made again when its files change.

    Args:
        number: its place among the variant's ``saes``.
    """
    from sae_core.formats import resolve
    from sae_core.pretrained import import_sae

    source, read_by = resolve(variant.saes[number], variant.format), activations.manifest.inputs

    def build(folder: Path) -> Mapping[str, Any]:
        metadata = {"model": read_by["model"], "hook_name": read_by["hook"]}
        return import_sae(folder, source, activations.summary["d_in"], metadata)

    return store.get_or_build(
        "sae",
        build,
        code_version=CODE_VERSION["pretrained_sae"],
        inputs={"format": source.format, "files": source.files},
        upstream={"activations": activations},
        recipe=recipe("pretrained_sae", variant=variant, number=number),
    )


def make_run(
    store: ArtifactStore, activations: Artifact, study: StudyConfig, key: str, seed: int, progress: Progress = silent
) -> Artifact:
    """The SAE of one variant and seed of a study, trained here or elsewhere."""
    variant = study.variant(key)
    if isinstance(variant, PretrainedConfig):
        return make_pretrained_sae(store, activations, variant, study.seeds.index(seed))
    return make_sae(store, activations, variant, study.required_training, study.run_seeds(seed), progress)


def make_evaluation(
    store: ArtifactStore,
    sae: Artifact,
    upstream: Mapping[str, Artifact],
    model: LanguageModelConfig,
    config: EvaluationConfig,
    progress: Progress = silent,
) -> Artifact:
    """L0, FVE, dead share, frequencies and the recovered loss of one SAE, on held-out tokens.

    Args:
        upstream: ``contexts`` and ``activations``, as ``make_activations`` returns them.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        from sae_core.evaluation import evaluate, write_evaluation
        from sae_core.formats import load_sae
        from sae_core.loss_recovered import loss_recovered, read_reference
        from sae_core.shards import open_shards

        opened, activations = load_sae(sae.path), upstream["activations"]
        measured = evaluate(opened, open_shards(activations.path / "held_out"), config, progress)
        language_model = language_model_of(store, model, activations.manifest.inputs["model"])
        loss = loss_recovered(opened, language_model, read_reference(reference.path), progress)
        return write_evaluation(folder, measured, loss)

    reference = make_reference_losses(store, upstream, model, config, progress)
    return store.get_or_build(
        "evaluation",
        build,
        code_version=CODE_VERSION["evaluation"],
        inputs={"config": settings_of(config), "model_dtype": model.dtype},
        upstream={"sae": sae, "reference_losses": reference, **upstream},
        recipe=recipe("evaluation", model=language_model_settings(model), config=config),
    )


def make_reference_losses(
    store: ArtifactStore,
    upstream: Mapping[str, Artifact],
    model: LanguageModelConfig,
    config: EvaluationConfig,
    progress: Progress = silent,
) -> Artifact:
    """The language model's loss as it is and with zeros at the hook: what the loss of every SAE is compared with."""

    def build(folder: Path) -> Mapping[str, Any]:
        from sae_core.corpus import open_contexts
        from sae_core.loss_recovered import reference_losses, write_reference

        activations = upstream["activations"]
        language_model = language_model_of(store, model, activations.manifest.inputs["model"])
        held_out = open_contexts(upstream["contexts"].path).split("held_out")
        trained_on = ActivationsConfig.model_validate(activations.manifest.inputs["config"])
        return write_reference(
            folder,
            reference_losses(
                language_model,
                held_out.token_ids,
                activations.manifest.inputs["hook"],
                trained_on,
                activations.summary["max_norm"],
                config.n_loss_contexts,
                progress,
            ),
        )

    return store.get_or_build(
        "reference_losses",
        build,
        code_version=CODE_VERSION["reference_losses"],
        inputs={"n_loss_contexts": config.n_loss_contexts, "model_dtype": model.dtype},
        upstream=upstream,
        recipe=recipe("reference_losses", model=language_model_settings(model), config=config),
    )


def make_consistency(
    store: ArtifactStore,
    runs: Mapping[str, Mapping[str, Artifact]],
    activations: Artifact,
    config: ConsistencyConfig,
    progress: Progress = silent,
) -> Artifact:
    """How far the runs of one variant found the same features.

    Args:
        runs: for each seed the artifacts ``sae`` and ``evaluation``.
        activations: those whose held-out part the features' activations are compared on.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        from sae_core.consistency.artifact import build_consistency

        folders = {name: (run["sae"].path, run["evaluation"].path) for name, run in runs.items()}
        return build_consistency(folder, folders, activations.path / "held_out", config, progress)

    return store.get_or_build(
        "consistency",
        build,
        code_version=CODE_VERSION["consistency"],
        inputs={"config": settings_of(config), "runs": list(runs)},
        upstream={
            "activations": activations,
            **{f"{name} {seed}": artifact for seed, run in runs.items() for name, artifact in run.items()},
        },
        recipe=recipe("consistency", config=config, runs={seed: list(run) for seed, run in runs.items()}),
    )


def make_report(
    store: ArtifactStore,
    study: StudyConfig,
    model: ModelConfig,
    variants: Mapping[str, Mapping[str, Artifact]],
    progress: Progress = silent,
) -> Artifact:
    """The table of variants, the figures and the page of one study.

    Args:
        variants: for each variant key ``consistency``, ``explanation_similarity``, ``model_versions`` where the history
            is known, and per seed ``sae seed 0``, ``evaluation seed 0``, ``explanations seed 0``, ``scores seed 0``.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        from sae_core.report.writing import write_report

        return write_report(folder, study, model, variants)

    return store.get_or_build(
        "report",
        build,
        code_version=CODE_VERSION["report"],
        inputs={
            "study": settings_of(study, automation=True, owners=True),
            "credit": model.corpus.credit,
            "model": model.name,
        },
        upstream={
            f"{variant}/{name}": artifact
            for variant, artifacts in variants.items()
            for name, artifact in artifacts.items()
        },
        recipe=recipe(
            "report", study=study, model=model, variants={key: list(found) for key, found in variants.items()}
        ),
    )


def language_model_settings(config: LanguageModelConfig) -> dict[str, Any]:
    """What is needed to load it, as JSON values, of settings that may have more."""
    return config.model_dump(mode="json", include=set(LanguageModelConfig.model_fields))


def language_model_of(store: ArtifactStore, config: LanguageModelConfig, digest: str) -> Any:
    """The language model, refused unless it is the one that the upstream artifacts were made with."""
    model = _load(config.model_dump_json(include=set(LanguageModelConfig.model_fields)), str(store.root), digest)
    if model.digest != digest:
        _load.cache_clear()
        raise RuntimeError(
            f"the language model {config.name} changed: its digest is {model.digest[:12]}, the activations were made "
            f"with {digest[:12]}; materialize its activations again"
        )
    return model


@lru_cache(maxsize=1)
def _load(config: str, root: str, digest: str) -> Any:
    """One model stays in memory between stages; ``digest`` keeps it from outliving a change of its files."""
    from sae_core.language_models import load_language_model

    return load_language_model(LanguageModelConfig.model_validate_json(config), ArtifactStore(root))
