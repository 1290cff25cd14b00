"""Are consistent features explained alike? Similarity of the explanations of matched features, against decoys.

Place in the flow: consistency (matched pairs) + explanations -> **similarity** -> report. For a matched pair, run A's
explanation from one half of the text is compared with run B's from the other half, both ways, and averaged: the same
windows on both sides would make explanations alike for no reason of the features'.

The primary statistic is the partial Spearman correlation of |cosine| and similarity given log frequency: rare
features are less consistent *and* harder to explain, which alone would correlate the two.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from sae_core.config import SimilarityConfig
from sae_core.embeddings import Embed, embed_distinct
from sae_core.feature_contexts import N_HALVES
from sae_core.progress import Progress, silent
from sae_core.similarity_results import RunPairSimilarity, SimilarityReport, SimilaritySummary
from sae_core.similarity_statistics import (
    auc,
    equal_count_bins,
    log_bins,
    mean,
    partial_spearman,
    spearman,
)
from sae_core.statistics import Interval, jackknife

_DECOY_RANKS = 20
"""A decoy is at most so many ranks of frequency away from the feature it stands for."""
_DEAD = "not alive in both runs"
_NOT_DRAWN = "not in the sample of explained features"


@dataclass(frozen=True)
class _Explained:
    """Where the vectors of one run's explanations are."""

    row: Int[np.ndarray, "n 2"]
    """Row of the vectors by feature id and half; -1: no explanation."""
    reason: list[str]
    """Why a feature without any explanation has none."""

    def of(self, features: np.ndarray) -> np.ndarray:
        """(m, 2) rows; features beyond the table have none."""
        found = np.full((len(features), N_HALVES), -1, dtype=np.int64)
        known = features < len(self.row)
        found[known] = self.row[features[known]]
        return found

    def why(self, feature: int) -> str:
        return self.reason[feature] if feature < len(self.reason) else _NOT_DRAWN


@dataclass(frozen=True)
class _Pair:
    """Matched features of two runs, with what was found for them (nan: missing)."""

    run_a: str
    run_b: str
    left: np.ndarray
    right: np.ndarray
    cosine: np.ndarray
    frequency: np.ndarray
    similarity: np.ndarray
    decoy: np.ndarray
    """(m, n_decoys)"""
    reason: list[str | None]

    @property
    def used(self) -> np.ndarray:
        """True where there is a similarity."""
        known: np.ndarray = ~np.isnan(self.similarity)
        return known

    @property
    def mean_decoy(self) -> np.ndarray:
        """Mean over a pair's decoys; nan without any."""
        known = ~np.isnan(self.decoy)
        count = known.sum(axis=1)
        return np.where(count > 0, np.where(known, self.decoy, 0).sum(axis=1) / np.maximum(count, 1), np.nan)


def explanation_similarity(
    matches: pa.Table,
    explanations: Mapping[str, pa.Table],
    embed: Embed,
    config: SimilarityConfig,
    progress: Progress = silent,
) -> SimilarityReport:
    """Similarity of the explanations of matched features, and what it has to do with their consistency.

    Args:
        matches: run_a, run_b, feature_a, feature_b, cosine (signed), alive_a, alive_b, frequency_a, frequency_b, as
            *consistency* writes them.
        explanations: for every run of ``matches``, the table that ``explain_run`` writes.
        embed: texts to vectors; they need not be of unit length.

    Raises:
        ValueError: if a run has no explanations, there is no pair, or ``matches`` has no frequencies.
    """
    runs = _check(matches, explanations)
    texts = sorted({text for run in runs for text in explanations[run]["explanation"].to_pylist() if text is not None})
    index, vectors = embed_distinct(texts, embed, progress)
    explained = {run: _index(explanations[run], index) for run in runs}
    pairs = []
    for number, (run_a, run_b) in enumerate(_run_pairs(matches)):
        here = matches.filter((pc.field("run_a") == run_a) & (pc.field("run_b") == run_b))
        rng = np.random.default_rng([config.seed, number])
        pairs.append(_compare(run_a, run_b, here, explained, vectors, config.n_decoys, rng))
    ceiling = [_self_similarity(explained[run].row, vectors) for run in runs]
    return SimilarityReport(_summarise(runs, pairs, np.concatenate(ceiling)), _table(pairs))


def write_similarity(folder: Path, report: SimilarityReport) -> dict[str, Any]:
    """Write ``pairs.parquet`` and ``summary.json``; returns the summary as JSON values."""
    summary = report.summary.model_dump(mode="json")
    pq.write_table(report.pairs, folder / "pairs.parquet.part")
    os.replace(folder / "pairs.parquet.part", folder / "pairs.parquet")
    (folder / "summary.json.part").write_text(json.dumps(summary, indent=1))
    os.replace(folder / "summary.json.part", folder / "summary.json")
    return summary


