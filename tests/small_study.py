"""A small study for tests of the report: real records of planted features, without training anything."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sae_core.config import ConsistencyConfig, ModelConfig, StudyConfig
from sae_core.consistency import ConsistencyReport, Run, consistency, write_consistency
from sae_core.consistency.over_training import OVER_TRAINING_SCHEMA
from sae_core.evaluation import Evaluation, EvaluationSummary, write_evaluation
from sae_core.explaining.table import EXPLANATION_SCHEMA
from sae_core.feature_contexts.contexts import EXAMPLE_SCHEMA, N_HALVES, WORD_SCHEMA, FeatureContexts
from sae_core.loss_recovered import LossRecovered
from sae_core.scoring.results import SCORES, ScoresSummary, ScoreSummary
from sae_core.similarity.compare import explanation_similarity, write_similarity
from sae_core.similarity.draws import draw_pairs
from sae_core.similarity.results import SimilarityReport
from sae_core.store import Artifact, ArtifactStore
from sae_core.training.state import CurvePoint

WORDS = [
    "river",
    "king",
    "atom",
    "whale",
    "opera",
    "treaty",
    "algebra",
    "volcano",
    "parliament",
    "enzyme",
    "glacier",
    "sonnet",
    "empire",
    "protein",
    "comet",
]

MODEL = ModelConfig.model_validate(
    {
        "name": "tiny-model",
        "source": {"kind": "hub", "repo_id": "nobody/tiny"},
        "corpus": {"source": {"kind": "local", "path": "x.txt"}, "credit": "Text: some people & others, CC BY-SA 4.0."},
        "hooks": ["model.layers.1"],
    }
)


def study_config(seeds: list[int], variants: list[dict[str, object]] | None = None) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": "small",
            "model": "tiny-model",
            "hook": "model.layers.1",
            "variants": variants
            or [
                {"architecture": "topk", "d_sae": 64, "k": 4},
                {"architecture": "standard", "d_sae": 64, "l1_coefficient": 0.03},
            ],
            "seeds": seeds,
            "training": {"n_steps": 400, "warmup_steps": 10, "sparsity_warmup_steps": 20},
            "explanations": {
                "explainers": [{"kind": "lexical"}, {"kind": "openai", "name": "chat", "model": "m", "n_pairs": 90}]
            },
            "similarity": {"n_permutations": 199},
        }
    )


def planted_runs(n_runs: int, shared: float, seed: int, n: int = 64, d: int = 24) -> tuple[list[Run], list[np.ndarray]]:
    """Runs whose frequent features are nearly the same directions, and for each run the true feature of every row."""
    rng = np.random.default_rng(seed)
    frequency, truth = np.geomspace(1e-4, 0.2, n), rng.standard_normal((n, d))
    part = np.clip(shared * np.linspace(0.1, 1.0, n), 0, 0.99)[:, None]
    runs, origins = [], []
    for number in range(n_runs):
        found = part * truth + np.sqrt(1 - part**2) * rng.standard_normal((n, d))
        seen = frequency * np.exp(rng.normal(0, 0.2, n))
        seen[:3] = 0
        order = rng.permutation(n)
        reads = (found + 0.3 * rng.standard_normal((n, d))).T
        runs.append(Run(f"seed {number}", found[order], seen[order], reads[:, order]))
        origins.append(order)
    return runs, origins


def embed(texts: list[str]) -> np.ndarray:
    """Bags of words as unit vectors: a stand-in for sentence embeddings."""
    rows = np.zeros((len(texts), 256))
    for row, text in zip(rows, texts, strict=True):
        for word in text.replace(",", " ").split():
            row[hashlib.sha256(word.encode()).digest()[0]] += 1
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def explanations_of(run: Run, origin: np.ndarray, shared: float, seed: int) -> pa.Table:
    rng, rows = np.random.default_rng([seed, 7]), []
    for feature, true in enumerate(origin.tolist()):
        for half in range(N_HALVES):
            words = words_of(true, shared, rng)
            known = bool(run.frequency[feature] > 0) and feature % 9 != 0
            rows.append(
                {
                    "feature": feature,
                    "half": half,
                    "explanation": ", ".join(words) if known else None,
                    "missing_reason": None if known else "fired too rarely",
                    "n_activations": 20 if known else 0,
                    "frequency": float(run.frequency[feature]),
                    "words": words if known else [],
                    "promoted": [],
                    "examples": [],
                }
            )
    return pa.Table.from_pylist(rows, schema=EXPLANATION_SCHEMA)


def words_of(true: int, shared: float, rng: np.random.Generator) -> list[str]:
    """Five words, of which that share belongs to a true feature; the others are any."""
    return [WORDS[(true + i) % len(WORDS)] if rng.random() < shared else str(rng.choice(WORDS)) for i in range(5)]


def contexts_of(run: Run, origin: np.ndarray, shared: float, seed: int, n_tokens: int = 2000) -> FeatureContexts:
    """Features that fire on 30 tokens of a half, that share of them those of their true feature."""
    rng, alive = np.random.default_rng([seed, 8]), np.flatnonzero(run.frequency > 0)
    tokens, words = [], []
    for feature, true in zip(alive.tolist(), origin[alive].tolist(), strict=True):
        own = np.random.default_rng(true).permutation(n_tokens)[:60]
        tokens.append(np.unique(np.where(rng.random(60) < shared, own, rng.integers(0, n_tokens, 60))))
        for half in range(N_HALVES):
            counts = Counter(words_of(true, shared, rng))
            words += [
                {"feature": feature, "half": half, "place": "now", "word": word, "share": n / 5, "score": 1.0}
                for word, n in counts.items()
            ]
    return FeatureContexts(
        d_sae=len(run.frequency),
        features=alive,
        n_fired=np.array([[(each % 2 == half).sum() for half in range(N_HALVES)] for each in tokens]),
        n_tokens=np.full(N_HALVES, n_tokens // 2),
        max_activation=np.ones((len(alive), N_HALVES), np.float32),
        promoted=[[] for _ in alive],
        code_start=np.cumsum([0, *map(len, tokens)]),
        code_token=np.concatenate(tokens),
        code_activation=np.ones(sum(map(len, tokens)), np.float32),
        example_table=EXAMPLE_SCHEMA.empty_table(),
        word_table=pa.Table.from_pylist(words, schema=WORD_SCHEMA),
        looked_at=np.arange(n_tokens),
    )


def scores_of(n: int, value: float) -> ScoresSummary:
    """All scores with the same median; a tenth of the explanations have none."""
    scores = [
        ScoreSummary(
            name=str(name), task=name.task, metric=name.metric, negatives=name.negatives, chance=0.5, median=value,
            mean=value, n=n - n // 10, missing={"too few examples": n // 10},
        )
        for name in SCORES
    ]  # fmt: skip
    return ScoresSummary(n_explanations=n, n_rules=n, scorer=None, n_trials=0, missing_trials={}, scores=scores)


def over_training_table(n_runs: int) -> pa.Table:
    """PW-MCC from chance at step 0 to 0.7; no interval for two runs."""
    rows = [
        {
            "step": step,
            "n_tokens": 128 * step,
            "pw_mcc": 0.3 + step / 1000,
            "ci_low": 0.25 + step / 1000 if n_runs > 2 else None,
            "ci_high": 0.35 + step / 1000 if n_runs > 2 else None,
            "null_isotropic": 0.3,
        }
        for step in (0, 4, 40, 400)
    ]
    return pa.Table.from_pylist(rows, schema=OVER_TRAINING_SCHEMA)


def make_variants(
    store: ArtifactStore,
    study: StudyConfig,
    with_loss: bool = True,
    explained: bool = True,
    checkpoints: bool = True,
    shared_start: bool = False,
    config: ConsistencyConfig | None = None,
    scored: bool = True,
) -> dict[str, dict[str, Artifact]]:
    """The artifacts that the report of a study reads, committed to a store.

    Args:
        shared_start: give the features of the first variant the same numbers in all runs, as a shared initialisation
            would.
    """
    variants = {}
    for number, variant in enumerate(study.variants):
        shared = 0.95 if number == 0 else 0.5
        runs, origins = planted_runs(len(study.seeds), shared, seed=number)
        likeness = shared if explained else 0.0
        made_of = [(run, origin, likeness, i) for i, (run, origin) in enumerate(zip(runs, origins, strict=True))]
        tables = {run.name: explanations_of(run, *rest) for run, *rest in made_of}
        contexts = {run.name: contexts_of(run, *rest) for run, *rest in made_of}
        if not explained:
            n = tables["seed 0"].num_rows
            gone, why = pa.nulls(n, pa.string()), pa.array(["fired too rarely"] * n)
            tables = {
                name: table.set_column(2, "explanation", gone).set_column(3, "missing_reason", why)
                for name, table in tables.items()
            }
        if shared_start and number == 0:
            runs = [in_order(run, origin) for run, origin in zip(runs, origins, strict=True)]
        report = consistency(runs, config or ConsistencyConfig(n_null_draws=1))
        training = over_training_table(len(runs)) if checkpoints else None
        asked = {each.name: each.n_pairs for each in study.explanations.explainers}
        similar = explanation_similarity(
            report.matches,
            contexts,
            dict.fromkeys(asked, tables),
            {name: n and draw_pairs(report.matches, n, 0) for name, n in asked.items()},
            {(pair["run_a"], pair["run_b"]): 0.4 for pair in report.pairs.to_pylist()},
            embed,
            None,
            study.similarity,
        )
        variants[variant.key] = {
            **_compared(store, variant.key, report, similar, training),
            **_of_runs(store, variant.key, runs, tables, with_loss, scored),
        }
    return variants


def in_order(run: Run, origin: np.ndarray) -> Run:
    """The same run with its features in the order of the truth."""
    back = np.argsort(origin)
    return Run(run.name, run.W_dec[back], run.frequency[back], run.W_enc[:, back])


def _write_consistency(folder: Path, report: ConsistencyReport, training: pa.Table | None) -> None:
    write_consistency(folder, report)
    if training is not None:
        pq.write_table(training, folder / "over_training.parquet")


def _compared(
    store: ArtifactStore, key: str, report: ConsistencyReport, similar: SimilarityReport, training: pa.Table | None
) -> dict[str, Artifact]:
    return {
        "consistency": _commit(store, "consistency", key, lambda folder: _write_consistency(folder, report, training)),
        "explanation_similarity": _commit(
            store, "explanation_similarity", key, lambda folder: write_similarity(folder, similar)
        ),
    }


def _of_runs(
    store: ArtifactStore, key: str, runs: list[Run], tables: dict[str, pa.Table], with_loss: bool, scored: bool
) -> dict[str, Artifact]:
    made = {}
    for number, run in enumerate(runs):
        curve = pa.Table.from_pylist([asdict(point) for point in curve_of(number)])
        table = tables[run.name]
        writers = {
            "sae": lambda folder, curve=curve: pq.write_table(curve, folder / "training.parquet"),
            "evaluation": lambda folder, run=run, number=number: write_evaluation(
                folder,
                evaluation_of(run, number),
                LossRecovered(ce_clean=3.0, ce_patched=3.5, ce_zero=8.0, n_tokens=999) if with_loss else None,
            ),
        }
        for explainer, value in (("", 0.8), (" chat", 0.6)):
            writers[f"explanations{explainer}"] = lambda folder, table=table: pq.write_table(
                table, folder / "explanations.parquet"
            )
            if scored:
                writers[f"scores{explainer}"] = lambda folder, value=value: (folder / "summary.json").write_text(
                    scores_of(100, value).model_dump_json()
                )
        made |= {f"{kind} {run.name}": _commit(store, kind, f"{key} {run.name}", w) for kind, w in writers.items()}
    return made


def evaluation_of(run: Run, number: int) -> Evaluation:
    alive = int((run.frequency > 0).sum())
    summary = EvaluationSummary(
        n_tokens=10_000,
        d_sae=len(run.frequency),
        l0=4.0 + number,
        fve=0.8 - 0.1 * number,
        n_alive=alive,
        dead_fraction=1 - alive / len(run.frequency),
        n_dense=int((run.frequency > 0.1).sum()),
        mean_squared_norm=3.0,
        reconstruction_norm_ratio=0.9,
    )
    return Evaluation(summary, pa.table({"feature_id": np.arange(len(run.frequency)), "frequency": run.frequency}))


def curve_of(number: int) -> list[CurvePoint]:
    return [
        CurvePoint(
            step=step,
            loss=1 / step,
            mse=1 / step,
            l0=4.0,
            fve=0.8 - 8 / step - 0.01 * number,
            dead_fraction=0.2 * step / 400,
            lr=1e-3,
            sparsity_scale=1.0,
        )
        for step in range(10, 401, 10)
    ]


def _commit(store: ArtifactStore, kind: str, name: str, write: Callable[[Path], object]) -> Artifact:
    def build(folder: Path) -> dict[str, object]:
        write(folder)
        return {}

    return store.get_or_build(kind, build, code_version="1", inputs={"name": name})
