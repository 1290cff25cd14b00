"""Every kind of artifact that the chains make, of a tiny world, without Dagster."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sae_core.architectures import build
from sae_core.chain import make_activations, make_consistency, make_evaluation, make_report, make_run
from sae_core.config import ModelConfig, StudyConfig, TopKConfig
from sae_core.explanation_chain import make_explanations, make_feature_contexts, make_scores, make_similarity
from sae_core.formats import save_sae
from sae_core.model_versions.versions import Version
from sae_core.store import Artifact, ArtifactStore
from sae_core.synthetic_chain import make_experiment, make_reproduction
from sae_core.synthetic_config import SyntheticStudyConfig
from sae_core.version_chain import make_model_versions
from tests.tiny import model_config

TRAINED, PUBLISHED = "topk-d48-k4", "pretrained-published"


@dataclass(frozen=True)
class World:
    """Where it lies, and the settings it was made with."""

    folder: Path
    model: ModelConfig
    study: StudyConfig
    store: ArtifactStore
    report: Artifact
    synthetic: Artifact
    """The page of a synthetic study."""


def make_world(folder: Path) -> World:
    """A model, a text, and a study of trained and published SAEs on them, explained by rules and by the model."""
    folder.mkdir(parents=True, exist_ok=True)
    model = model_config(folder)
    published = [str(folder / f"published{seed}") for seed in (0, 1)]
    for seed, place in enumerate(published):
        save_sae(build(TopKConfig(d_sae=40, k=4), 32, seed), place)
    study, store = _study(model, published), ArtifactStore(folder / "store")
    report = make_study(store, study, model)
    return World(folder, model, study, store, report, make_synthetic(store, study, report))


def make_study(store: ArtifactStore, study: StudyConfig, model: ModelConfig) -> Artifact:
    """All stages of a study, up to its report."""
    made_of = make_activations(store, model, study.hook)
    keys = [variant.key for variant in study.variants]
    return make_report(store, study, model, {key: _variant(store, study, model, key, made_of) for key in keys})


def _variant(
    store: ArtifactStore, study: StudyConfig, model: ModelConfig, key: str, made_of: dict[str, Artifact]
) -> dict[str, Artifact]:
    runs, contexts, explained, scored = {}, {}, {}, {}
    for run, seed in study.run_names().items():
        sae = make_run(store, made_of["activations"], study, key, seed)
        runs[run] = {"sae": sae, "evaluation": make_evaluation(store, sae, made_of, model, study.evaluation)}
    consistency = make_consistency(store, runs, made_of["activations"], study.consistency)
    for run, made in runs.items():
        contexts[run] = make_feature_contexts(store, made["sae"], made_of, model, study.contexts)
        explained[run] = make_explanations(store, contexts[run], made_of, model, study.explanations, consistency, run)
        scored[run] = make_scores(store, contexts[run], explained[run], made_of, model, study.scoring, study.embedder)
    labels = {each.name: label for each, label in zip(study.explanations.explainers, explained[run], strict=True)}
    by_explainer = {name: {run: found[label] for run, found in explained.items()} for name, label in labels.items()}
    similarity = make_similarity(store, consistency, contexts, by_explainer, study)
    now = datetime.now(UTC)
    versions = make_model_versions(store, [Version(consistency.content, now, now, consistency)], study.consistency)
    of_runs = {
        f"{name} {run}": artifact
        for run in runs
        for name, artifact in (runs[run] | explained[run] | scored[run]).items()
    }
    compared = {"consistency": consistency, "explanation_similarity": similarity, "model_versions": versions}
    return compared | of_runs


def make_synthetic(store: ArtifactStore, study: StudyConfig, report: Artifact) -> Artifact:
    """A synthetic study of one experiment, whose page has the results of a study on a language model too."""
    synthetic = SyntheticStudyConfig.model_validate(
        {
            "name": "tiny-synthetic",
            "seeds": [0, 1, 2],
            "language_model_study": study.name,
            "recipes": {"quick": {"n_steps": 20, "batch_size": 16}},
            "experiments": [
                {
                    "name": "noisy",
                    "title": "Noise",
                    "measures": {"n_eval_samples": 64, "n_null_draws": 1, "n_frequency_bins": 2, "ceiling": False},
                    "groups": [
                        {
                            "figure": "sweep",
                            "x": "noise",
                            "data": [{"d_in": 4, "d_gt": 6, "k": 2, "noise": {"sweep": [0, 0.5]}}],
                            "variants": [{"architecture": "topk", "d_sae": 6, "k": 2, "aux_k_coefficient": 0}],
                            "recipes": ["quick"],
                        }
                    ],
                }
            ],
        }
    )
    upstream = store.upstream(report)
    compared = {name: upstream[f"{TRAINED}/{name}"] for name in ("consistency", "explanation_similarity")}
    experiments = {("noisy", "all"): make_experiment(store, synthetic, "noisy", "all")}
    return make_reproduction(store, synthetic, experiments, {TRAINED: {n: a for n, a in compared.items() if a}})


def _study(model: ModelConfig, published: list[str]) -> StudyConfig:
    writer = {"name": "writer", "source": model.source.model_dump(mode="json"), "dtype": "float32"}
    return StudyConfig.model_validate(
        {
            "name": "tiny",
            "model": "tiny-llama",
            "hook": "model.layers.1",
            "variants": [
                {"architecture": "topk", "d_sae": 48, "k": 4},
                {"architecture": "pretrained", "name": "published", "saes": published},
            ],
            "seeds": [0, 1],
            "training": {
                "n_steps": 40,
                "batch_size": 256,
                "warmup_steps": 5,
                "sparsity_warmup_steps": 10,
                "log_every": 20,
                "checkpoints": [0.5],
            },
            "evaluation": {"n_loss_contexts": 8},
            "contexts": {"n_pool": 64},
            "explanations": {
                "min_activations": 3,
                "explainers": [
                    {"kind": "lexical"},
                    {"kind": "local", "model": writer, "n_pairs": 4, "max_new_tokens": 4},
                ],
            },
            "scoring": {"n_embedded": 2},
            "similarity": {"n_permutations": 19},
        }
    )