def _check(matches: pa.Table, explanations: Mapping[str, pa.Table]) -> list[str]:
    """The names of the runs, in the order of the matches."""
    if matches.num_rows == 0:
        raise ValueError("expected at least one matched pair, got none; compute consistency of two or more runs first")
    runs = list(dict.fromkeys(name for pair in _run_pairs(matches) for name in pair))
    if missing := [run for run in runs if run not in explanations]:
        raise ValueError(f"no explanations for {', '.join(missing)}; materialize the explanations of every run first")
    for column in ("frequency_a", "frequency_b", "alive_a", "alive_b"):
        if matches[column].null_count:
            raise ValueError(
                f"matches lack {column}: expected a value for every pair; evaluate the runs on held-out tokens, so "
                "that consistency knows how often each feature fires"
            )
    return runs


def _run_pairs(matches: pa.Table) -> list[tuple[str, str]]:
    groups = matches.select(["run_a", "run_b"]).group_by(["run_a", "run_b"], use_threads=False).aggregate([])
    return [(row["run_a"], row["run_b"]) for row in groups.to_pylist()]


def _index(table: pa.Table, index: Mapping[str, int]) -> _Explained:
    features, half = table["feature"].to_numpy(), table["half"].to_numpy()
    n = int(features.max(initial=-1)) + 1
    row = np.full((n, N_HALVES), -1, dtype=np.int64)
    texts = table["explanation"].to_pylist()
    row[features, half] = [-1 if text is None else index[text] for text in texts]
    reason = [_NOT_DRAWN] * n
    for feature, why in zip(features.tolist(), table["missing_reason"].to_pylist(), strict=True):
        if why is not None:
            reason[feature] = why
    return _Explained(row, reason)


def _compare(
    run_a: str,
    run_b: str,
    matches: pa.Table,
    explained: Mapping[str, _Explained],
    vectors: Float[np.ndarray, "texts dim"],
    n_decoys: int,
    rng: np.random.Generator,
) -> _Pair:
    column = {name: matches[name].to_numpy() for name in matches.column_names}
    left, right = column["feature_a"], column["feature_b"]
    a, b = explained[run_a].of(left), explained[run_b].of(right)
    alive = column["alive_a"].astype(bool) & column["alive_b"].astype(bool)
    similarity = np.where(alive, across_halves(a, b, vectors), np.nan)
    used = np.flatnonzero(~np.isnan(similarity))
    decoy = np.full((len(left), n_decoys), np.nan)
    partners = draw_decoys(column["frequency_b"][used], n_decoys, rng)
    for k in range(partners.shape[1]):
        decoy[used, k] = across_halves(a[used], b[used][partners[:, k]], vectors)
    reason: list[str | None] = [None] * len(left)
    for i in np.flatnonzero(np.isnan(similarity)).tolist():
        reason[i] = _why(explained[run_a], explained[run_b], int(left[i]), int(right[i])) if alive[i] else _DEAD
    frequency = np.minimum(column["frequency_a"], column["frequency_b"])
    return _Pair(run_a, run_b, left, right, column["cosine"], frequency, similarity, decoy, reason)


def _why(a: _Explained, b: _Explained, left: int, right: int) -> str:
    """Why an alive pair has no similarity. Where A has an explanation, B lacks the one of the other half."""
    return a.why(left) if (a.of(np.array([left])) < 0).all() else b.why(right)


def across_halves(
    a: Int[np.ndarray, "n 2"], b: Int[np.ndarray, "n 2"], vectors: Float[np.ndarray, "texts dim"]
) -> Float[np.ndarray, " n"]:
    """Cosine of A's half 0 with B's half 1 and of A's half 1 with B's half 0, averaged over what exists; nan: neither.

    Args:
        a: row in ``vectors`` of each half's explanation; -1 where there is none.
    """
    total, count = np.zeros(len(a)), np.zeros(len(a))
    for half in range(N_HALVES):
        known = np.flatnonzero((a[:, half] >= 0) & (b[:, 1 - half] >= 0))
        total[known] += _cosines(vectors, a[known, half], b[known, 1 - half])
        count[known] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def draw_decoys(
    frequency: Float[np.ndarray, " n"], n_decoys: int, rng: np.random.Generator
) -> Int[np.ndarray, "n n_decoys"]:
    """For each feature others of nearly its frequency: at most ``_DECOY_RANKS`` ranks away, never itself.

    Returns:
        Indices into ``frequency``; no column where there is no other feature.
    """
    n = len(frequency)
    if n < 2:
        return np.zeros((n, 0), dtype=np.int64)
    order = np.argsort(frequency, kind="stable")
    rank = np.empty(n, dtype=np.int64)
    rank[order] = np.arange(n)
    low, high = np.maximum(rank - _DECOY_RANKS, 0), np.minimum(rank + _DECOY_RANKS, n - 1)
    drawn = rng.integers(low[:, None], high[:, None], size=(n, n_decoys))  # one fewer than there are: itself left out
    return order[drawn + (drawn >= rank[:, None])]


def _self_similarity(row: Int[np.ndarray, "n 2"], vectors: np.ndarray) -> Float[np.ndarray, " m"]:
    both = row[(row >= 0).all(axis=1)]
    return _cosines(vectors, both[:, 0], both[:, 1])


def _cosines(vectors: np.ndarray, left: np.ndarray, right: np.ndarray) -> Float[np.ndarray, " n"]:
    """Cosine of each pair of rows of unit vectors."""
    found: np.ndarray = (vectors[left].astype(np.float64) * vectors[right]).sum(axis=1)
    return found


def _summarise(runs: Sequence[str], pairs: Sequence[_Pair], self_similarity: np.ndarray) -> SimilaritySummary:
    found = [_statistics(pair) for pair in pairs]
    used = [pair.used for pair in pairs]
    cosine = np.concatenate([np.abs(pair.cosine[u]) for pair, u in zip(pairs, used, strict=True)])
    similarity = np.concatenate([pair.similarity[u] for pair, u in zip(pairs, used, strict=True)])
    decoy = np.concatenate([pair.mean_decoy[u] for pair, u in zip(pairs, used, strict=True)])
    missing = Counter(reason for pair in pairs for reason in pair.reason if reason is not None)
    return SimilaritySummary(
        rho_partial=_mean_of(found, "rho_partial"),
        rho_partial_ci=_interval(runs, found, "rho_partial"),
        rho=_mean_of(found, "rho"),
        rho_ci=_interval(runs, found, "rho"),
        lift=_mean_of(found, "lift"),
        lift_ci=_interval(runs, found, "lift"),
        auc=_mean_of(found, "auc"),
        mean_similarity=_mean_of(found, "mean_similarity"),
        mean_decoy=_mean_of(found, "mean_decoy"),
        noise_ceiling=mean(self_similarity),
        n_runs=len(runs),
        n_matched=sum(len(pair.left) for pair in pairs),
        n_used=len(cosine),
        missing=dict(sorted(missing.items())),
        equal_count_bins=equal_count_bins(cosine, similarity, decoy),
        log_bins=log_bins(cosine, similarity, decoy),
        run_pairs=found,
    )


def _statistics(pair: _Pair) -> RunPairSimilarity:
    used = pair.used
    cosine, similarity = np.abs(pair.cosine[used]), pair.similarity[used]
    matched, decoy = mean(similarity), mean(pair.mean_decoy[used])
    decoys = pair.decoy[used].ravel()
    return RunPairSimilarity(
        run_a=pair.run_a,
        run_b=pair.run_b,
        n_matched=len(used),
        n_used=int(used.sum()),
        rho_partial=partial_spearman(cosine, similarity, pair.frequency[used]),  # ranks: the log changes nothing
        rho=spearman(cosine, similarity),
        mean_similarity=matched,
        mean_decoy=decoy,
        lift=None if matched is None or decoy is None else matched - decoy,
        auc=auc(similarity, decoys[~np.isnan(decoys)]),
    )


def _mean_of(found: Sequence[RunPairSimilarity], name: str) -> float | None:
    values = [getattr(pair, name) for pair in found]
    return mean(np.array([value for value in values if value is not None], dtype=np.float64))


def _interval(runs: Sequence[str], found: Sequence[RunPairSimilarity], name: str) -> Interval | None:
    values = np.full((len(runs), len(runs)), np.nan)
    for pair in found:
        value = getattr(pair, name)
        i, j = runs.index(pair.run_a), runs.index(pair.run_b)
        values[i, j] = values[j, i] = np.nan if value is None else value
    if any(np.isnan(values[i, j]) for i, j in combinations(range(len(runs)), 2)):
        return None
    return jackknife(values)


def _table(pairs: Sequence[_Pair]) -> pa.Table:
    tables = []
    for pair in pairs:
        columns = {
            "run_a": pa.array([pair.run_a] * len(pair.left), pa.string()),
            "run_b": pa.array([pair.run_b] * len(pair.left), pa.string()),
            "feature_a": pa.array(pair.left, pa.int64()),
            "feature_b": pa.array(pair.right, pa.int64()),
            "cosine": pa.array(pair.cosine, pa.float64()),
            "frequency": pa.array(pair.frequency, pa.float64()),
            "similarity": pa.array(pair.similarity, pa.float64(), from_pandas=True),
            "decoy_similarity": pa.array(pair.mean_decoy, pa.float64(), from_pandas=True),
            "missing_reason": pa.array(pair.reason, pa.string()),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)
